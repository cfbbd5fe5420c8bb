//! Configuration, as in the published `config.json`: flat, or with the language model's fields in a nested section, as
//! newer libraries write them. Fields absent from the file take the defaults of the reference class.

use candle_core::{Result, bail};
use serde::Deserialize;

/// Configuration of vision encoder and language model, and the special token ids.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Published")]
pub struct QwenConfig {
    /// The language model.
    pub text: QwenTextConfig,
    /// The vision encoder.
    pub vision: QwenVisionConfig,
    /// The token whose embeddings are replaced by the picture's features.
    pub image_token_id: u32,
    /// The token before a picture.
    pub vision_start_token_id: u32,
    /// The token after a picture.
    pub vision_end_token_id: u32,
    /// The tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Whether the output head shares its weights with the token embedding table.
    pub tie_word_embeddings: bool,
}

/// Configuration of the language model.
#[derive(Debug, Clone, PartialEq)]
pub struct QwenTextConfig {
    /// Rows of the token embedding table.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Inner width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; must divide the number of query heads.
    pub num_key_value_heads: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// Number of a head's channel pairs that encode time, row and column.
    pub mrope_section: [usize; 3],
    /// Whether some blocks use sliding-window attention; such networks are rejected.
    pub use_sliding_window: bool,
}

/// Configuration of the vision encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct QwenVisionConfig {
    /// Number of blocks.
    pub depth: usize,
    /// Width.
    pub hidden_size: usize,
    /// Inner width of the MLP.
    pub intermediate_size: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Number of channels of the picture.
    #[serde(alias = "in_chans")]
    pub in_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Side, in patches, of the square that is merged to one token.
    pub spatial_merge_size: usize,
    /// Number of frames per patch.
    pub temporal_patch_size: usize,
    /// Side of a window in pixels.
    pub window_size: usize,
    /// Output width: that of the language model.
    pub out_hidden_size: usize,
    /// Indices of the blocks with global attention.
    pub fullatt_block_indexes: Vec<usize>,
    /// Activation of the MLP.
    pub hidden_act: QwenActivation,
}

/// The only activation of both MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QwenActivation {
    /// x · σ(x).
    #[default]
    Silu,
}

impl Default for QwenVisionConfig {
    fn default() -> Self {
        Self {
            depth: 32,
            hidden_size: 3584,
            intermediate_size: 3420,
            num_heads: 16,
            in_channels: 3,
            patch_size: 14,
            spatial_merge_size: 2,
            temporal_patch_size: 2,
            window_size: 112,
            out_hidden_size: 3584,
            fullatt_block_indexes: vec![7, 15, 23, 31],
            hidden_act: QwenActivation::Silu,
        }
    }
}

/// The fields of the file, flat or nested.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Published {
    #[serde(flatten)]
    flat: PublishedText,
    text_config: Option<PublishedText>,
    vision_config: Option<PublishedVision>,
    image_token_id: Option<u32>,
    vision_start_token_id: Option<u32>,
    vision_end_token_id: Option<u32>,
}

