//! One transformer block with two streams: the content stream attends to text and itself; the image stream attends to
//! text, subject and itself.
//!
//! Field names are the checkpoint's. Gains are the six adaptive layer norm vectors of a block (two gates, two scales,
//! two shifts). Shapes: C width, H heads, R guidance rows, L image tokens of the current scale, K content tokens, T
//! text tokens, S patches.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::config::EchoGenConfig;
use crate::layers::{
    attention::{HeadOptions, KeyValue, Rotation, attend, split_heads},
    kernels::{Activation, Gain, activate, modulated_norm, residual},
    linear::Linear,
    norm::LayerNorm,
};

/// Upper bound of a head's log sharpness (the learned logit scale of unit-norm attention), ln 100.
const MAX_LOG_SHARPNESS: f32 = 4.605_170_2;

/// Keys and values that the image tokens of one guidance row attend to in one block, computed once per job.
#[derive(Clone, Debug)]
pub(crate) struct LayerCondition {
    /// Content tokens, (H, K, head_dim).
    pub(crate) content: KeyValue,
    /// Semantic patches, (H, S, head_dim).
    pub(crate) patches: KeyValue,
    /// Text tokens, (H, T, head_dim).
    pub(crate) words: KeyValue,
}

/// Visible keys of a range of queries: queries `start .. start + count` of the L tokens attend to the first `keys`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) count: usize,
    pub(crate) keys: usize,
}

/// Inputs of one pass of image tokens through a block.
pub(crate) struct ImageStep<'a> {
    /// (R, 6, C), including the block's own gains.
    pub(crate) gains: &'a Tensor,
    /// Rotary angles of the L tokens.
    pub(crate) rotation: &'a Rotation,
    /// The rows' conditions for this block.
    pub(crate) conditions: &'a [&'a LayerCondition],
    /// The rows' key-value caches of this block, (H, capacity, head_dim).
    pub(crate) caches: &'a [&'a KeyValue],
    /// Position in the caches at which the new keys are written.
    pub(crate) position: usize,
    /// Visible keys of the queries.
    pub(crate) spans: &'a [Span],
}

/// Self-attention of the image stream and its cross-attention to the subject: projections of both streams.
struct JointAttention {
    mat_qkv: Linear,
    q_bias: Tensor,
    v_bias: Tensor,
    sharpness: Vec<f32>,
    proj: Linear,
    control_mat_kv: Linear,
    control_v_bias: Tensor,
    control_attn: Linear,
}

/// The part of a block that updates the content stream. The last block has none, because its content output is unused.
struct ContentBranch {
    control_mat_q: Linear,
    control_q_bias: Tensor,
    control_sharpness: Vec<f32>,
    control_proj: Linear,
    control_ca_norm: LayerNorm,
    control_ca: CrossAttention,
    control_ffn: FeedForward,
}

struct CrossAttention {
    mat_q: Linear,
    mat_kv: Linear,
    v_bias: Tensor,
    proj: Linear,
}

struct FeedForward {
    fc1: Linear,
    fc2: Linear,
}

/// One block with the weights of both streams.
pub(crate) struct Block {
    heads: usize,
    head_dim: usize,
    eps: f64,
    ada_gss: Tensor,
    control_ada_gss: Tensor,
    sa: JointAttention,
    ca: CrossAttention,
    ca_control_mat_kv: Linear,
    ca_control_v_bias: Tensor,
    ca_norm: LayerNorm,
    ffn: FeedForward,
    content: Option<ContentBranch>,
}

impl JointAttention {
    fn new(vb: VarBuilder, c: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            mat_qkv: Linear::without_bias(vb.pp("mat_qkv"), c, 3 * c)?,
            q_bias: vb.get(c, "q_bias")?,
            v_bias: vb.get(c, "v_bias")?,
            sharpness: sharpness(&vb, "scale_mul_1H11", heads)?,
            proj: Linear::new(vb.pp("proj"), c, c)?,
            control_mat_kv: Linear::without_bias(vb.pp("control_mat_kv"), c, 2 * c)?,
            control_v_bias: vb.get(c, "control_v_bias")?,
            control_attn: Linear::without_bias(vb.pp("control_attn"), c, c)?,
        })
    }
}

