//! The encoder: cells and tokens attend to each other, then tokens to tokens and cells to cells.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{
    attention::{BiMultiHeadAttention, DeformableAttention, Projections, additive_mask},
    config::{FeedForwardActivation, GroundingDinoConfig},
    levels::Levels,
};
use crate::layers::{
    bias::add_bias_relu,
    deformable::References,
    kernels::{Activation, activate, residual},
    linear::Linear,
    norm::LayerNorm,
};

/// The encoded caption with its masks.
#[derive(Debug, Clone)]
pub(super) struct Caption {
    /// (batch · tokens): whether a token is not padding.
    pub(super) is_real: Vec<bool>,
    /// (batch, 1, tokens, tokens): additive mask of the tokens that attend to each other.
    pub(super) phrases: Tensor,
    /// (batch · tokens, d_model): sine encodings of the positions in the phrases.
    pub(super) positions: Tensor,
    pub(super) batch: usize,
    pub(super) tokens: usize,
}

impl Caption {
    /// Returns the additive mask for scores of cells and an image's tokens, (1, 1, tokens); `None` without padding.
    fn mask_of(&self, image: usize) -> Result<Option<Tensor>> {
        let keep = &self.is_real[image * self.tokens..][..self.tokens];
        let device = self.phrases.device();
        keep.iter().any(|keep| !keep).then(|| additive_mask(keep, &[1, 1, self.tokens], device)).transpose()
    }

    /// Returns the additive mask for scores of queries and tokens, (batch, 1, 1, tokens); `None` without padding.
    pub(super) fn mask(&self) -> Result<Option<Tensor>> {
        let shape = [self.batch, 1, 1, self.tokens];
        let is_padded = self.is_real.iter().any(|is_real| !is_real);
        is_padded.then(|| additive_mask(&self.is_real, &shape, self.phrases.device())).transpose()
    }
}

/// fc2(activation(fc1 x)), added to x and normed (post-norm).
#[derive(Debug, Clone)]
pub(super) struct FeedForward {
    fc1: Linear,
    fc2: Linear,
    norm: LayerNorm,
    activation: FeedForwardActivation,
}

impl FeedForward {
    pub(super) fn new(vb: &VarBuilder, norm: &str, inner: usize, config: &GroundingDinoConfig) -> Result<Self> {
        Ok(Self {
            fc1: Linear::new(vb.pp("fc1"), config.d_model, inner)?,
            fc2: Linear::new(vb.pp("fc2"), inner, config.d_model)?,
            norm: LayerNorm::new(vb.pp(norm), config.d_model, config.layer_norm_eps)?,
            activation: config.activation_function,
        })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let inner = self.fc1.product(xs)?;
        let inner = match self.activation {
            FeedForwardActivation::Relu => add_bias_relu(inner, self.fc1.bias())?,
            FeedForwardActivation::Gelu => activate(inner, self.fc1.bias(), Activation::GeluErf)?,
        };
        self.norm.forward(&residual(xs, &self.fc2.product(&inner)?, self.fc2.bias(), None)?)
    }
}

/// Bidirectional cross-attention of cells and tokens.
#[derive(Debug, Clone)]
struct FusionLayer {
    layer_norm_vision: LayerNorm,
    layer_norm_text: LayerNorm,
    attn: BiMultiHeadAttention,
    /// (1, 1, d_model): the gate, in the shape that the residual kernel takes.
    vision_param: Tensor,
    text_param: Tensor,
}

impl FusionLayer {
    fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        let (width, eps) = (config.d_model, config.layer_norm_eps);
        Ok(Self {
            layer_norm_vision: LayerNorm::new(vb.pp("layer_norm_vision"), width, eps)?,
            layer_norm_text: LayerNorm::new(vb.pp("layer_norm_text"), width, eps)?,
            attn: BiMultiHeadAttention::new(vb.pp("attn"), config)?,
            vision_param: vb.get(width, "vision_param")?.reshape((1, 1, width))?,
            text_param: vb.get(width, "text_param")?.reshape((1, 1, width))?,
        })
    }

    /// The update is added to the normed cells and tokens, not to the inputs.
    fn forward(&self, vision: &Tensor, text: &Tensor, levels: &Levels, caption: &Caption) -> Result<(Tensor, Tensor)> {
        let vision = self.layer_norm_vision.forward(vision)?;
        let text = self.layer_norm_text.forward(text)?;
        let cells = levels.cells();
        let (mut new_vision, mut new_text) = (Vec::new(), Vec::new());
        for image in 0..levels.batch {
            let keep = levels.keep().map(|keep| &keep[image * cells..][..cells]);
            let vision_mask = keep.map(|keep| additive_mask(keep, &[1, cells], vision.device())).transpose()?;
            let (for_vision, for_text) = self.attn.forward(
                &vision.narrow(0, image * cells, cells)?,
                &text.narrow(0, image * caption.tokens, caption.tokens)?,
                vision_mask.as_ref(),
                caption.mask_of(image)?.as_ref(),
            )?;
            new_vision.push(for_vision);
            new_text.push(for_text);
        }
        let (new_vision, new_text) = (Tensor::cat(&new_vision, 0)?, Tensor::cat(&new_text, 0)?);
        let bias = Some(self.attn.out_vision_bias());
        Ok((
            residual(&vision, &new_vision, bias, Some((&self.vision_param, 0)))?,
            residual(&text, &new_text, None, Some((&self.text_param, 0)))?,
        ))
    }
}

