//! DINO's vision transformer (arXiv 2104.14294, ViT-S/16), the subject fidelity metric that the DreamBooth paper
//! prefers.
//!
//! Layers and tensor names are those of `ViTModel` in transformers, as in the files of `facebook/dino-vits16`. The
//! layers come from candle-transformers; its complete model is not used because it requires a classifier head.
//! Pictures are preprocessed as in DINO's evaluation (`eval_knn.py` of facebookresearch/dino): shorter side resized to
//! 256 (bicubic), centre crop of 224, ImageNet's mean and standard deviation. The preprocessor published with the
//! weights resizes to a square instead, which would change the subject's proportions.

use std::path::Path;

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::{Activation, LayerNorm, VarBuilder};
use candle_transformers::models::vit;
use image::RgbImage;
use serde::Deserialize;

use super::{Direction, Normalization, error::SimilarityError, published::Published};
use echogen_imaging::{Filter, shorter_side_and_crop};

/// ImageNet's channel means and standard deviations.
const IMAGENET: Normalization = Normalization { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };

/// (Shorter side before the centre crop, network input side). Scaled in proportion for other input sides.
const RESIZED: (u32, u32) = (256, 224);

/// The configuration, as in the published `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct DinoConfig {
    /// Width of a token.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Inner width of the MLP.
    pub intermediate_size: usize,
    /// Activation of the MLP.
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Side of the input pictures in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Number of colour channels.
    pub num_channels: usize,
    /// Whether query, key and value projections have biases.
    pub qkv_bias: bool,
}

impl Default for DinoConfig {
    /// ViT-S/16, as in `facebook/dino-vits16`.
    fn default() -> Self {
        Self {
            hidden_size: 384,
            num_hidden_layers: 12,
            num_attention_heads: 6,
            intermediate_size: 1536,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            qkv_bias: true,
        }
    }
}

impl DinoConfig {
    fn check(&self) -> std::result::Result<(), String> {
        let Self { hidden_size, num_attention_heads: heads, image_size, patch_size, num_channels, .. } = *self;
        if heads == 0 || !hidden_size.is_multiple_of(heads) {
            return Err(format!("hidden_size {hidden_size} is not a multiple of {heads} heads"));
        }
        if patch_size == 0 || image_size == 0 || !image_size.is_multiple_of(patch_size) || image_size > 4_096 {
            return Err(format!("pictures of {image_size} pixels cannot be cut into patches of {patch_size}"));
        }
        if num_channels != 3 {
            return Err(format!("num_channels is {num_channels}; pictures have 3"));
        }
        Ok(())
    }

    fn layers(&self) -> vit::Config {
        vit::Config {
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            image_size: self.image_size,
            patch_size: self.patch_size,
            num_channels: self.num_channels,
            qkv_bias: self.qkv_bias,
        }
    }
}

/// The network.
#[derive(Debug, Clone)]
pub struct Dino {
    embeddings: vit::Embeddings,
    encoder: vit::Encoder,
    layernorm: LayerNorm,
    image_size: u32,
    device: Device,
}

impl Dino {
    /// Loads the network from a folder with `config.json` and `model.safetensors` (or `pytorch_model.bin`).
    ///
    /// # Errors
    ///
    /// A file is missing, belongs to another network, or does not fit.
    pub fn load(folder: &Path, device: &Device) -> std::result::Result<Self, SimilarityError> {
        let published = Published { folder, model: "facebook/dino-vits16", kind: "vit" };
        let config: DinoConfig = published.config()?;
        config.check().map_err(|reason| published.unfit(reason))?;
        let ignored = |name: &str| name.starts_with("pooler.");
        Ok(published.weights()?.load(DType::F32, device, ignored, |vb| Self::new(&vb, &config))?)
    }

    fn new(vb: &VarBuilder, config: &DinoConfig) -> Result<Self> {
        let layers = config.layers();
        Ok(Self {
            embeddings: vit::Embeddings::new(&layers, false, vb.pp("embeddings"))?,
            encoder: vit::Encoder::new(&layers, vb.pp("encoder"))?,
            layernorm: candle_nn::layer_norm(config.hidden_size, config.layer_norm_eps, vb.pp("layernorm"))?,
            image_size: config.image_size as u32,
            device: vb.device().clone(),
        })
    }

    /// Preprocesses a picture: returns (3, side, side).
    ///
    /// # Errors
    ///
    /// The picture has no pixels.
    pub fn prepare(&self, picture: &RgbImage) -> std::result::Result<Tensor, SimilarityError> {
        let (shorter, crop) = (self.image_size * RESIZED.0 / RESIZED.1, self.image_size);
        Ok(IMAGENET.apply(&shorter_side_and_crop(picture, shorter, crop, Filter::Bicubic)?)?)
    }

    /// Returns the layer-normed class tokens (batch, hidden_size) of preprocessed pictures (batch, 3, side, side).
    ///
    /// # Errors
    ///
    /// The pictures have another size, or a tensor operation fails.
    pub fn class_tokens(&self, pictures: &Tensor) -> Result<Tensor> {
        let tokens = self.embeddings.forward(pictures, None, false)?;
        self.layernorm.forward(&self.encoder.forward(&tokens)?.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)
    }

    /// Returns the normalised feature vector of a picture of any size.
    ///
    /// # Errors
    ///
    /// The picture has no pixels, or a tensor operation fails.
    pub fn picture(&self, picture: &RgbImage) -> std::result::Result<Direction, SimilarityError> {
        let prepared = self.prepare(picture)?.unsqueeze(0)?.to_device(&self.device)?;
        Ok(Direction::of(&self.class_tokens(&prepared)?)?)
    }
}