fn sharpness(vb: &VarBuilder, name: &str, heads: usize) -> Result<Vec<f32>> {
    let logs = vb.get((1, heads, 1, 1), name)?.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(logs.into_iter().map(|log| log.min(MAX_LOG_SHARPNESS).exp()).collect())
}

impl CrossAttention {
    fn new(vb: VarBuilder, c: usize) -> Result<Self> {
        Ok(Self {
            mat_q: Linear::new(vb.pp("mat_q"), c, c)?,
            mat_kv: Linear::without_bias(vb.pp("mat_kv"), c, 2 * c)?,
            v_bias: vb.get(c, "v_bias")?,
            proj: Linear::new(vb.pp("proj"), c, c)?,
        })
    }
}

impl FeedForward {
    fn new(vb: VarBuilder, c: usize, hidden: usize) -> Result<Self> {
        Ok(Self { fc1: Linear::new(vb.pp("fc1"), c, hidden)?, fc2: Linear::new(vb.pp("fc2"), hidden, c)? })
    }

    /// Without the bias of the second layer, which the residual addition adds.
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let hidden = activate(self.fc1.product(xs)?, self.fc1.bias(), Activation::GeluTanh)?;
        self.fc2.product(&hidden)
    }
}

impl ContentBranch {
    fn new(vb: &VarBuilder, config: &EchoGenConfig) -> Result<Self> {
        let (c, sa) = (config.dim, vb.pp("sa"));
        Ok(Self {
            control_mat_q: Linear::without_bias(sa.pp("control_mat_q"), c, c)?,
            control_q_bias: sa.get(c, "control_q_bias")?,
            control_sharpness: sharpness(&sa, "control_scale_mul_1H11", config.heads)?,
            control_proj: Linear::new(sa.pp("control_proj"), c, c)?,
            control_ca_norm: LayerNorm::new(vb.pp("control_ca_norm"), c, config.norm_eps)?,
            control_ca: CrossAttention::new(vb.pp("control_ca"), c)?,
            control_ffn: FeedForward::new(vb.pp("control_ffn"), c, config.hidden())?,
        })
    }
}

impl Block {
    pub(crate) fn new(vb: VarBuilder, config: &EchoGenConfig, last: bool) -> Result<Self> {
        let c = config.dim;
        Ok(Self {
            heads: config.heads,
            head_dim: config.head_dim(),
            eps: config.norm_eps,
            ada_gss: gains(&vb, "ada_gss", c)?,
            control_ada_gss: gains(&vb, "control_ada_gss", c)?,
            sa: JointAttention::new(vb.pp("sa"), c, config.heads)?,
            ca: CrossAttention::new(vb.pp("ca"), c)?,
            ca_control_mat_kv: Linear::without_bias(vb.pp("ca.control_mat_kv"), c, 2 * c)?,
            ca_control_v_bias: vb.get(c, "ca.control_v_bias")?,
            ca_norm: LayerNorm::new(vb.pp("ca_norm"), c, config.norm_eps)?,
            ffn: FeedForward::new(vb.pp("ffn"), c, config.hidden())?,
            content: if last { None } else { Some(ContentBranch::new(&vb, config)?) },
        })
    }

    /// Returns the dtype of the weights.
    pub(crate) fn dtype(&self) -> candle_core::DType {
        self.sa.proj.dtype()
    }

    /// Returns the sum of the block's own image gains and those of the rows, (R, 6, C).
    pub(crate) fn image_gains(&self, gains: &Tensor) -> Result<Tensor> {
        gains.broadcast_add(&self.ada_gss)
    }

    /// Returns keys and values of the text tokens for the image stream; `words` (T, C).
    pub(crate) fn words(&self, words: &Tensor) -> Result<KeyValue> {
        self.key_value(&self.ca.mat_kv.product(words)?, &self.ca.v_bias, false)
    }

