//! Settings, as published in `config.json`.

use candle_core::{Result, bail};
use serde::Deserialize;

/// Settings, as published in `config.json`; what the file leaves out has the default of the reference's class.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct SamConfig {
    /// The picture's encoder.
    pub vision_config: SamVisionConfig,
    /// The decoder.
    pub mask_decoder_config: SamMaskDecoderConfig,
}

/// Settings of the picture's encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct SamVisionConfig {
    /// Width.
    pub hidden_size: usize,
    /// Width of what comes out.
    pub output_channels: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Channels of the picture.
    pub num_channels: usize,
    /// Side of the picture in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Inner width of the feed-forward in units of the width, where `mlp_dim` does not say.
    pub mlp_ratio: f64,
    /// Inner width of the feed-forward.
    pub mlp_dim: Option<usize>,
    /// Added to the variance in the blocks' norms.
    pub layer_norm_eps: f64,
    /// Whether query, key and value have a bias.
    pub qkv_bias: bool,
    /// Whether a table of positions is added to the patches.
    pub use_abs_pos: bool,
    /// Whether blocks have tables of relative positions; without them the network is refused.
    pub use_rel_pos: bool,
    /// Side of a window in patches.
    pub window_size: usize,
    /// Blocks that see the whole picture.
    pub global_attn_indexes: Vec<usize>,
    /// Half the width of the positions of points.
    pub num_pos_feats: usize,
}

impl Default for SamVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            output_channels: 256,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 1024,
            patch_size: 16,
            mlp_ratio: 4.0,
            mlp_dim: None,
            layer_norm_eps: 1e-6,
            qkv_bias: true,
            use_abs_pos: true,
            use_rel_pos: true,
            window_size: 14,
            global_attn_indexes: vec![2, 5, 8, 11],
            num_pos_feats: 128,
        }
    }
}

/// Settings of the decoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct SamMaskDecoderConfig {
    /// Width.
    pub hidden_size: usize,
    /// Inner width of the feed-forward.
    pub mlp_dim: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// By how much attention between points and picture is narrower.
    pub attention_downsample_rate: usize,
    /// Masks for a prompt that may mean several things.
    pub num_multimask_outputs: usize,
    /// Layers of the head that rates masks.
    pub iou_head_depth: usize,
    /// Width of the head that rates masks.
    pub iou_head_hidden_dim: usize,
    /// Added to the variance in the norms.
    pub layer_norm_eps: f64,
}

impl Default for SamMaskDecoderConfig {
    fn default() -> Self {
        Self {
            hidden_size: 256,
            mlp_dim: 2048,
            num_hidden_layers: 2,
            num_attention_heads: 8,
            attention_downsample_rate: 2,
            num_multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden_dim: 256,
            layer_norm_eps: 1e-6,
        }
    }
}

impl SamConfig {
    pub(super) fn check(&self) -> Result<()> {
        let (vision, decoder) = (&self.vision_config, &self.mask_decoder_config);
        let heads = vision.num_attention_heads;
        if !vision.use_rel_pos || vision.window_size == 0 || vision.patch_size == 0 {
            bail!("only SAM encoders with relative positions and windows can be loaded, got {vision:?}");
        }
        if heads == 0 || !vision.hidden_size.is_multiple_of(2 * heads) {
            bail!("hidden_size {} does not divide into {heads} heads", vision.hidden_size);
        }
        let inner = decoder.hidden_size / decoder.attention_downsample_rate.max(1);
        if decoder.num_attention_heads == 0 || !inner.is_multiple_of(2 * decoder.num_attention_heads) {
            bail!("{inner} channels do not divide into {} heads", decoder.num_attention_heads);
        }
        let width = decoder.hidden_size;
        if vision.output_channels != width || 2 * vision.num_pos_feats != width || !width.is_multiple_of(8) {
            bail!("encoder and decoder of SAM have different widths: {} and {width}", vision.output_channels);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_published_file_is_read() {
        let config: SamConfig = serde_json::from_str(r#"{"model_type": "sam", "vision_config": {}}"#).unwrap();
        assert_eq!(config, SamConfig::default());
        config.check().unwrap();
        let narrow: SamConfig = serde_json::from_str(r#"{"mask_decoder_config": {"hidden_size": 64}}"#).unwrap();
        assert!(narrow.check().is_err());
    }
}
