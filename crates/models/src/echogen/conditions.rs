//! Conditions: everything that sampling derives from text and subject, computed once and cached in
//! [`super::condition_cache`].
//!
//! A guidance row is a pair (text, subject), where either may be the learned "nothing". Conditions depend on that pair
//! only, never on a seed, so all seeds of a job share them, including the logits of the first scale.

use std::sync::Arc;

use candle_core::Tensor;

use super::block::LayerCondition;
use crate::layers::attention::KeyValue;

/// Conditions that depend on the text only.
#[derive(Debug)]
pub(crate) struct TextCondition {
    /// The pooled text, (1, C).
    pub(crate) vector: Tensor,
    /// Contribution of the text to the image gains, (1, 6, C).
    pub(crate) image_gains: Tensor,
    /// Contribution of the text to the content gains, (1, 6, C).
    pub(crate) content_gains: Tensor,
    /// Scale and shift of the head's norm, (1, 2, C).
    pub(crate) head_gains: Tensor,
    /// Keys and values of the text tokens in every block.
    pub(crate) layers: Vec<TextLayer>,
}

/// Keys and values of the text tokens in one block.
#[derive(Debug)]
pub(crate) struct TextLayer {
    /// For the image stream, (H, T, head_dim).
    pub(crate) words: KeyValue,
    /// For the content stream; `None` in the last block.
    pub(crate) words_for_content: Option<KeyValue>,
}

/// Conditions that depend on the subject only.
#[derive(Debug)]
pub(crate) struct SubjectCondition {
    /// The projected class token, (1, C).
    pub(crate) vector: Tensor,
    /// Contribution of the subject to the image gains, (1, 6, C).
    pub(crate) image_gains: Tensor,
    /// Contribution of the subject to the content gains, (1, 6, C).
    pub(crate) content_gains: Tensor,
    /// The embedded content tokens, (K, C).
    pub(crate) content: Tensor,
    /// Keys and values of the patches in every block, (H, S, head_dim).
    pub(crate) patches: Vec<KeyValue>,
}

/// Conditions that depend on the pair: the content stream, and the image stream up to the logits of the first scale.
#[derive(Debug)]
pub(crate) struct RowCondition {
    /// The text.
    pub(crate) text: Arc<TextCondition>,
    /// Image gains, including the blocks' own, (1, depth, 6, C).
    pub(crate) gains: Tensor,
    /// Keys and values that the image tokens attend to, in every block.
    pub(crate) layers: Vec<LayerCondition>,
    /// Keys and values of the first scale, which holds the global and the text token, in every block, (H, 2,
    /// head_dim).
    pub(crate) first_keys: Vec<KeyValue>,
    /// The head's output for the first scale, (1, 2d).
    pub(crate) first_logits: Tensor,
}

fn bytes(tensors: &[&Tensor]) -> usize {
    tensors.iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
}

impl TextCondition {
    /// Memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let layers =
            |layer: &TextLayer| layer.words.bytes() + layer.words_for_content.as_ref().map_or(0, KeyValue::bytes);
        bytes(&[&self.vector, &self.image_gains, &self.content_gains, &self.head_gains])
            + self.layers.iter().map(layers).sum::<usize>()
    }
}

impl SubjectCondition {
    /// Memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&[&self.vector, &self.image_gains, &self.content_gains, &self.content])
            + self.patches.iter().map(KeyValue::bytes).sum::<usize>()
    }
}

impl RowCondition {
    /// Memory in bytes, excluding that of the text and subject conditions.
    pub(crate) fn bytes(&self) -> usize {
        bytes(&[&self.gains, &self.first_logits])
            + self.layers.iter().map(|layer| layer.content.bytes()).sum::<usize>()
            + self.first_keys.iter().map(KeyValue::bytes).sum::<usize>()
    }
}