    /// Returns keys and values of the text tokens for the content stream; `None` in the last block.
    pub(crate) fn words_for_content(&self, words: &Tensor) -> Result<Option<KeyValue>> {
        let Some(branch) = &self.content else { return Ok(None) };
        let attention = &branch.control_ca;
        self.key_value(&attention.mat_kv.product(words)?, &attention.v_bias, false).map(Some)
    }

    /// Returns keys and values of the semantic patches for the image stream; `patches` (S, C).
    pub(crate) fn patches(&self, patches: &Tensor) -> Result<KeyValue> {
        self.key_value(&self.ca_control_mat_kv.product(patches)?, &self.ca_control_v_bias, false)
    }

    /// Returns the content keys and values for the image stream, and the content stream for the next block (`None` in
    /// the last block). `content` is (K, C); `gains` (1, 6, C) excludes the block's own.
    pub(crate) fn content(
        &self,
        content: &Tensor,
        gains: &Tensor,
        words: Option<&KeyValue>,
    ) -> Result<(KeyValue, Option<Tensor>)> {
        let gains = &gains.broadcast_add(&self.control_ada_gss)?;
        let normed = self.norm(content, gains, Gain::Scale1, Gain::Shift1)?;
        let own = self.key_value(&self.sa.control_mat_kv.product(&normed)?, &self.sa.control_v_bias, true)?;
        let (Some(branch), Some(words)) = (&self.content, words) else { return Ok((own, None)) };
        let options = HeadOptions {
            bias: Some(&branch.control_q_bias),
            unit: true,
            sharpness: Some(&branch.control_sharpness),
            ..HeadOptions::default()
        };
        let queries = self.heads_of(&branch.control_mat_q.product(&normed)?, options)?;
        let seen = branch.control_proj.product(&attend(&queries, &[&own], 1.0)?)?;
        let content = residual(content, &seen, branch.control_proj.bias(), Some((gains, Gain::Gate1 as usize)))?;
        let content = self.cross(&branch.control_ca, &branch.control_ca_norm, &content, &[words])?;
        let hidden = branch.control_ffn.forward(&self.norm(&content, gains, Gain::Scale2, Gain::Shift2)?)?;
        let gate = Some((gains, Gain::Gate2 as usize));
        let content = residual(&content, &hidden, branch.control_ffn.fc2.bias(), gate)?;
        Ok((own, Some(content)))
    }

    /// Returns the image stream (R · L, C) after this block. Appends the tokens' keys and values to the rows' caches.
    pub(crate) fn image(&self, xs: &Tensor, step: &ImageStep) -> Result<Tensor> {
        let gains = step.gains;
        let normed = self.norm(xs, gains, Gain::Scale1, Gain::Shift1)?;
        let seen = self.joint_attention(&normed, step)?;
        let xs = residual(xs, &seen, self.sa.proj.bias(), Some((gains, Gain::Gate1 as usize)))?;
        let xs = self.words_and_patches(&xs, step)?;
        let hidden = self.ffn.forward(&self.norm(&xs, gains, Gain::Scale2, Gain::Shift2)?)?;
        residual(&xs, &hidden, self.ffn.fc2.bias(), Some((gains, Gain::Gate2 as usize)))
    }

