//! What a batch takes beside the weights, in bytes: key-value caches, conditions, and working memory.
//!
//! Caches and conditions are counted exactly. Working memory is what is allocated at once at the worst moment of a scale, of
//! the content stream or of decoding, counted along the code of the layers; the constants below say what they count, and
//! change with it.

use candle_core::DType;
use serde::Serialize;

use super::shapes::decoder_widths;
use crate::{
    echogen::{EchoGenConfig, Schedule},
    layers::{
        attention::{FUSED_HEAD_DIMS, SCORES_BYTES},
        conv::PATCHES_BYTES,
    },
    sizes::SubjectTokens,
    visual_tokenizer::TokenizerConfig,
};

/// Bytes of a float32.
const F32: u64 = 4;

/// Tensors (tokens, C) in float32 that are alive while a block's MLP runs: the caller's stream, those after attention and
/// cross-attention, the normed one.
const STREAMS: u64 = 4;

/// Tensors (tokens, hidden) in the block's type while the MLP's activation ends: product, with bias, result.
const HIDDEN_REDUCED: u64 = 3;

/// The same in float32: before and after the activation.
const HIDDEN_EXACT: u64 = 2;

/// Tensors (tokens, C) in the block's type when the attention of all rows has ended: three projections and their heads; for
/// either attention the rows' results and all joined, the second one's projection, their sum, and its projection.
const PROJECTIONS: u64 = 6 + 4 + 3;

/// Tensors (heads, queries, keys) in float32 of one row's attention: scores, scaled scores, weights.
const SCORES: u64 = 3;

/// Maps of the size of a convolution's result that are alive while it ends: product, reordered, with bias.
const CONV_RESULTS: u64 = 3;

/// Taps of a convolution whose inputs are unrolled.
const TAPS: u64 = 9;

/// Float32 maps while a group norm ends: input, centred, result, activation.
const NORM_MAPS: u64 = 4;

/// How the device computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The type of the large networks.
    pub dtype: DType,
    /// How much the layers keep at once.
    pub layers: Layers,
    /// What attention keeps of its scores.
    pub scores: Scores,
}

/// How much the layers keep at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// They work in place and in bands, as our loops on a CPU do.
    InPlace,
    /// One result each, and a convolution's unrolled inputs in bands, as our kernels on a GPU have it.
    Fused,
    /// A result for each operation.
    Single,
}

/// What attention keeps of its scores at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// Those of all queries of a row, once for each of several operations.
    All,
    /// As our kernels on a GPU have it: none where one kernel takes heads of this size, otherwise those of a band of queries, in
    /// at most that many bytes of float32, and the weights that they become.
    Bands(u64),
    /// None, or only those that fit into the processor's cache.
    None,
}

impl Scores {
    /// Returns what is kept with heads of that size.
    pub(super) fn of_heads(self, head_dim: usize) -> Self {
        match self {
            Self::Bands(_) if FUSED_HEAD_DIMS.contains(&head_dim) => Self::None,
            kept => kept,
        }
    }
}

impl Work {
    /// Returns how the layers of this program compute on a CPU or on a GPU.
    pub fn of(is_cpu: bool, dtype: DType) -> Self {
        match (is_cpu, dtype) {
            (true, DType::F32) => Self { dtype, layers: Layers::InPlace, scores: Scores::None },
            (true, _) => Self { dtype, layers: Layers::Single, scores: Scores::All },
            (false, _) => Self { dtype, layers: Layers::Fused, scores: Scores::Bands(SCORES_BYTES as u64) },
        }
    }
}

/// Bytes of one guidance row's conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConditionBytes {
    /// Of the pair: the content stream's keys and values, and the first scale.
    pub row: u64,
    /// Of the text alone.
    pub text: u64,
    /// Of the subject alone.
    pub subject: u64,
}

impl ConditionBytes {
    /// All of them: what a row holds if it shares nothing with another.
    pub fn all(&self) -> u64 {
        self.row + self.text + self.subject
    }
}

/// The sizes that decide what a batch of one schedule takes.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The transformer's sizes.
    pub transformer: &'a EchoGenConfig,
    /// The tokenizer's sizes.
    pub tokenizer: &'a TokenizerConfig,
    /// The pictures' scales.
    pub schedule: &'a Schedule,
    /// The subjects' tokens.
    pub subject: SubjectTokens,
    /// How the device computes.
    pub work: Work,
}

