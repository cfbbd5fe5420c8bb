//! The naming schemes of tensors in published checkpoints.

use candle_nn::VarBuilder;

/// A naming scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `down_blocks.0.resnets.0…`: diffusers. The decoder numbers its levels from the lowest resolution.
    Diffusers,
    /// `down.0.block.0…`: FLUX's `ae.safetensors`. The decoder numbers its levels from the full resolution.
    Levels,
    /// As [`Names::Levels`], with each layer in a wrapper: `conv1.conv.weight`, `norm1.norm.weight`.
    WrappedLevels,
}

impl Names {
    pub(super) fn is_diffusers(self) -> bool {
        self == Self::Diffusers
    }

    pub(super) fn shortcut(self) -> &'static str {
        if self.is_diffusers() { "conv_shortcut" } else { "nin_shortcut" }
    }

    pub(super) fn norm_out(self) -> &'static str {
        if self.is_diffusers() { "conv_norm_out" } else { "norm_out" }
    }

    pub(super) fn conv<'a>(self, vb: &VarBuilder<'a>) -> VarBuilder<'a> {
        if self == Self::WrappedLevels { vb.pp("conv") } else { vb.clone() }
    }

    pub(super) fn norm<'a>(self, vb: &VarBuilder<'a>) -> VarBuilder<'a> {
        if self == Self::WrappedLevels { vb.pp("norm") } else { vb.clone() }
    }

    pub(super) fn level(self, direction: &str, index: usize) -> String {
        if self.is_diffusers() { format!("{direction}_blocks.{index}") } else { format!("{direction}.{index}") }
    }

    pub(super) fn block(self, index: usize) -> String {
        if self.is_diffusers() { format!("resnets.{index}") } else { format!("block.{index}") }
    }

    /// Returns the name of a level's resampling convolution; `direction` is "down" or "up".
    pub(super) fn resampling(self, direction: &str) -> String {
        if self.is_diffusers() { format!("{direction}samplers.0.conv") } else { format!("{direction}sample.conv") }
    }

    pub(super) fn middle_block(self, index: usize) -> String {
        if self.is_diffusers() { format!("mid_block.resnets.{index}") } else { format!("mid.block_{}", index + 1) }
    }

    pub(super) fn middle_attention(self) -> &'static str {
        if self.is_diffusers() { "mid_block.attentions.0" } else { "mid.attn_1" }
    }
}
