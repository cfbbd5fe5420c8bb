//! One transformer block with two streams: the content stream attends to text and itself; the image stream attends to
//! text, subject and itself.
//!
//! Field names are the checkpoint's. Gains are the six adaptive layer norm vectors of a block (two gates, two scales,
//! two shifts). Shapes: C width, H heads, R guidance rows, L image tokens of the current scale, K content tokens, T
//! text tokens, S patches.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::config::EchoGenConfig;
use crate::layers::{
    attention::{HeadOptions, KeyValue, Rotation, Row, append_heads, attend, attend_rows, split_heads, split_parts},
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

impl ImageStep<'_> {
    /// Returns what the queries of each span see of a cache.
    fn visible(&self, cache: &KeyValue) -> Result<Vec<KeyValue>> {
        let seen = |span: &Span| {
            Ok(KeyValue { keys: cache.keys.narrow(1, 0, span.keys)?, values: cache.values.narrow(1, 0, span.keys)? })
        };
        self.spans.iter().map(seen).collect()
    }
}

/// Self-attention of the image stream and its cross-attention to the subject: projections of both streams.
struct JointAttention {
    mat_qkv: Linear,
    q_bias: Tensor,
    v_bias: Tensor,
    sharpness: Tensor,
    proj: Linear,
    control_mat_kv: Linear,
    control_v_bias: Tensor,
    control_attn: Linear,
}

/// The part of a block that updates the content stream. The last block has none, because its content output is unused.
struct ContentBranch {
    control_mat_q: Linear,
    control_q_bias: Tensor,
    control_sharpness: Tensor,
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

/// Loads the heads' log sharpness and returns the sharpness, (heads) in float32.
fn sharpness(vb: &VarBuilder, name: &str, heads: usize) -> Result<Tensor> {
    let logs = vb.get((1, heads, 1, 1), name)?.to_dtype(candle_core::DType::F32)?.flatten_all()?;
    let logs = logs.to_vec1::<f32>()?.into_iter();
    Tensor::from_iter(logs.map(|log| log.min(MAX_LOG_SHARPNESS).exp()), vb.device())
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
        let shape @ (rows, ..) = (step.conditions.len(), self.heads, self.head_dim);
        let qkv = self.sa.mat_qkv.product(normed)?; // (R · L, 3C)
        let turned = HeadOptions { unit: true, rotation: Some(step.rotation), ..HeadOptions::default() };
        let options = [
            HeadOptions { bias: Some(&self.sa.q_bias), sharpness: Some(&self.sa.sharpness), ..turned },
            turned,
            HeadOptions { bias: Some(&self.sa.v_bias), ..HeadOptions::default() },
        ];
        let queries = append_heads(&qkv, shape, options, step.caches, step.position)?; // (R, H, L, head_dim)
        let queries = (0..rows).map(|row| queries.get(row)).collect::<Result<Vec<_>>>()?;
        let visible = step.caches.iter().map(|cache| step.visible(cache)).collect::<Result<Vec<_>>>()?;
        let own = queries.iter().zip(&visible).flat_map(|(queries, visible)| {
            step.spans.iter().zip(visible).map(|(span, visible)| {
                Ok(Row { queries: queries.narrow(1, span.start, span.count)?, segments: vec![visible] })
            })
        });
        let own = attend_rows(&own.collect::<Result<Vec<_>>>()?, 1.0)?; // (R · L, C)
        let subject = queries.into_iter().zip(step.conditions);
        let subject = subject.map(|(queries, condition)| Row { queries, segments: vec![&condition.content] });
        let subject = attend_rows(&subject.collect::<Vec<_>>(), 1.0)?;
        self.sa.proj.product(&self.sa.control_attn.product_onto(&subject, own)?)
    }

    fn words_and_patches(&self, xs: &Tensor, step: &ImageStep) -> Result<Tensor> {
        let rows = step.conditions.len();
        let queries = self.ca.mat_q.product(&self.ca_norm.forward_as(xs, self.dtype())?)?;
        let options = HeadOptions { bias: self.ca.mat_q.bias(), ..HeadOptions::default() };
        let queries = split_heads(&queries, 0, (rows, self.heads, self.head_dim), options)?;
        let seen = step.conditions.iter().enumerate().map(|(row, condition)| {
            Ok(Row { queries: queries.get(row)?, segments: vec![&condition.patches, &condition.words] })
        });
        let seen = attend_rows(&seen.collect::<Result<Vec<_>>>()?, self.scale())?;
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
        let queries = self.heads_of(&attention.mat_q.product(&norm.forward_as(xs, self.dtype())?)?, options)?;
        let seen = attention.proj.product(&attend(&queries, segments, self.scale())?)?;
        residual(xs, &seen, attention.proj.bias(), None)
    }

    fn norm(&self, xs: &Tensor, gains: &Tensor, scale: Gain, shift: Gain) -> Result<Tensor> {
        modulated_norm(xs, gains, (scale as usize, shift as usize), self.eps, self.dtype())
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
        let keys = HeadOptions { unit, ..HeadOptions::default() };
        let values = HeadOptions { bias: Some(v_bias), ..HeadOptions::default() };
        let parts = split_parts(xs, 0, (1, self.heads, self.head_dim), [keys, values])?;
        let [keys, values] = parts.as_slice() else { bail!("a projection was not split into keys and values") };
        Ok(KeyValue { keys: keys.squeeze(0)?, values: values.squeeze(0)? })
    }
}

/// Loads a block's own gains for the image stream, (1, 6, C) in float32.
pub(crate) fn image_gains(vb: &VarBuilder, c: usize) -> Result<Tensor> {
    gains(vb, "ada_gss", c)
}

/// Loads a block's own gains, (1, 1, 6, C) in the file, as (1, 6, C) in float32.
fn gains(vb: &VarBuilder, name: &str, c: usize) -> Result<Tensor> {
    vb.get((1, 1, 6, c), name)?.squeeze(0)?.to_dtype(candle_core::DType::F32)
}
