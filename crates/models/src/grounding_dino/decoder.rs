//! The decoder: queries attend to each other, to the caption and to the picture, and refine their boxes in every
//! block.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::{
    attention::{DeformableAttention, Projections, sine_features},
    config::GroundingDinoConfig,
    encoder::{Caption, FeedForward},
    levels::Levels,
};
use crate::layers::{
    deformable::References,
    kernels::residual,
    linear::{Linear, rectified_between},
    norm::LayerNorm,
};

/// Box coordinates are clamped to this distance from 0 and 1 before the logit.
const LOGIT_EPS: f32 = 1e-5;

/// A multilayer perceptron with ReLU.
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// `widths` lists the widths from input to output.
    pub(super) fn new(vb: VarBuilder, widths: &[usize]) -> Result<Self> {
        let layer = |(n, pair): (usize, &[usize])| Linear::new(vb.pp("layers").pp(n), pair[0], pair[1]);
        Ok(Self { layers: widths.windows(2).enumerate().map(layer).collect::<Result<_>>()? })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        rectified_between(&self.layers, xs)
    }

    /// Returns the output as a vector, row-major.
    pub(super) fn numbers(&self, xs: &Tensor) -> Result<Vec<f32>> {
        self.forward(xs)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()
    }
}

/// 1 / (1 + e^-x).
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn logit(x: f32) -> f32 {
    let x = x.clamp(LOGIT_EPS, 1.0 - LOGIT_EPS);
    (x / (1.0 - x)).ln()
}

/// Refines boxes: adds a head's output in logit space.
pub(super) fn moved(boxes: &[f32], by: &[f32]) -> Vec<f32> {
    boxes.iter().zip(by).map(|(number, by)| sigmoid(by + logit(*number))).collect()
}

#[derive(Debug, Clone)]
struct DecoderLayer {
    self_attn: Projections,
    self_attn_layer_norm: LayerNorm,
    encoder_attn_text: Projections,
    encoder_attn_text_layer_norm: LayerNorm,
    encoder_attn: DeformableAttention,
    encoder_attn_layer_norm: LayerNorm,
    feed_forward: FeedForward,
}

impl DecoderLayer {
    fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        let (width, heads) = (config.d_model, config.decoder_attention_heads);
        let attention = |name: &str| Projections::new(&vb.pp(name), vb.pp(name).pp("out_proj"), width, heads);
        let norm = |name: &str| LayerNorm::new(vb.pp(name), width, config.layer_norm_eps);
        Ok(Self {
            self_attn: attention("self_attn")?,
            self_attn_layer_norm: norm("self_attn_layer_norm")?,
            encoder_attn_text: attention("encoder_attn_text")?,
            encoder_attn_text_layer_norm: norm("encoder_attn_text_layer_norm")?,
            encoder_attn: DeformableAttention::new(vb.pp("encoder_attn"), heads, config.decoder_n_points, config)?,
            encoder_attn_layer_norm: norm("encoder_attn_layer_norm")?,
            feed_forward: FeedForward::new(&vb, "final_layer_norm", config.decoder_ffn_dim, config)?,
        })
    }

    fn forward(&self, xs: &Tensor, places: &Tensor, scene: &Scene<'_>, references: &[References]) -> Result<Tensor> {
        let batch = scene.levels.batch;
        let placed = residual(xs, places, None, None)?;
        let ys = self.self_attn.forward((&placed, &placed, xs), batch, None)?;
        let xs = self.self_attn_layer_norm.forward(&residual(xs, &ys, self.self_attn.out_bias(), None)?)?;
        let placed = residual(&xs, places, None, None)?;
        let text = (&placed, scene.text, scene.text);
        let ys = self.encoder_attn_text.forward(text, batch, scene.text_mask.as_ref())?;
        let xs = residual(&xs, &ys, self.encoder_attn_text.out_bias(), None)?;
        let xs = self.encoder_attn_text_layer_norm.forward(&xs)?;
        let placed = residual(&xs, places, None, None)?;
        let ys = self.encoder_attn.forward(&placed, scene.vision, scene.levels, references)?;
        let xs = self.encoder_attn_layer_norm.forward(&residual(&xs, &ys, self.encoder_attn.out_bias(), None)?)?;
        self.feed_forward.forward(&xs)
    }
}

