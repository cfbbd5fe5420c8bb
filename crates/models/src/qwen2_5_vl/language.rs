//! The language model: takes embedded tokens, returns the next token's logits; keeps a key-value cache.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{config::QwenTextConfig, mlp::Mlp, vision::interleave_halves};
use crate::layers::{
    CheckedMatmul,
    attention::{HeadOptions, KeyValue, Rotation, attend, split_heads},
    linear::Linear,
    norm::RmsNorm,
};

/// Number of prompt tokens that attention processes at a time.
const BAND: usize = 128;

#[derive(Debug, Clone)]
struct Attention {
    /// Rows: all queries, all keys, all values; channel halves of queries and keys are interleaved.
    qkv: Linear,
    o_proj: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Attention {
    fn new(vb: VarBuilder, config: &QwenTextConfig) -> Result<Self> {
        let (width, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let part = |name: &str, heads: usize| {
            let vb = vb.pp(name);
            Ok::<_, candle_core::Error>((
                vb.get((heads * head_dim, width), "weight")?,
                vb.get(heads * head_dim, "bias")?,
            ))
        };
        let (q, k, v) = (part("q_proj", heads)?, part("k_proj", kv_heads)?, part("v_proj", kv_heads)?);
        let weight = Tensor::cat(&[interleave_halves(&q.0, heads)?, interleave_halves(&k.0, kv_heads)?, v.0], 0)?;
        let bias = Tensor::cat(&[interleave_halves(&q.1, heads)?, interleave_halves(&k.1, kv_heads)?, v.1], 0)?;
        Ok(Self {
            qkv: Linear::from_tensors(&weight, Some(bias))?,
            o_proj: Linear::without_bias(vb.pp("o_proj"), heads * head_dim, width)?,
            heads,
            kv_heads,
            head_dim,
        })
    }

    /// Returns the branch's output for the stream (tokens, width), without a residual addition. `past` is the
    /// key-value cache, to which these tokens are appended.
    fn forward(&self, xs: &Tensor, rotation: &Rotation, past: &mut Option<KeyValue>) -> Result<Tensor> {
        let qkv = self.qkv.product(xs)?;
        let part = |first: usize, heads: usize, rotation: Option<&Rotation>| {
            let (offset, count) = (first * self.head_dim, heads * self.head_dim);
            let bias = self.qkv.bias().map(|bias| bias.narrow(0, offset, count)).transpose()?;
            let options = HeadOptions { bias: bias.as_ref(), rotation, ..HeadOptions::default() };
            split_heads(&qkv, offset, (1, heads, self.head_dim), options)?.squeeze(0)
        };
        let queries = part(0, self.heads, Some(rotation))?; // (heads, tokens, head_dim)
        let (keys, values) =
            (part(self.heads, self.kv_heads, Some(rotation))?, part(self.heads + self.kv_heads, self.kv_heads, None)?);
        let seen = match past.take() {
            None => KeyValue { keys, values },
            Some(past) => KeyValue {
                keys: Tensor::cat(&[&past.keys, &keys], 1)?,
                values: Tensor::cat(&[&past.values, &values], 1)?,
            },
        };
        let mixed = if queries.dim(1)? == 1 { self.one(&queries, &seen)? } else { self.many(&queries, &seen)? };
        *past = Some(seen);
        self.o_proj.product(&mixed)
    }

    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    /// Attention of one token to itself and all earlier ones. Query heads that share keys are processed as rows of one
    /// head.
    fn one(&self, queries: &Tensor, seen: &KeyValue) -> Result<Tensor> {
        let group = self.heads / self.kv_heads;
        let queries = queries.reshape((self.kv_heads, group, self.head_dim))?;
        let mixed = attend(&queries, &[seen], self.scale())?; // (group, kv_heads · head_dim)
        let mixed = mixed.reshape((group, self.kv_heads, self.head_dim))?.transpose(0, 1)?.contiguous()?;
        mixed.reshape((1, self.heads * self.head_dim))
    }

    /// Causal attention of several tokens, in bands of tokens.
    fn many(&self, queries: &Tensor, seen: &KeyValue) -> Result<Tensor> {
        let (group, tokens) = (self.heads / self.kv_heads, queries.dim(1)?);
        let before = seen.keys.dim(1)? - tokens;
        let band = |start: usize| {
            let count = BAND.min(tokens - start);
            let keys = before + start + count;
            let queries = queries.narrow(1, start, count)?.contiguous()?;
            let queries = queries.reshape((self.kv_heads, group * count, self.head_dim))?;
            let scores =
                queries.checked_matmul(&seen.keys.narrow(1, 0, keys)?.contiguous()?.t()?)?.to_dtype(DType::F32)?;
            let scores = (scores.reshape((self.kv_heads, group, count, keys))? * self.scale())?;
            let weights = candle_nn::ops::softmax_last_dim(&scores.broadcast_add(&causal_mask(
                count,
                keys,
                queries.device(),
            )?)?)?;
            let weights = weights.reshape((self.kv_heads, group * count, keys))?.to_dtype(queries.dtype())?;
            let mixed = weights.checked_matmul(&seen.values.narrow(1, 0, keys)?.contiguous()?)?;
            // (kv_heads, group, tokens, head_dim) to (tokens, heads · head_dim)
            let mixed = mixed.reshape((self.heads, count, self.head_dim))?.transpose(0, 1)?.contiguous()?;
            mixed.reshape((count, self.heads * self.head_dim))
        };
        Tensor::cat(&(0..tokens).step_by(BAND).map(band).collect::<Result<Vec<_>>>()?, 0)
    }
}

/// Returns the causal mask (count, keys) of the last `count` tokens: 0 for visible keys, minus infinity for later
/// ones.
fn causal_mask(count: usize, keys: usize, device: &Device) -> Result<Tensor> {
    let before = keys - count;
    let sees = |row: usize, key: usize| if key <= before + row { 0.0 } else { f32::NEG_INFINITY };
    let mask: Vec<f32> = (0..count).flat_map(|row| (0..keys).map(move |key| sees(row, key))).collect();
    Tensor::from_vec(mask, (count, keys), device)
}

#[derive(Debug, Clone)]
struct Layer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl Layer {
    fn new(vb: VarBuilder, config: &QwenTextConfig) -> Result<Self> {
        let norm = |name: &str| RmsNorm::new(vb.pp(name), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::new(vb.pp("self_attn"), config)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::new(vb.pp("mlp"), (config.hidden_size, config.intermediate_size), Linear::without_bias)?,
        })
    }

    fn forward(&self, xs: &Tensor, rotation: &Rotation, past: &mut Option<KeyValue>) -> Result<Tensor> {
        let ys = self.self_attn.forward(&self.input_layernorm.forward(xs)?, rotation, past)?;
        let xs = (xs + ys.to_dtype(DType::F32)?)?;
        let ys = self.mlp.forward(&self.post_attention_layernorm.forward(&xs)?)?;
        xs + ys.to_dtype(DType::F32)?
    }
}

/// The key-value cache, block by block.
#[derive(Debug, Clone)]
pub(super) struct Past(Vec<Option<KeyValue>>);

/// The language model.
#[derive(Debug, Clone)]
pub(super) struct LanguageModel {
    /// (vocab_size, hidden_size)
    embed_tokens: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    /// (vocab_size, hidden_size): the token embedding table itself if the weights are tied.
    lm_head: Tensor,
}

impl LanguageModel {
    /// Loads the blocks below `model`, and the output head below `head` if it has its own weights.
    pub(super) fn new(model: VarBuilder, head: Option<VarBuilder>, config: &QwenTextConfig) -> Result<Self> {
        let shape = (config.vocab_size, config.hidden_size);
        let embed_tokens = model.get(shape, "embed_tokens.weight")?;
        let layers = model.pp("layers");
        Ok(Self {
            lm_head: head.map_or_else(|| Ok(embed_tokens.clone()), |head| head.get(shape, "weight"))?,
            embed_tokens,
            layers: (0..config.num_hidden_layers).map(|n| Layer::new(layers.pp(n), config)).collect::<Result<_>>()?,
            norm: RmsNorm::new(model.pp("norm"), config.hidden_size, config.rms_norm_eps)?,
        })
    }

