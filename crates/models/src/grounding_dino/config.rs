//! Configuration, as in the published `config.json`. Fields absent from the file take the defaults of the reference
//! class; the published files specify little more than the type of the two backbones.

use candle_core::{Result, bail};
use serde::Deserialize;

/// Configuration of the complete detector.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct GroundingDinoConfig {
    /// The picture backbone.
    pub backbone_config: SwinConfig,
    /// The text backbone.
    pub text_config: BertConfig,
    /// Width of encoder and decoder.
    pub d_model: usize,
    /// Number of predicted boxes; fewer if the picture has fewer cells.
    pub num_queries: usize,
    /// Number of feature map resolutions in encoder and decoder.
    pub num_feature_levels: usize,
    /// Number of encoder blocks.
    pub encoder_layers: usize,
    /// Inner width of the encoder's MLP.
    pub encoder_ffn_dim: usize,
    /// Number of heads of the encoder's deformable attention; text self-attention and fusion have half as many.
    pub encoder_attention_heads: usize,
    /// Number of sampling points per head and level in the encoder.
    pub encoder_n_points: usize,
    /// Number of decoder blocks.
    pub decoder_layers: usize,
    /// Inner width of the decoder's MLP.
    pub decoder_ffn_dim: usize,
    /// Number of attention heads in the decoder.
    pub decoder_attention_heads: usize,
    /// Number of sampling points per head and level in the decoder.
    pub decoder_n_points: usize,
    /// Activation of the MLPs.
    pub activation_function: FeedForwardActivation,
    /// Maximum number of caption tokens, and number of columns of the logits.
    pub max_text_len: usize,
    /// Temperature of the cells' sine position encodings.
    pub positional_embedding_temperature: f64,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Whether the decoder's blocks share one box head.
    pub decoder_bbox_embed_share: bool,
    /// Type of the cells' position encodings; only sine encodings are published.
    pub position_embedding_type: PositionEmbeddingType,
    /// Whether boxes start from the encoder's best cells; networks without this are rejected.
    pub two_stage: bool,
    /// Whether queries start from a learned table; networks without this are rejected.
    pub embedding_init_target: bool,
    /// Whether the proposal boxes come from the decoder's head; such networks are rejected.
    pub two_stage_bbox_embed_share: bool,
    /// Number of coordinates of a reference; must be 4, a box.
    pub query_dim: usize,
}

/// Activations of encoder and decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedForwardActivation {
    /// max(x, 0), as published.
    Relu,
    /// GELU, erf form.
    Gelu,
}

/// Types of position encodings. Others are rejected when the configuration is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PositionEmbeddingType {
    /// Sines and cosines of row and column.
    Sine,
}

/// The only activation of both backbones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TowerActivation {
    /// GELU, erf form.
    Gelu,
}

/// Configuration of the Swin transformer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct SwinConfig {
    /// Number of channels of the picture.
    pub num_channels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Channels of the first stage; each further stage has twice as many.
    pub embed_dim: usize,
    /// Number of blocks in each stage.
    pub depths: Vec<usize>,
    /// Number of attention heads in each stage.
    pub num_heads: Vec<usize>,
    /// Side of a window in cells.
    pub window_size: usize,
    /// Inner width of the MLP as a multiple of the stage's channels.
    pub mlp_ratio: f64,
    /// Whether query, key and value have a bias.
    pub qkv_bias: bool,
    /// Activation of the MLP.
    pub hidden_act: TowerActivation,
    /// Epsilon of the blocks' layer norms.
    pub layer_norm_eps: f64,
    /// Whether absolute positions are added to the patches; such networks are rejected.
    pub use_absolute_embeddings: bool,
    /// The stages whose maps are returned, counted from 1.
    pub out_indices: Vec<usize>,
}

/// Configuration of BERT.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct BertConfig {
    /// Rows of the token embedding table.
    pub vocab_size: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the segment table.
    pub type_vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Inner width of the MLP.
    pub intermediate_size: usize,
    /// Activation of the MLP.
    pub hidden_act: TowerActivation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
}

impl Default for GroundingDinoConfig {
    fn default() -> Self {
        Self {
            backbone_config: SwinConfig::default(),
            text_config: BertConfig::default(),
            d_model: 256,
            num_queries: 900,
            num_feature_levels: 4,
            encoder_layers: 6,
            encoder_ffn_dim: 2048,
            encoder_attention_heads: 8,
            encoder_n_points: 4,
            decoder_layers: 6,
            decoder_ffn_dim: 2048,
            decoder_attention_heads: 8,
            decoder_n_points: 4,
            activation_function: FeedForwardActivation::Relu,
            max_text_len: 256,
            positional_embedding_temperature: 20.0,
            layer_norm_eps: 1e-5,
            decoder_bbox_embed_share: true,
            position_embedding_type: PositionEmbeddingType::Sine,
            two_stage: true,
            embedding_init_target: true,
            two_stage_bbox_embed_share: false,
            query_dim: 4,
        }
    }
}