/// The encoder's outputs that the queries attend to.
pub(super) struct Scene<'a> {
    levels: &'a Levels,
    vision: &'a Tensor,
    text: &'a Tensor,
    text_mask: Option<Tensor>,
}

impl<'a> Scene<'a> {
    /// Takes cells (batch · cells, width) and tokens (batch · tokens, width) from the encoder.
    pub(super) fn new(levels: &'a Levels, vision: &'a Tensor, text: &'a Tensor, caption: &Caption) -> Result<Self> {
        Ok(Self { levels, vision, text, text_mask: caption.mask()? })
    }
}

/// The output of the decoder.
#[derive(Debug, Clone)]
pub(super) struct Decoded {
    /// (batch · queries, width), normed.
    pub(super) hidden: Tensor,
    /// Boxes before the last block, which the last box head refines.
    pub(super) last_references: Vec<f32>,
    /// Boxes after each block, (batch, queries, 4).
    pub(super) references: Vec<Vec<f32>>,
}

/// All blocks of the decoder.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    layers: Vec<DecoderLayer>,
    layer_norm: LayerNorm,
    reference_points_head: Mlp,
    width: usize,
}

impl Decoder {
    pub(super) fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        let width = config.d_model;
        let layers = vb.pp("layers");
        Ok(Self {
            layers: (0..config.decoder_layers)
                .map(|n| DecoderLayer::new(layers.pp(n), config))
                .collect::<Result<_>>()?,
            layer_norm: LayerNorm::new(vb.pp("layer_norm"), width, config.layer_norm_eps)?,
            reference_points_head: Mlp::new(vb.pp("reference_points_head"), &[2 * width, width, width])?,
            width,
        })
    }

    /// Runs all blocks on `queries` (batch · queries, width) and their initial boxes (batch, queries, 4); `heads` are
    /// the box heads, one per block.
    pub(super) fn forward(
        &self,
        queries: Tensor,
        boxes: Vec<f32>,
        scene: &Scene<'_>,
        heads: &dyn Fn(usize) -> Mlp,
    ) -> Result<Decoded> {
        let (mut xs, mut boxes) = (queries, boxes);
        let mut decoded = Decoded { hidden: xs.clone(), last_references: boxes.clone(), references: Vec::new() };
        let per_image = boxes.len() / scene.levels.batch.max(1);
        for (index, layer) in self.layers.iter().enumerate() {
            let by_level: Vec<Vec<f32>> = boxes
                .chunks_exact(per_image.max(4))
                .zip(&scene.levels.valid_ratios)
                .map(|(boxes, ratios)| on_every_level(boxes, ratios))
                .collect();
            let places = self.places(&by_level, scene.levels.shapes.len())?;
            let references: Vec<_> = by_level.into_iter().map(References::Boxes).collect();
            xs = layer.forward(&xs, &places, scene, &references)?;
            decoded.last_references = boxes.clone();
            boxes = moved(&boxes, &heads(index).numbers(&xs)?);
            decoded.references.push(boxes.clone());
        }
        decoded.hidden = self.layer_norm.forward(&xs)?;
        Ok(decoded)
    }

    /// Returns the queries' position encodings (batch · queries, width) from their boxes on the first level.
    fn places(&self, by_level: &[Vec<f32>], levels: usize) -> Result<Tensor> {
        let mut numbers = Vec::new();
        for place in by_level.iter().flat_map(|image| image.chunks_exact(4 * levels)) {
            // y before x, as in the reference.
            numbers.extend([place[1], place[0], place[2], place[3]]);
        }
        let features = sine_features(&numbers, 4, self.width / 2, 10_000.0);
        let device = self.reference_points_head.layers[0].bias().map_or(&Device::Cpu, Tensor::device);
        let features = Tensor::from_vec(features, (numbers.len() / 4, 2 * self.width), device)?;
        self.reference_points_head.forward(&features)
    }
}

/// Returns an image's boxes relative to each level's padded map: (queries, levels, 4).
fn on_every_level(boxes: &[f32], ratios: &[[f32; 2]]) -> Vec<f32> {
    let levels = |place: &[f32]| {
        let (x, y, width, height) = (place[0], place[1], place[2], place[3]);
        ratios.iter().flat_map(move |[across, down]| [x * across, y * down, width * across, height * down])
    };
    boxes.chunks_exact(4).flat_map(levels).collect()
}
