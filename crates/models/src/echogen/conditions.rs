//! What sampling needs to know of text and subject, computed once and kept: see [`super::condition_cache`].
//!
//! A guidance row is a pair (text, subject), where either may be "nothing". Everything here depends on that pair
//! alone, never on a seed, so all seeds of a job share it, down to the logits of the first scale.

use std::sync::Arc;

use candle_core::Tensor;

use super::block::LayerCondition;
use crate::layers::attention::KeyValue;

/// What depends on the text alone.
#[derive(Debug)]
pub(crate) struct TextCondition {
    /// The pooled text, (1, C).
    pub(crate) vector: Tensor,
    /// Its part of the image gains, (1, 6, C).
    pub(crate) image_gains: Tensor,
    /// Its part of the content gains, (1, 6, C).
    pub(crate) content_gains: Tensor,
    /// Scale and shift of the head's norm, (1, 2, C).
    pub(crate) head_gains: Tensor,
    /// The words' keys and values in every block.
    pub(crate) layers: Vec<TextLayer>,
}

/// The words in one block.
#[derive(Debug)]
pub(crate) struct TextLayer {
    /// For the image stream, (H, T, head_dim).
    pub(crate) words: KeyValue,
    /// For the content stream; none in the last block.
    pub(crate) words_for_content: Option<KeyValue>,
}

/// What depends on the subject alone.
#[derive(Debug)]
pub(crate) struct SubjectCondition {
    /// The projected class token, (1, C).
    pub(crate) vector: Tensor,
    /// Its part of the image gains, (1, 6, C).
    pub(crate) image_gains: Tensor,
    /// Its part of the content gains, (1, 6, C).
    pub(crate) content_gains: Tensor,
    /// The embedded content tokens, (K, C).
    pub(crate) content: Tensor,
    /// The patches' keys and values in every block, (H, S, head_dim).
    pub(crate) patches: Vec<KeyValue>,
}

/// What depends on the pair: the content tower, and the image stream up to the first drawn bit.
#[derive(Debug)]
pub(crate) struct RowCondition {
    /// The text.
    pub(crate) text: Arc<TextCondition>,
    /// Image gains without the blocks' own, (1, 6, C).
    pub(crate) gains: Tensor,
    /// What the image tokens read in every block.
    pub(crate) layers: Vec<LayerCondition>,
    /// The first scale: keys and values of the global and the text token in every block, (H, 2, head_dim).
    pub(crate) first_keys: Vec<KeyValue>,
    /// The head's output for the first scale, (1, 2d).
    pub(crate) first_logits: Tensor,
}

fn bytes(tensors: &[&Tensor]) -> usize {
    tensors.iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
}

impl TextCondition {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let layers =
            |layer: &TextLayer| layer.words.bytes() + layer.words_for_content.as_ref().map_or(0, KeyValue::bytes);
        bytes(&[&self.vector, &self.image_gains, &self.content_gains, &self.head_gains])
            + self.layers.iter().map(layers).sum::<usize>()
    }
}

impl SubjectCondition {
    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&[&self.vector, &self.image_gains, &self.content_gains, &self.content])
            + self.patches.iter().map(KeyValue::bytes).sum::<usize>()
    }
}

impl RowCondition {
    /// Bytes held beyond those of the text and the subject.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&[&self.gains, &self.first_logits])
            + self.layers.iter().map(|layer| layer.content.bytes()).sum::<usize>()
            + self.first_keys.iter().map(KeyValue::bytes).sum::<usize>()
    }
}
