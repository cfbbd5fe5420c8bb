//! The attention layers of encoder and decoder: self-attention, deformable attention, and attention between picture
//! and caption.

use candle_core::{D, DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{config::GroundingDinoConfig, levels::Levels};
use crate::layers::{
    CheckedMatmul,
    attention::{HeadOptions, KeyValue, attend, split_heads},
    bias::add_bias,
    deformable::{References, Sampling, deformable_attention, masked_values},
    linear::Linear,
};

/// Multi-head attention with separate projections for query, key, value and output.
#[derive(Debug, Clone)]
pub(super) struct Projections {
    query: Linear,
    key: Linear,
    value: Linear,
    out_proj: Linear,
    heads: usize,
}

impl Projections {
    /// Loads `query`, `key` and `value` below `vb`, and the output projection at `out`.
    pub(super) fn new(vb: &VarBuilder, out: VarBuilder, width: usize, heads: usize) -> Result<Self> {
        let linear = |name: &str| Linear::new(vb.pp(name), width, width);
        let (query, key, value) = (linear("query")?, linear("key")?, linear("value")?);
        Ok(Self { query, key, value, out_proj: Linear::new(out, width, width)?, heads })
    }

    /// Returns the output bias, which [`forward`](Self::forward) does not add; the residual addition does.
    pub(super) fn out_bias(&self) -> Option<&Tensor> {
        self.out_proj.bias()
    }

    /// Queries, keys and values are each (batch · tokens, width). `bias` (batch, 1, 1 or queries, keys) is added to
    /// the scores. Returns (batch · queries, width) without the output bias.
    pub(super) fn forward(
        &self,
        (queries, keys, values): (&Tensor, &Tensor, &Tensor),
        batch: usize,
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let width = queries.dim(1)?;
        let head_dim = width / self.heads;
        let heads = |xs: &Tensor, linear: &Linear| {
            let options = HeadOptions { bias: linear.bias(), ..HeadOptions::default() };
            split_heads(&linear.product(xs)?, 0, (batch, self.heads, head_dim), options)
        };
        // (batch, heads, tokens, head_dim)
        let (q, k, v) = (heads(queries, &self.query)?, heads(keys, &self.key)?, heads(values, &self.value)?);
        let scale = 1.0 / (head_dim as f64).sqrt();
        let mixed = match bias {
            None => {
                let image = |n: usize| attend(&q.get(n)?, &[&KeyValue { keys: k.get(n)?, values: v.get(n)? }], scale);
                Tensor::cat(&(0..batch).map(image).collect::<Result<Vec<_>>>()?, 0)?
            }
            Some(bias) => {
                let scores = (q.checked_matmul(&k.t()?)? * scale)?.broadcast_add(bias)?;
                let weights = candle_nn::ops::softmax_last_dim(&scores)?;
                weights.checked_matmul(&v)?.transpose(1, 2)?.reshape(((), width))?
            }
        };
        self.out_proj.product(&mixed)
    }
}

/// Multi-scale deformable attention: each query attends to a few sampling points on the maps.
#[derive(Debug, Clone)]
pub(super) struct DeformableAttention {
    /// Outputs: all sampling offsets, then all attention weights.
    choices: Linear,
    value_proj: Linear,
    output_proj: Linear,
    heads: usize,
    points: usize,
}

impl DeformableAttention {
    pub(super) fn new(vb: VarBuilder, heads: usize, points: usize, config: &GroundingDinoConfig) -> Result<Self> {
        let (width, taps) = (config.d_model, heads * config.num_feature_levels * points);
        let parts = |name: &str, outputs: usize| {
            let vb = vb.pp(name);
            Ok::<_, candle_core::Error>((vb.get((outputs, width), "weight")?, vb.get(outputs, "bias")?))
        };
        let (offsets, weights) = (parts("sampling_offsets", 2 * taps)?, parts("attention_weights", taps)?);
        let bias = Tensor::cat(&[offsets.1, weights.1], 0)?;
        Ok(Self {
            choices: Linear::from_tensors(&Tensor::cat(&[offsets.0, weights.0], 0)?, Some(bias))?,
            value_proj: Linear::new(vb.pp("value_proj"), width, width)?,
            output_proj: Linear::new(vb.pp("output_proj"), width, width)?,
            heads,
            points,
        })
    }

    /// Returns the output bias, which [`forward`](Self::forward) does not add; the residual addition does.
    pub(super) fn out_bias(&self) -> Option<&Tensor> {
        self.output_proj.bias()
    }

    /// Takes `queries` (batch · queries, width) including positions, `memory` (batch · cells, width), and the
    /// reference points image by image. Returns (batch · queries, width) without the output bias.
    pub(super) fn forward(
        &self,
        queries: &Tensor,
        memory: &Tensor,
        levels: &Levels,
        references: &[References],
    ) -> Result<Tensor> {
        let choices = add_bias(self.choices.product(queries)?, self.choices.bias())?;
        let values = masked_values(self.value_proj.product(memory)?, self.value_proj.bias(), levels.keep())?;
        let sampling = Sampling { levels: &levels.shapes, heads: self.heads, points: self.points };
        let (count, cells) = (queries.dim(0)? / levels.batch, levels.cells());
        let image = |(n, references): (usize, &References)| {
            let choices = choices.narrow(0, n * count, count)?;
            deformable_attention(&values.narrow(0, n * cells, cells)?, &choices, references, sampling)
        };
        let mixed = references.iter().enumerate().map(image).collect::<Result<Vec<_>>>()?;
        self.output_proj.product(&Tensor::cat(&mixed, 0)?)
    }
}

/// Bidirectional cross-attention: picture and caption attend to each other through one score matrix.
///
/// A caption has few tokens and a picture many cells, so work per cell is replaced by equivalent work per token: the
/// projections on both sides of the scores are folded into one small matrix for the given caption, and no cell is
/// projected to the inner width.
#[derive(Debug, Clone)]
pub(super) struct BiMultiHeadAttention {
    vision_proj: PerHead,
    text_proj: Linear,
    values_vision_proj: PerHead,
    values_text_proj: Linear,
    /// (heads, head_dim, width)
    out_vision: Tensor,
    out_vision_bias: Tensor,
    out_text_proj: Linear,
    heads: usize,
}

/// A projection split by head: weight (heads, head_dim, width) and bias (heads, head_dim, 1).
#[derive(Debug, Clone)]
struct PerHead {
    weight: Tensor,
    bias: Tensor,
}

impl PerHead {
    fn new(vb: VarBuilder, width: usize, heads: usize, head_dim: usize) -> Result<Self> {
        let inner = heads * head_dim;
        Ok(Self {
            weight: vb.get((inner, width), "weight")?.reshape((heads, head_dim, width))?.contiguous()?,
            bias: vb.get(inner, "bias")?.reshape((heads, head_dim, 1))?.contiguous()?,
        })
    }
}

impl BiMultiHeadAttention {
    pub(super) fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        let (width, inner, heads) = (config.d_model, config.encoder_ffn_dim / 2, config.encoder_attention_heads / 2);
        let head_dim = inner / heads;
        let out_vision = vb.pp("out_vision_proj");
        Ok(Self {
            vision_proj: PerHead::new(vb.pp("vision_proj"), width, heads, head_dim)?,
            text_proj: Linear::new(vb.pp("text_proj"), width, inner)?,
            values_vision_proj: PerHead::new(vb.pp("values_vision_proj"), width, heads, head_dim)?,
            values_text_proj: Linear::new(vb.pp("values_text_proj"), width, inner)?,
            out_vision: out_vision
                .get((width, inner), "weight")?
                .t()?
                .contiguous()?
                .reshape((heads, head_dim, width))?,
            out_vision_bias: out_vision.get(width, "bias")?,
            out_text_proj: Linear::new(vb.pp("out_text_proj"), inner, width)?,
            heads,
        })
    }

    /// Returns the bias of the picture's output, which [`forward`](Self::forward) does not add.
    pub(super) fn out_vision_bias(&self) -> &Tensor {
        &self.out_vision_bias
    }

    /// Processes one image: `vision` (cells, width), `text` (tokens, width). The masks are added to the scores:
    /// `vision_mask` (1, cells), `text_mask` (1, 1, tokens). Returns the updates of both, the picture's without its
    /// bias.
    pub(super) fn forward(
        &self,
        vision: &Tensor,
        text: &Tensor,
        vision_mask: Option<&Tensor>,
        text_mask: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        let (cells, _) = vision.dims2()?;
        let tokens = text.dim(0)?;
        let by_head = |linear: &Linear| {
            let inner = linear.forward(text)?; // (tokens, heads · head_dim)
            inner.reshape((tokens, self.heads, inner.dim(1)? / self.heads))?.transpose(0, 1)?.contiguous()
        };
        let (keys, values) = (by_head(&self.text_proj)?, by_head(&self.values_text_proj)?);
        let scale = 1.0 / (keys.dim(2)? as f64).sqrt();
        let folded = (keys.checked_matmul(&self.vision_proj.weight)? * scale)?.flatten_to(1)?; // (heads · tokens, width)
        let offset = (keys.checked_matmul(&self.vision_proj.bias)? * scale)?.flatten_all()?; // (heads · tokens)
        let scores = vision.checked_matmul(&folded.t()?)?.broadcast_add(&offset)?; // (cells, heads · tokens)

        let to_text = scores.reshape((cells, self.heads, tokens))?;
        let to_text = text_mask.map_or(Ok(to_text.clone()), |mask| to_text.broadcast_add(mask))?;
        let to_text = candle_nn::ops::softmax_last_dim(&to_text)?.flatten_from(1)?;
        let values = values.checked_matmul(&self.out_vision)?.flatten_to(1)?; // (heads · tokens, width)
        let new_vision = to_text.checked_matmul(&values)?;

        let to_vision = scores.t()?.contiguous()?; // (heads · tokens, cells)
        let to_vision = vision_mask.map_or(Ok(to_vision.clone()), |mask| to_vision.broadcast_add(mask))?;
        let seen = candle_nn::ops::softmax_last_dim(&to_vision)?.checked_matmul(vision)?; // (heads · tokens, width)
        let seen = seen.reshape((self.heads, tokens, ()))?;
        let projection = &self.values_vision_proj;
        // Softmax weights sum to 1, so the bias can be added after the weighted sum.
        let seen = seen
            .checked_matmul(&projection.weight.transpose(1, 2)?)?
            .broadcast_add(&projection.bias.transpose(1, 2)?)?;
        let new_text = self.out_text_proj.forward(&seen.transpose(0, 1)?.flatten_from(1)?)?;
        Ok((new_vision, new_text))
    }
}