    pub(super) fn device(&self) -> &Device {
        self.embed_tokens.device()
    }

    /// Returns an empty key-value cache.
    pub(super) fn no_past(&self) -> Past {
        Past(vec![None; self.layers.len()])
    }

    /// Embeds token ids: (tokens, hidden_size), float32.
    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let rows = self.embed_tokens.dim(0)?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            bail!("token {id} is none of {rows}");
        }
        let ids = Tensor::from_slice(ids, ids.len(), self.device())?;
        self.embed_tokens.index_select(&ids, 0)?.to_dtype(DType::F32)
    }

    /// Processes further tokens (tokens, hidden_size) and returns the stream after the final norm. `visit` is called
    /// with the stream before the first block and after each block but the last, then with the normed stream.
    pub(super) fn read(
        &self,
        xs: Tensor,
        rotation: &Rotation,
        past: &mut Past,
        visit: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let mut xs = xs;
        for (index, (layer, past)) in self.layers.iter().zip(&mut past.0).enumerate() {
            visit(index, &xs)?;
            xs = layer.forward(&xs, rotation, past)?;
        }
        let normed = self.norm.forward(&xs)?;
        visit(self.layers.len(), &normed)?;
        Ok(normed)
    }

    /// Returns the logits (tokens, vocab_size) of normed rows.
    pub(super) fn logits(&self, normed: &Tensor) -> Result<Tensor> {
        normed.to_dtype(self.lm_head.dtype())?.checked_matmul(&self.lm_head.t()?)?.to_dtype(DType::F32)
    }
}