/// A file may contain `in_channels`, `in_chans`, or both.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PublishedVision {
    depth: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_heads: Option<usize>,
    in_channels: Option<usize>,
    in_chans: Option<usize>,
    patch_size: Option<usize>,
    spatial_merge_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    window_size: Option<usize>,
    out_hidden_size: Option<usize>,
    fullatt_block_indexes: Option<Vec<usize>>,
    hidden_act: QwenActivation,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PublishedText {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    use_sliding_window: Option<bool>,
    eos_token_id: Option<OneOrMany>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<QwenActivation>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Rope {
    rope_theta: Option<f64>,
    mrope_section: Option<[usize; 3]>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl From<Published> for QwenConfig {
    fn from(published: Published) -> Self {
        let Published { flat, text_config, vision_config, .. } = published;
        let nested = text_config.unwrap_or_default();
        let eos = nested.eos_token_id.clone().or(flat.eos_token_id.clone());
        // The head belongs to the complete model, so the outer field takes precedence.
        let tie_word_embeddings = flat.tie_word_embeddings.or(nested.tie_word_embeddings).unwrap_or(false);
        let vision = vision_config.map_or_else(QwenVisionConfig::default, QwenVisionConfig::from);
        Self {
            text: QwenTextConfig::of(&nested, &flat),
            vision,
            image_token_id: published.image_token_id.unwrap_or(151_655),
            vision_start_token_id: published.vision_start_token_id.unwrap_or(151_652),
            vision_end_token_id: published.vision_end_token_id.unwrap_or(151_653),
            eos_token_ids: match eos {
                Some(OneOrMany::One(id)) => vec![id],
                Some(OneOrMany::Many(ids)) => ids,
                None => vec![151_645],
            },
            tie_word_embeddings,
        }
    }
}

impl From<PublishedVision> for QwenVisionConfig {
    fn from(published: PublishedVision) -> Self {
        let default = Self::default();
        Self {
            depth: published.depth.unwrap_or(default.depth),
            hidden_size: published.hidden_size.unwrap_or(default.hidden_size),
            intermediate_size: published.intermediate_size.unwrap_or(default.intermediate_size),
            num_heads: published.num_heads.unwrap_or(default.num_heads),
            in_channels: published.in_channels.or(published.in_chans).unwrap_or(default.in_channels),
            patch_size: published.patch_size.unwrap_or(default.patch_size),
            spatial_merge_size: published.spatial_merge_size.unwrap_or(default.spatial_merge_size),
            temporal_patch_size: published.temporal_patch_size.unwrap_or(default.temporal_patch_size),
            window_size: published.window_size.unwrap_or(default.window_size),
            out_hidden_size: published.out_hidden_size.unwrap_or(default.out_hidden_size),
            fullatt_block_indexes: published.fullatt_block_indexes.unwrap_or(default.fullatt_block_indexes),
            hidden_act: published.hidden_act,
        }
    }
}

impl QwenTextConfig {
    /// The nested section's value, else the flat one, else the class's default.
    fn of(nested: &PublishedText, flat: &PublishedText) -> Self {
        fn first<T: Clone>(get: impl Fn(&PublishedText) -> Option<T>, of: [&PublishedText; 2], default: T) -> T {
            of.into_iter().find_map(get).unwrap_or(default)
        }
        let of = [nested, flat];
        let rope = |text: &PublishedText| {
            let ropes = [text.rope_parameters.clone(), text.rope_scaling.clone()];
            ropes.into_iter().flatten().collect::<Vec<_>>()
        };
        let theta = |text: &PublishedText| text.rope_theta.or(rope(text).iter().find_map(|rope| rope.rope_theta));
        let section = |text: &PublishedText| rope(text).iter().find_map(|rope| rope.mrope_section);
        Self {
            vocab_size: first(|t| t.vocab_size, of, 152_064),
            hidden_size: first(|t| t.hidden_size, of, 8_192),
            intermediate_size: first(|t| t.intermediate_size, of, 29_568),
            num_hidden_layers: first(|t| t.num_hidden_layers, of, 80),
            num_attention_heads: first(|t| t.num_attention_heads, of, 64),
            num_key_value_heads: first(|t| t.num_key_value_heads, of, 8),
            rms_norm_eps: first(|t| t.rms_norm_eps, of, 1e-5),
            rope_theta: first(theta, of, 1e6),
            mrope_section: first(section, of, [16, 24, 24]),
            use_sliding_window: first(|t| t.use_sliding_window, of, false),
        }
    }

    /// Returns the width of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads.max(1)
    }
}

impl QwenConfig {
    /// The configuration of `Qwen/Qwen2.5-VL-3B-Instruct`.
    pub fn qwen_3b() -> Self {
        let vision = QwenVisionConfig { hidden_size: 1_280, out_hidden_size: 2_048, ..QwenVisionConfig::default() };
        let text = QwenTextConfig {
            vocab_size: 151_936,
            hidden_size: 2_048,
            intermediate_size: 11_008,
            num_hidden_layers: 36,
            num_attention_heads: 16,
            num_key_value_heads: 2,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            mrope_section: [16, 24, 24],
            use_sliding_window: false,
        };
        Self { text, vision, tie_word_embeddings: true, ..Self::from(Published::default()) }
    }

    pub(super) fn check(&self) -> Result<()> {
        let (text, vision) = (&self.text, &self.vision);
        if text.use_sliding_window {
            bail!("use_sliding_window is true; only models that always see the whole past can be loaded");
        }
        let (heads, kv_heads) = (text.num_attention_heads, text.num_key_value_heads);
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) || !text.hidden_size.is_multiple_of(heads) {
            bail!("hidden_size {} does not divide into {heads} heads over {kv_heads}", text.hidden_size);
        }
        let turned: usize = text.mrope_section.iter().sum();
        if 2 * turned != text.head_dim() {
            bail!("mrope_section {:?} does not turn a head of {}", text.mrope_section, text.head_dim());
        }
        if vision.num_heads == 0 || !vision.hidden_size.is_multiple_of(4 * vision.num_heads) {
            bail!("the vision tower's width {} does not divide into {} heads", vision.hidden_size, vision.num_heads);
        }
        if vision.out_hidden_size != text.hidden_size {
            bail!("the vision tower gives {} channels, not {}", vision.out_hidden_size, text.hidden_size);
        }
        if vision.patch_size == 0 || vision.spatial_merge_size == 0 || vision.window_cells() == 0 {
            bail!("a patch, a merged cell and a window need a size, got {vision:?}");
        }
        Ok(())
    }
}

impl QwenVisionConfig {
    /// Returns the side of a window in merged cells.
    pub fn window_cells(&self) -> usize {
        self.window_size / self.patch_size.max(1) / self.spatial_merge_size.max(1)
    }

    /// Returns the number of values per patch.
    pub fn patch_numbers(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAT: &str = r#"{"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": true, "use_sliding_window": false, "eos_token_id": 151645,
        "vision_config": {"hidden_size": 1280, "out_hidden_size": 2048, "in_chans": 3, "in_channels": 3}}"#;

    #[test]
    fn flat_and_nested_files_say_the_same() {
        let flat: QwenConfig = serde_json::from_str(FLAT).unwrap();
        assert_eq!(flat, QwenConfig::qwen_3b());
        flat.check().unwrap();
        let nested = r#"{"text_config": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-06,
            "eos_token_id": [151645], "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default",
            "mrope_section": [16, 24, 24]}}, "tie_word_embeddings": true,
            "vision_config": {"hidden_size": 1280, "out_hidden_size": 2048}}"#;
        assert_eq!(serde_json::from_str::<QwenConfig>(nested).unwrap(), flat);
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let check = |change: fn(&mut QwenConfig)| {
            let mut config = QwenConfig::qwen_3b();
            change(&mut config);
            config.check().is_err()
        };
        assert!(check(|c| c.text.use_sliding_window = true));
        assert!(check(|c| c.text.num_key_value_heads = 3));
        assert!(check(|c| c.text.mrope_section = [16, 24, 23]));
        assert!(check(|c| c.vision.window_size = 20));
        assert!(check(|c| c.vision.out_hidden_size = 2_049));
    }
}