impl Demand<'_> {
    /// Bytes of the key-value caches of one guidance row.
    pub fn kv_bytes(&self) -> u64 {
        let tokens = self.schedule.image_tokens() as u64 + 1;
        self.keys_and_values() * self.transformer.depth as u64 * tokens
    }

    /// Bytes of one guidance row's conditions with a text of that many tokens.
    pub fn condition_bytes(&self, text_tokens: usize) -> ConditionBytes {
        let size = self.transformer;
        let [c, depth, bits] = [size.dim, size.depth, size.bits].map(|count| count as u64);
        let [content, patches] = [self.subject.content, self.subject.patches].map(|count| count as u64);
        let (each, text_tokens) = (self.keys_and_values(), text_tokens as u64);
        let gains = 6 * c * F32;
        ConditionBytes {
            // The gains are added to each block's own once for all scales; the first scale has two tokens.
            row: depth * gains + 2 * bits * F32 + each * depth * (content + 2),
            // Words for the image stream in every block, for the content stream in all but the last.
            text: (c + 2 * c) * F32 + 2 * gains + each * text_tokens * (2 * depth - 1),
            subject: c * F32 + 2 * gains + c * content * F32 + each * depth * patches,
        }
    }

    /// Bytes of working memory of a batch with that many guidance rows.
    pub fn working_bytes(&self, rows: u64) -> u64 {
        self.sampling_bytes(rows).max(self.decoding_bytes())
    }

    /// Bytes of working memory while scales are sampled and conditions are computed, beside the caches.
    pub fn sampling_bytes(&self, rows: u64) -> u64 {
        let (height, width) = self.schedule.last();
        let (tokens, keys) = ((height * width) as u64, self.schedule.image_tokens() as u64 + 1);
        let content = self.subject.content as u64;
        let image = self.mlp(rows * tokens).max(self.attention(rows * tokens) + self.scores(tokens, keys));
        // The content stream runs row by row.
        let stream = self.mlp(content).max(self.attention(content) + self.scores(content, content));
        image.max(stream)
    }

    /// Bytes of a key and a value of one token in one block.
    fn keys_and_values(&self) -> u64 {
        2 * self.transformer.dim as u64 * self.element()
    }

    /// Bytes of an element in the type that is computed in.
    fn element(&self) -> u64 {
        self.work.dtype.size_in_bytes() as u64
    }

    /// Bytes of an element that is converted to that type, none if it has it.
    fn converted(&self) -> u64 {
        if self.work.dtype == DType::F32 { 0 } else { self.element() }
    }

    fn mlp(&self, tokens: u64) -> u64 {
        let size = self.transformer;
        let hidden = match self.work.layers {
            Layers::InPlace => F32,
            Layers::Fused | Layers::Single => HIDDEN_REDUCED * self.element() + HIDDEN_EXACT * F32,
        };
        tokens * (STREAMS * F32 * size.dim as u64 + hidden * size.hidden() as u64)
    }

    fn attention(&self, tokens: u64) -> u64 {
        tokens * self.transformer.dim as u64 * (2 * F32 + PROJECTIONS * self.element())
    }

    /// The scores of one row's attention, which are computed row by row where they are kept.
    fn scores(&self, queries: u64, keys: u64) -> u64 {
        let count = self.transformer.heads as u64 * queries * keys;
        match self.work.scores.of_heads(self.transformer.head_dim()) {
            Scores::All => count * (SCORES * F32 + self.converted()),
            Scores::Bands(bytes) => count.min(bytes / F32) * (F32 + self.converted()),
            Scores::None => 0,
        }
    }

    /// Bytes of working memory while a picture is decoded; pictures are decoded one by one.
    pub fn decoding_bytes(&self) -> u64 {
        let widths = decoder_widths(self.tokenizer);
        let (height, width) = self.schedule.last();
        let base = (height * width) as u64;
        let levels = widths.iter().enumerate().map(|(level, own)| {
            let below = widths.get(level + 1).copied().unwrap_or(*own) as u64;
            // Level 0 is full resolution; each further one halves both sides.
            let pixels = base << (2 * (widths.len() - 1 - level));
            let (own, element) = (*own as u64, self.element());
            // The doubled map of the level below, then the first block.
            let convolution = |outputs| self.convolution(pixels, below, outputs, element);
            convolution(below).max(convolution(own)).max(pixels * self.norm(below.max(own), element))
        });
        let full = base << (2 * widths.len().saturating_sub(1));
        let last = widths.first().copied().unwrap_or_default() as u64;
        // The last convolution is in float32.
        levels.max().unwrap_or_default().max(self.convolution(full, last, 3, F32))
    }

    /// Bytes of a 3x3 convolution in a residual block: its input and the block's, and its result.
    fn convolution(&self, pixels: u64, inputs: u64, outputs: u64, element: u64) -> u64 {
        let maps = 2 * inputs + outputs;
        let unrolled = pixels * element * inputs * TAPS;
        match self.work.layers {
            Layers::InPlace => pixels * F32 * maps,
            Layers::Fused => pixels * element * maps + unrolled.min(PATCHES_BYTES as u64),
            Layers::Single => pixels * element * (2 * inputs + CONV_RESULTS * outputs) + unrolled,
        }
    }

    fn norm(&self, channels: u64, element: u64) -> u64 {
        match self.work.layers {
            Layers::InPlace => F32 * 2 * channels,
            // The block's input, the norm's, and its result.
            Layers::Fused => element * 3 * channels,
            Layers::Single => channels * (2 * element + NORM_MAPS * F32),
        }
    }
}
