//! CLIP (arXiv 2103.00020, ViT-B/32): similarity of pictures, and of a picture and a sentence.
//!
//! The network is `clip` of candle-transformers, whose tensor names are those of `CLIPModel` in transformers, as in
//! the files of `openai/clip-vit-base-patch32`. It supports one activation and one norm epsilon; configurations with
//! others are rejected. Pictures are preprocessed as in OpenAI's code: shorter side resized to 224 (bicubic), centre
//! crop, CLIP's mean and standard deviation. Sentences longer than the position table (77 tokens) are truncated.

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use candle_transformers::models::clip::{
    self as layers, ClipModel,
    text_model::{Activation, ClipTextConfig},
    vision_model::ClipVisionConfig,
};
use image::RgbImage;
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationParams};

use super::{Direction, Normalization, error::SimilarityError, published::Published};
use echogen_checkpoint::Checkpoint;
use echogen_imaging::{Filter, shorter_side_and_crop};
use echogen_models::text_encoder::{TextEncoderError, load_tokenizer};

/// CLIP's channel means and standard deviations.
const NORMALIZATION: Normalization = Normalization {
    mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
    deviation: [0.268_629_54, 0.261_302_6, 0.275_777_1],
};

/// File name of the tokenizer.
const TOKENIZER: &str = "tokenizer.json";

/// The activation that the layers of candle-transformers implement.
const HIDDEN_ACT: &str = "quick_gelu";
const LAYER_NORM_EPS: f64 = 1e-5;

/// A tensor that candle-transformers would initialise randomly if it were missing, so its presence is checked.
const CLASS_EMBEDDING: &str = "vision_model.embeddings.class_embedding";

/// The configuration, as in the published `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipConfig {
    /// The text encoder.
    pub text_config: ClipTextSettings,
    /// The vision encoder.
    pub vision_config: ClipVisionSettings,
    /// Width of the features of both encoders.
    pub projection_dim: usize,
}

/// Configuration of the text encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextSettings {
    /// Rows of the token embedding table.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Inner width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Maximum number of tokens of a sentence, including start and end tokens.
    pub max_position_embeddings: usize,
    /// Activation of the MLP.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
}

/// Configuration of the vision encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionSettings {
    /// Width of a token.
    pub hidden_size: usize,
    /// Inner width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Attention heads of a block.
    pub num_attention_heads: usize,
    /// Number of colour channels.
    pub num_channels: usize,
    /// Side of the input pictures in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Activation of the MLP.
    pub hidden_act: String,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
}

impl Default for ClipConfig {
    /// ViT-B/32, as in `openai/clip-vit-base-patch32`.
    fn default() -> Self {
        Self { text_config: Default::default(), vision_config: Default::default(), projection_dim: 512 }
    }
}

impl Default for ClipTextSettings {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: HIDDEN_ACT.to_owned(),
            layer_norm_eps: LAYER_NORM_EPS,
        }
    }
}

impl Default for ClipVisionSettings {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: HIDDEN_ACT.to_owned(),
            layer_norm_eps: LAYER_NORM_EPS,
        }
    }
}

impl ClipConfig {
    fn check(&self) -> std::result::Result<(), String> {
        let Self { text_config: text, vision_config: vision, .. } = self;
        for (half, act, eps, width, heads) in [
            ("text", &text.hidden_act, text.layer_norm_eps, text.hidden_size, text.num_attention_heads),
            ("vision", &vision.hidden_act, vision.layer_norm_eps, vision.hidden_size, vision.num_attention_heads),
        ] {
            if act != HIDDEN_ACT {
                return Err(format!("{half}_config.hidden_act is {act:?}; only {HIDDEN_ACT:?} can be computed"));
            }
            if eps != LAYER_NORM_EPS {
                return Err(format!("{half}_config.layer_norm_eps is {eps}; only {LAYER_NORM_EPS} can be computed"));
            }
            if heads == 0 || !width.is_multiple_of(heads) {
                return Err(format!("{half}_config.hidden_size {width} is not a multiple of {heads} heads"));
            }
        }
        let (side, patch) = (vision.image_size, vision.patch_size);
        if patch == 0 || side == 0 || !side.is_multiple_of(patch) || side > 4_096 {
            return Err(format!("pictures of {side} pixels cannot be cut into patches of {patch}"));
        }
        if vision.num_channels != 3 {
            return Err(format!("vision_config.num_channels is {}; pictures have 3", vision.num_channels));
        }
        if text.max_position_embeddings < 3 {
            return Err(format!("max_position_embeddings {} leaves no room for words", text.max_position_embeddings));
        }
        Ok(())
    }

    fn layers(&self) -> layers::ClipConfig {
        let Self { text_config: text, vision_config: vision, projection_dim } = self;
        layers::ClipConfig {
            text_config: ClipTextConfig {
                vocab_size: text.vocab_size,
                embed_dim: text.hidden_size,
                activation: Activation::QuickGelu,
                intermediate_size: text.intermediate_size,
                max_position_embeddings: text.max_position_embeddings,
                pad_with: None,
                num_hidden_layers: text.num_hidden_layers,
                num_attention_heads: text.num_attention_heads,
                projection_dim: *projection_dim,
            },
            vision_config: ClipVisionConfig {
                embed_dim: vision.hidden_size,
                activation: Activation::QuickGelu,
                intermediate_size: vision.intermediate_size,
                num_hidden_layers: vision.num_hidden_layers,
                num_attention_heads: vision.num_attention_heads,
                projection_dim: *projection_dim,
                num_channels: vision.num_channels,
                image_size: vision.image_size,
                patch_size: vision.patch_size,
            },
            logit_scale_init_value: 0.0, // of no use here: cosines are not scaled
            image_size: vision.image_size,
        }
    }
}