impl Default for SwinConfig {
    fn default() -> Self {
        Self {
            num_channels: 3,
            patch_size: 4,
            embed_dim: 96,
            depths: vec![2, 2, 6, 2],
            num_heads: vec![3, 6, 12, 24],
            window_size: 7,
            mlp_ratio: 4.0,
            qkv_bias: true,
            hidden_act: TowerActivation::Gelu,
            layer_norm_eps: 1e-5,
            use_absolute_embeddings: false,
            out_indices: vec![2, 3, 4],
        }
    }
}

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: TowerActivation::Gelu,
            layer_norm_eps: 1e-12,
        }
    }
}

impl GroundingDinoConfig {
    /// The configuration of `IDEA-Research/grounding-dino-tiny`.
    pub fn tiny() -> Self {
        Self::default()
    }

    /// The configuration of `IDEA-Research/grounding-dino-base`.
    pub fn base() -> Self {
        let backbone_config = SwinConfig {
            embed_dim: 128,
            depths: vec![2, 2, 18, 2],
            num_heads: vec![4, 8, 16, 32],
            window_size: 12,
            ..SwinConfig::default()
        };
        Self { backbone_config, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        if !self.two_stage || !self.embedding_init_target || self.two_stage_bbox_embed_share || self.query_dim != 4 {
            bail!(
                "only detectors whose boxes start from the encoder's cells and whose queries start from a table can be \
                 loaded: two_stage and embedding_init_target true, two_stage_bbox_embed_share false, query_dim 4"
            );
        }
        let heads = [self.encoder_attention_heads, self.decoder_attention_heads, self.encoder_attention_heads / 2];
        if heads.iter().any(|heads| *heads == 0 || !self.d_model.is_multiple_of(*heads)) {
            bail!("d_model {} does not divide into {heads:?} heads", self.d_model);
        }
        if !(self.encoder_ffn_dim / 2).is_multiple_of(self.encoder_attention_heads / 2) {
            bail!("half of encoder_ffn_dim {} does not divide into the fusion's heads", self.encoder_ffn_dim);
        }
        if self.num_feature_levels < self.backbone_config.out_indices.len() || !self.d_model.is_multiple_of(4) {
            bail!("num_feature_levels is below the backbone's maps, or d_model {} no multiple of 4", self.d_model);
        }
        self.backbone_config.check()
    }
}

impl SwinConfig {
    fn check(&self) -> Result<()> {
        if self.use_absolute_embeddings {
            bail!("use_absolute_embeddings is true; only Swin transformers with relative positions can be loaded");
        }
        let stages = self.depths.len();
        if stages == 0 || self.num_heads.len() != stages || self.window_size == 0 || self.patch_size == 0 {
            bail!("a Swin transformer needs stages with heads, windows and patches, got {self:?}");
        }
        for (stage, heads) in self.num_heads.iter().enumerate() {
            if *heads == 0 || !self.channels(stage).is_multiple_of(*heads) {
                bail!("{} channels of stage {} do not divide into {heads} heads", self.channels(stage), stage + 1);
            }
        }
        let ascending = self.out_indices.windows(2).all(|pair| pair[0] < pair[1]);
        if self.out_indices.is_empty() || !ascending || self.out_indices.iter().any(|at| *at == 0 || *at > stages) {
            bail!("out_indices {:?} are not stages from 1 to {stages} in order", self.out_indices);
        }
        Ok(())
    }

    /// Returns the number of channels of a stage, counted from 0.
    pub(super) fn channels(&self, stage: usize) -> usize {
        self.embed_dim << stage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_published_file_is_read() {
        let text = r#"{"model_type": "grounding-dino", "text_config": {"model_type": "bert"}, "num_queries": 900,
            "backbone_config": {"model_type": "swin", "out_indices": [2, 3, 4], "out_features": ["stage2", "stage3"]}}"#;
        let config: GroundingDinoConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config, GroundingDinoConfig::tiny());
        config.check().unwrap();
        GroundingDinoConfig::base().check().unwrap();
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let check = |change: fn(&mut GroundingDinoConfig)| {
            let mut config = GroundingDinoConfig::tiny();
            change(&mut config);
            config.check().is_err()
        };
        assert!(check(|c| c.two_stage = false));
        assert!(check(|c| c.decoder_attention_heads = 7));
        assert!(check(|c| c.num_feature_levels = 2));
        assert!(check(|c| c.backbone_config.out_indices = vec![5]));
        assert!(check(|c| c.backbone_config.num_heads = vec![3]));
        assert!(serde_json::from_str::<GroundingDinoConfig>(r#"{"position_embedding_type": "learned"}"#).is_err());
    }
}
