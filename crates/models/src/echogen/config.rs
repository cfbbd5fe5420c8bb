//! Configuration of the transformer.

use serde::{Deserialize, Serialize};

/// Greatest size of a network along any axis: a thousand times the published ones', and products of several still are numbers.
const MAX_SIZE: usize = 1 << 20;

/// Greatest number of blocks of a network.
const MAX_DEPTH: usize = 1 << 12;

/// Checks that no size is absurd, before anything is reckoned with it. The error names the field.
pub(crate) fn check_sizes<'a>(sizes: impl IntoIterator<Item = (&'a str, usize)>) -> Result<(), String> {
    let most = |name: &str| {
        if name.ends_with("depth") || name.ends_with("layers") || name.ends_with("blocks") {
            MAX_DEPTH
        } else {
            MAX_SIZE
        }
    };
    match sizes.into_iter().find(|(name, size)| *size > most(name)) {
        Some((name, size)) => Err(format!("{name} is {size}; give at most {}", most(name))),
        None => Ok(()),
    }
}

/// Sizes of an EchoGen transformer. The published ones are [`EchoGenConfig::layer12`] and
/// [`EchoGenConfig::echogen_2b`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EchoGenConfig {
    /// Number of blocks.
    pub depth: usize,
    /// Width C of both streams.
    pub dim: usize,
    /// Number of attention heads H.
    pub heads: usize,
    /// Number of groups (chunks) in which the checkpoint stores the blocks.
    pub block_chunks: usize,
    /// Bits per token, d.
    pub bits: usize,
    /// Channels of the text features.
    pub text_channels: usize,
    /// Rows of the learned "no text" table, which is the maximum number of text tokens.
    pub text_maxlen: usize,
    /// Number of content tokens K.
    pub content_len: usize,
    /// Channels of a content token.
    pub content_dim: usize,
    /// Number of semantic tokens: one global token and S patches.
    pub semantic_len: usize,
    /// Channels of a semantic token.
    pub semantic_dim: usize,
    /// Inner width of the MLPs as a multiple of C, before rounding to a multiple of 256.
    pub mlp_ratio: f64,
    /// Rows of the level embedding.
    pub levels: usize,
    /// Epsilon of every norm.
    pub norm_eps: f64,
    /// Whether the level embedding is added once before the first block, or before every chunk.
    pub level_embed_once: bool,
}

impl Default for EchoGenConfig {
    fn default() -> Self {
        Self::layer12()
    }
}

impl EchoGenConfig {
    /// The published 125M model (`echogen_layer12`).
    pub fn layer12() -> Self {
        Self {
            depth: 12,
            dim: 768,
            heads: 8,
            block_chunks: 4,
            bits: 16,
            text_channels: 2048,
            text_maxlen: 512,
            content_len: 1024,
            content_dim: 16,
            semantic_len: 257,
            semantic_dim: 768,
            mlp_ratio: 4.0,
            levels: 15,
            norm_eps: 1e-6,
            level_embed_once: true,
        }
    }

    /// The published 2B model (`echogen_2b`).
    pub fn echogen_2b() -> Self {
        Self {
            depth: 32,
            dim: 2048,
            heads: 16,
            block_chunks: 8,
            bits: 32,
            content_len: 4096,
            semantic_len: 1025,
            ..Self::layer12()
        }
    }

    /// Returns the width of a head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Returns the inner width of the MLPs.
    pub fn hidden(&self) -> usize {
        (self.dim as f64 * self.mlp_ratio / 256.0).round_ties_even() as usize * 256
    }

    /// Returns the number of heads of the attention pooling over the text.
    pub fn pool_heads(&self) -> usize {
        self.text_channels / if self.dim > 4096 { 64 } else { 128 }
    }

    /// Returns the number of blocks in a chunk.
    pub fn chunk_depth(&self) -> usize {
        self.depth / self.block_chunks
    }

    /// Returns the prefix of block `index` in the checkpoint.
    pub fn block_prefix(&self, index: usize) -> String {
        match self.block_chunks {
            1 => format!("blocks.{index}"),
            _ => format!("block_chunks.{}.module.{}", index / self.chunk_depth(), index % self.chunk_depth()),
        }
    }

    /// Checks that the sizes are divisible as required. The error states the numbers.
    pub fn validate(&self) -> Result<(), String> {
        let Self { depth, dim, heads, block_chunks, text_channels, .. } = *self;
        let at_least = [
            ("depth", depth, 1),
            ("dim", dim, 1),
            ("heads", heads, 1),
            ("block_chunks", block_chunks, 1),
            ("bits", self.bits, 1),
            ("text_maxlen", self.text_maxlen, 1),
            ("content_len", self.content_len, 1),
            ("content_dim", self.content_dim, 1),
            // The global token and a patch.
            ("semantic_len", self.semantic_len, 2),
            ("semantic_dim", self.semantic_dim, 1),
            ("levels", self.levels, 1),
        ];
        if let Some((name, size, least)) = at_least.into_iter().find(|(_, size, least)| size < least) {
            return Err(format!("{name} is {size}; give at least {least}"));
        }
        let sizes = at_least.into_iter().map(|(name, size, _)| (name, size)).chain([("text_channels", text_channels)]);
        check_sizes(sizes)?;
        if !(self.mlp_ratio > 0.0 && self.mlp_ratio <= 64.0) {
            return Err(format!("mlp_ratio is {}; give a number above 0 and up to 64", self.mlp_ratio));
        }
        if dim % heads != 0 || !(dim / heads).is_multiple_of(4) {
            return Err(format!("dim {dim} over {heads} heads must give a multiple of 4 channels a head"));
        }
        if depth % block_chunks != 0 {
            return Err(format!("depth {depth} does not divide into {block_chunks} chunks"));
        }
        let pool_heads = self.pool_heads();
        if pool_heads == 0 || dim % pool_heads != 0 {
            return Err(format!(
                "text_channels {text_channels} give {pool_heads} pooling heads, which must divide dim {dim}"
            ));
        }
        if self.hidden() == 0 {
            return Err(format!("mlp_ratio {} of dim {dim} rounds to no multiple of 256", self.mlp_ratio));
        }
        Ok(())
    }
}