    fn joint_attention(&self, normed: &Tensor, step: &ImageStep) -> Result<Tensor> {
        let (rows, c) = (step.conditions.len(), self.heads * self.head_dim);
        let qkv = self.sa.mat_qkv.product(normed)?; // (R · L, 3C)
        let split = |part: usize, options: HeadOptions| {
            split_heads(&qkv, part * c, (rows, self.heads, self.head_dim), options) // (R, H, L, head_dim)
        };
        let turned = HeadOptions { unit: true, rotation: Some(step.rotation), ..HeadOptions::default() };
        let queries =
            split(0, HeadOptions { bias: Some(&self.sa.q_bias), sharpness: Some(&self.sa.sharpness), ..turned })?;
        let keys = split(1, turned)?;
        let values = split(2, HeadOptions { bias: Some(&self.sa.v_bias), ..HeadOptions::default() })?;
        let (mut own, mut subject) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for (row, (condition, cache)) in step.conditions.iter().zip(step.caches).enumerate() {
            cache.keys.slice_set(&keys.get(row)?, 1, step.position)?;
            cache.values.slice_set(&values.get(row)?, 1, step.position)?;
            let queries = queries.get(row)?;
            for span in step.spans {
                let visible = KeyValue {
                    keys: cache.keys.narrow(1, 0, span.keys)?,
                    values: cache.values.narrow(1, 0, span.keys)?,
                };
                own.push(attend(&queries.narrow(1, span.start, span.count)?, &[&visible], 1.0)?);
            }
            subject.push(attend(&queries, &[&condition.content], 1.0)?);
        }
        let (own, subject) = (join(&own)?, join(&subject)?); // (R · L, C)
        self.sa.proj.product(&(own + self.sa.control_attn.product(&subject)?)?)
    }

    fn words_and_patches(&self, xs: &Tensor, step: &ImageStep) -> Result<Tensor> {
        let rows = step.conditions.len();
        let queries = self.ca.mat_q.product(&self.ca_norm.forward(xs)?)?;
        let options = HeadOptions { bias: self.ca.mat_q.bias(), ..HeadOptions::default() };
        let queries = split_heads(&queries, 0, (rows, self.heads, self.head_dim), options)?;
        let seen =
            step.conditions.iter().enumerate().map(|(row, condition)| {
                attend(&queries.get(row)?, &[&condition.patches, &condition.words], self.scale())
            });
        let seen = join(&seen.collect::<Result<Vec<_>>>()?)?;
        residual(xs, &self.ca.proj.product(&seen)?, self.ca.proj.bias(), None)
    }

    fn cross(
        &self,
        attention: &CrossAttention,
        norm: &LayerNorm,
        xs: &Tensor,
        segments: &[&KeyValue],
    ) -> Result<Tensor> {
        let options = HeadOptions { bias: attention.mat_q.bias(), ..HeadOptions::default() };
        let queries = self.heads_of(&attention.mat_q.product(&norm.forward(xs)?)?, options)?;
        let seen = attention.proj.product(&attend(&queries, segments, self.scale())?)?;
        residual(xs, &seen, attention.proj.bias(), None)
    }

    fn norm(&self, xs: &Tensor, gains: &Tensor, scale: Gain, shift: Gain) -> Result<Tensor> {
        modulated_norm(xs, gains, scale as usize, shift as usize, self.eps)
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Splits one row's (tokens, C) into heads: (H, tokens, head_dim).
    fn heads_of(&self, xs: &Tensor, options: HeadOptions) -> Result<Tensor> {
        split_heads(xs, 0, (1, self.heads, self.head_dim), options)?.squeeze(0)
    }

    /// Splits (tokens, 2C) into keys and values. `unit` selects L2 normalisation of the keys.
    fn key_value(&self, xs: &Tensor, v_bias: &Tensor, unit: bool) -> Result<KeyValue> {
        let shape = (1, self.heads, self.head_dim);
        let keys = split_heads(xs, 0, shape, HeadOptions { unit, ..HeadOptions::default() })?.squeeze(0)?;
        let options = HeadOptions { bias: Some(v_bias), ..HeadOptions::default() };
        let values = split_heads(xs, self.heads * self.head_dim, shape, options)?.squeeze(0)?;
        Ok(KeyValue { keys, values })
    }
}

/// Loads a block's own gains, (1, 1, 6, C) in the file, as (1, 6, C) in float32.
fn gains(vb: &VarBuilder, name: &str, c: usize) -> Result<Tensor> {
    vb.get((1, 1, 6, c), name)?.squeeze(0)?.to_dtype(candle_core::DType::F32)
}

/// Concatenates rows along dimension 0. A single row is not copied.
fn join(rows: &[Tensor]) -> Result<Tensor> {
    match rows {
        [row] => Ok(row.clone()),
        rows => Tensor::cat(rows, 0),
    }
}