/// Returns an additive attention mask: 0 where `keep` is true, else the lowest finite value.
pub(super) fn additive_mask(keep: &[bool], shape: &[usize], device: &Device) -> Result<Tensor> {
    if keep.len() != shape.iter().product::<usize>() {
        bail!("a mask of {} places does not have the shape {shape:?}", keep.len());
    }
    let numbers: Vec<f32> = keep.iter().map(|keep| if *keep { 0.0 } else { f32::MIN }).collect();
    Tensor::from_vec(numbers, shape, device)
}

/// Returns sines and cosines, alternating, of each of `numbers` (rows, count) times 2π: (rows, count · width), with
/// wavelengths from 2π to `temperature` · 2π. All in f32, as in the reference.
pub(super) fn sine_features(numbers: &[f32], count: usize, width: usize, temperature: f64) -> Vec<f32> {
    let wave = |at: usize| (temperature as f32).powf((2 * (at / 2)) as f32 / width as f32);
    let waves: Vec<f32> = (0..width).map(wave).collect();
    let mut features = vec![0f32; numbers.len() * width];
    crate::layers::kernels::for_each_row(&mut features, count * width, |row, features| {
        let numbers = &numbers[row * count..][..count];
        for (number, features) in numbers.iter().zip(features.chunks_exact_mut(width)) {
            for ((at, feature), wave) in features.iter_mut().enumerate().zip(&waves) {
                let angle = number * (2.0 * std::f32::consts::PI) / wave;
                *feature = if at % 2 == 0 { angle.sin() } else { angle.cos() };
            }
        }
    });
    features
}

/// Returns `hidden` · `text` for each image: (batch, rows, tokens). `hidden` is (batch · rows, width), `text` (batch ·
/// tokens, width). Tokens where `keep` is false get minus infinity.
pub(super) fn contrastive_logits(hidden: &Tensor, text: &Tensor, batch: usize, keep: &[bool]) -> Result<Tensor> {
    let width = hidden.dim(D::Minus1)?;
    let (hidden, text) = (hidden.reshape((batch, (), width))?, text.reshape((batch, (), width))?);
    let logits = hidden.checked_matmul(&text.transpose(1, 2)?)?;
    if keep.iter().all(|keep| *keep) {
        return Ok(logits);
    }
    let masked: Vec<f32> = keep.iter().map(|keep| if *keep { 0.0 } else { f32::NEG_INFINITY }).collect();
    let masked = Tensor::from_vec(masked, (batch, 1, text.dim(1)?), logits.device())?;
    logits.to_dtype(DType::F32)?.broadcast_add(&masked)
}