/// Both encoders, and the tokenizer.
#[derive(Debug)]
pub struct Clip {
    model: ClipModel,
    tokenizer: Tokenizer,
    image_size: u32,
    device: Device,
}

impl Clip {
    /// Loads the network from a folder with `config.json`, `tokenizer.json` and `model.safetensors` (or
    /// `pytorch_model.bin`).
    ///
    /// # Errors
    ///
    /// A file is missing, belongs to another network, or does not fit.
    pub fn load(folder: &Path, device: &Device) -> std::result::Result<Self, SimilarityError> {
        let published = Published { folder, model: "openai/clip-vit-base-patch32", kind: "clip" };
        let config: ClipConfig = published.config()?;
        config.check().map_err(|reason| published.unfit(reason))?;
        let tokenizer = folder.join(TOKENIZER);
        if !tokenizer.is_file() {
            return Err(published.missing(TOKENIZER));
        }
        let tokenizer = tokenizer_of(&tokenizer, &config.text_config)?;
        let model = model(&published.weights()?, device, &config)?;
        Ok(Self { model, tokenizer, image_size: config.vision_config.image_size as u32, device: device.clone() })
    }

    /// Preprocesses a picture: returns (3, side, side).
    ///
    /// # Errors
    ///
    /// The picture has no pixels.
    pub fn prepare(&self, picture: &RgbImage) -> std::result::Result<Tensor, SimilarityError> {
        let side = self.image_size;
        Ok(NORMALIZATION.apply(&shorter_side_and_crop(picture, side, side, Filter::Bicubic)?)?)
    }

    /// Returns the features (batch, projection_dim), not normalised, of preprocessed pictures (batch, 3, side, side).
    ///
    /// # Errors
    ///
    /// The pictures have another size, or a tensor operation fails.
    pub fn image_features(&self, pictures: &Tensor) -> Result<Tensor> {
        self.model.get_image_features(pictures)
    }

    /// Returns the token ids of a sentence, including start and end tokens.
    ///
    /// # Errors
    ///
    /// The tokenizer rejects the sentence.
    pub fn tokenize(&self, sentence: &str) -> std::result::Result<Vec<u32>, SimilarityError> {
        let encoding = self.tokenizer.encode_fast(sentence, true).map_err(TextEncoderError::Tokenize)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the features (1, projection_dim) of a sentence, not normalised.
    ///
    /// # Errors
    ///
    /// The tokenizer rejects the sentence, or a tensor operation fails.
    pub fn text_features(&self, sentence: &str) -> std::result::Result<Tensor, SimilarityError> {
        let ids = Tensor::new(self.tokenize(sentence)?, &self.device)?.unsqueeze(0)?;
        Ok(self.model.get_text_features(&ids)?)
    }

    /// Returns the normalised feature vector of a picture of any size.
    ///
    /// # Errors
    ///
    /// The picture has no pixels, or a tensor operation fails.
    pub fn picture(&self, picture: &RgbImage) -> std::result::Result<Direction, SimilarityError> {
        let prepared = self.prepare(picture)?.unsqueeze(0)?.to_device(&self.device)?;
        Ok(Direction::of(&self.image_features(&prepared)?)?)
    }

    /// Returns the normalised feature vector of a sentence, for comparison with those of pictures.
    ///
    /// # Errors
    ///
    /// As [`text_features`](Self::text_features).
    pub fn sentence(&self, sentence: &str) -> std::result::Result<Direction, SimilarityError> {
        Ok(Direction::of(&self.text_features(sentence)?)?)
    }
}

fn model(
    weights: &Checkpoint,
    device: &Device,
    config: &ClipConfig,
) -> std::result::Result<ClipModel, SimilarityError> {
    // Buffers of older files, and tensors that only training needs.
    let ignored = |name: &str| name.ends_with("embeddings.position_ids") || name == "logit_scale";
    Ok(weights.load(DType::F32, device, ignored, |vb| {
        vb.get(config.vision_config.hidden_size, CLASS_EMBEDDING)?;
        ClipModel::new(vb, &config.layers())
    })?)
}

/// Loads the tokenizer and sets truncation to the length of the position table. The network reads a sentence's
/// features at its largest token id, so the end token must have the largest id and come last.
fn tokenizer_of(path: &Path, config: &ClipTextSettings) -> std::result::Result<Tokenizer, SimilarityError> {
    let mut tokenizer = load_tokenizer(path)?;
    let other = |reason: String| SimilarityError::OtherTokenizer { path: path.to_owned(), reason };
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    if largest as usize >= config.vocab_size {
        return Err(other(format!("it has tokens up to {largest}, the weights {} rows", config.vocab_size)));
    }
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: config.max_position_embeddings, ..Default::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(TextEncoderError::Tokenize)?;
    let probe = tokenizer.encode_fast("a", true).map_err(TextEncoderError::Tokenize)?;
    if probe.get_ids().last() != Some(&largest) {
        return Err(other("it does not end sentences with its largest token".to_owned()));
    }
    Ok(tokenizer)
}
