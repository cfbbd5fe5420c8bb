//! Configuration, as in the published `config.json`.

use candle_core::{Result, bail};
use serde::Deserialize;

/// Configuration, as in the published `config.json`. Fields absent from the file take the defaults of the reference
/// class.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct SamConfig {
    /// The image encoder.
    pub vision_config: SamVisionConfig,
    /// The mask decoder.
    pub mask_decoder_config: SamMaskDecoderConfig,
}

/// Configuration of the image encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct SamVisionConfig {
    /// Width.
    pub hidden_size: usize,
    /// Number of output channels.
    pub output_channels: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Number of channels of the picture.
    pub num_channels: usize,
    /// Side of the picture in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Inner width of the MLP as a multiple of the width, used if `mlp_dim` is absent.
    pub mlp_ratio: f64,
    /// Inner width of the MLP.
    pub mlp_dim: Option<usize>,
    /// Epsilon of the blocks' layer norms.
    pub layer_norm_eps: f64,
    /// Whether query, key and value have a bias.
    pub qkv_bias: bool,
    /// Whether an absolute position table is added to the patches.
    pub use_abs_pos: bool,
    /// Whether blocks have relative position tables; networks without them are rejected.
    pub use_rel_pos: bool,
    /// Side of a window in patches.
    pub window_size: usize,
    /// Indices of the blocks with global attention.
    pub global_attn_indexes: Vec<usize>,
    /// Half the width of the position encoding of points.
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

/// Configuration of the mask decoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct SamMaskDecoderConfig {
    /// Width.
    pub hidden_size: usize,
    /// Inner width of the MLP.
    pub mlp_dim: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Divisor of the inner width of the attention between tokens and image.
    pub attention_downsample_rate: usize,
    /// Number of masks for an ambiguous prompt.
    pub num_multimask_outputs: usize,
    /// Number of layers of the IoU head.
    pub iou_head_depth: usize,
    /// Width of the IoU head.
    pub iou_head_hidden_dim: usize,
    /// Epsilon of the layer norms.
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