/// Self-attention of the tokens within their phrases.
#[derive(Debug, Clone)]
struct TextEnhancerLayer {
    self_attn: Projections,
    layer_norm_before: LayerNorm,
    feed_forward: FeedForward,
}

impl TextEnhancerLayer {
    fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        let (own, width) = (vb.pp("self_attn"), config.d_model);
        Ok(Self {
            self_attn: Projections::new(&own, own.pp("out_proj"), width, config.encoder_attention_heads / 2)?,
            layer_norm_before: LayerNorm::new(vb.pp("layer_norm_before"), width, config.layer_norm_eps)?,
            feed_forward: FeedForward::new(&vb, "layer_norm_after", config.encoder_ffn_dim / 2, config)?,
        })
    }

    fn forward(&self, text: &Tensor, caption: &Caption) -> Result<Tensor> {
        let placed = residual(text, &caption.positions, None, None)?;
        let ys = self.self_attn.forward((&placed, &placed, text), caption.batch, Some(&caption.phrases))?;
        let text = self.layer_norm_before.forward(&residual(text, &ys, self.self_attn.out_bias(), None)?)?;
        self.feed_forward.forward(&text)
    }
}

/// Deformable self-attention of the cells on all levels.
#[derive(Debug, Clone)]
struct DeformableLayer {
    self_attn: DeformableAttention,
    self_attn_layer_norm: LayerNorm,
    feed_forward: FeedForward,
}

impl DeformableLayer {
    fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        let (heads, points) = (config.encoder_attention_heads, config.encoder_n_points);
        Ok(Self {
            self_attn: DeformableAttention::new(vb.pp("self_attn"), heads, points, config)?,
            self_attn_layer_norm: LayerNorm::new(vb.pp("self_attn_layer_norm"), config.d_model, config.layer_norm_eps)?,
            feed_forward: FeedForward::new(&vb, "final_layer_norm", config.encoder_ffn_dim, config)?,
        })
    }

    fn forward(&self, vision: &Tensor, levels: &Levels, references: &[References]) -> Result<Tensor> {
        let placed = residual(vision, &levels.positions, None, None)?;
        let ys = self.self_attn.forward(&placed, vision, levels, references)?;
        let vision = self.self_attn_layer_norm.forward(&residual(vision, &ys, self.self_attn.out_bias(), None)?)?;
        self.feed_forward.forward(&vision)
    }
}

#[derive(Debug, Clone)]
struct EncoderLayer {
    fusion_layer: FusionLayer,
    text_enhancer_layer: TextEnhancerLayer,
    deformable_layer: DeformableLayer,
}

/// All blocks of the encoder.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    layers: Vec<EncoderLayer>,
}

impl Encoder {
    pub(super) fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        let layer = |n: usize| {
            let vb = vb.pp("layers").pp(n);
            Ok(EncoderLayer {
                fusion_layer: FusionLayer::new(vb.pp("fusion_layer"), config)?,
                text_enhancer_layer: TextEnhancerLayer::new(vb.pp("text_enhancer_layer"), config)?,
                deformable_layer: DeformableLayer::new(vb.pp("deformable_layer"), config)?,
            })
        };
        Ok(Self { layers: (0..config.encoder_layers).map(layer).collect::<Result<_>>()? })
    }

    /// Returns cells and tokens after the last block; `visit` is called with them after each block.
    pub(super) fn forward(
        &self,
        levels: &Levels,
        text: Tensor,
        caption: &Caption,
        visit: &mut dyn FnMut(usize, &Tensor, &Tensor) -> Result<()>,
    ) -> Result<(Tensor, Tensor)> {
        let references = levels.references();
        let (mut vision, mut text) = (levels.features.clone(), text);
        for (index, layer) in self.layers.iter().enumerate() {
            (vision, text) = layer.fusion_layer.forward(&vision, &text, levels, caption)?;
            text = layer.text_enhancer_layer.forward(&text, caption)?;
            vision = layer.deformable_layer.forward(&vision, levels, &references)?;
            visit(index, &vision, &text)?;
        }
        Ok((vision, text))
    }
}
