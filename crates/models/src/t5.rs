//! T5 encoder of the version 1.1 / flan layout: takes token ids, returns one vector per token.
//!
//! Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2020); compared
//! with `modeling_t5.py` of transformers 5.23. Encoder only: decoder and head are skipped when loading
//! ([`T5Encoder::is_ignored`]).
//!
//! candle-transformers' T5 encoder is not used. On a single prompt without padding its results are the same, but it
//! takes no padding mask, so in a batch of prompts of different lengths the shorter ones are wrong. It also needs
//! `&mut self` for its key-value cache, and keeps the residual stream in the weights' dtype, where f16 overflows. This
//! implementation takes a mask and keeps no state between calls.
//!
//! Matrix products run in the weights' dtype. The residual stream, norms and softmax are always f32. With f16 weights
//! the MLP's output projection `wo` is f32 too, because its results exceed the range of f16 in the large models.

use candle_core::{D, DType, Device, Module, Result, Tensor, bail};
use candle_nn::{Embedding, VarBuilder};
use serde::Deserialize;

use crate::layers::{
    CheckedMatmul,
    kernels::{self, Activation},
    linear::Linear,
    norm::RmsNorm,
};

/// Configuration, as in a published `config.json`. Fields absent from the file take the defaults of the reference
/// class.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct T5Config {
    /// Number of rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one attention head; `num_heads * d_kv` need not equal `d_model`.
    pub d_kv: usize,
    /// Inner width of the MLP.
    pub d_ff: usize,
    /// Number of encoder blocks.
    pub num_layers: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Number of distance buckets of the position bias, for both directions together.
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all positions share the last bucket.
    pub relative_attention_max_distance: usize,
    /// Epsilon of the RMS norms.
    pub layer_norm_epsilon: f64,
    /// Kind of the MLP.
    pub feed_forward_proj: FeedForwardProjection,
    /// The end token.
    pub eos_token_id: u32,
}

/// The two published kinds of MLP. Others are rejected when the configuration is parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedForwardProjection {
    /// `wo(relu(wi(x)))`, T5 version 1.0.
    Relu,
    /// `wo(gelu(wi_0(x)) * wi_1(x))` with the tanh form of GELU, T5 version 1.1 and flan.
    GatedGelu,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: FeedForwardProjection::Relu,
            eos_token_id: 1,
        }
    }
}

impl T5Config {
    /// The configuration of `google/flan-t5-xl`.
    pub fn flan_t5_xl() -> Self {
        Self {
            d_model: 2048,
            d_ff: 5120,
            num_layers: 24,
            num_heads: 32,
            feed_forward_proj: FeedForwardProjection::GatedGelu,
            ..Self::default()
        }
    }

    /// The configuration of `google/flan-t5-base`.
    pub fn flan_t5_base() -> Self {
        Self {
            d_model: 768,
            d_ff: 2048,
            num_layers: 12,
            num_heads: 12,
            feed_forward_proj: FeedForwardProjection::GatedGelu,
            ..Self::default()
        }
    }

    fn check(&self) -> Result<()> {
        let buckets = self.relative_attention_num_buckets;
        if buckets < 4 || !buckets.is_multiple_of(4) {
            bail!("relative_attention_num_buckets is {buckets}; it must be a positive multiple of 4");
        }
        if self.relative_attention_max_distance <= buckets / 4 {
            bail!(
                "relative_attention_max_distance is {}; with {buckets} buckets it must be above {}",
                self.relative_attention_max_distance,
                buckets / 4
            );
        }
        Ok(())
    }
}

/// `k`, `q`, `v`, `o`. Scores are not divided by the square root of the head width; T5's trained `q` includes that
/// factor.
#[derive(Debug, Clone)]
struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    heads: usize,
}

impl SelfAttention {
    fn new(vb: VarBuilder, config: &T5Config) -> Result<Self> {
        let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
        Ok(Self {
            q: Linear::as_stored(vb.pp("q"), width, inner)?,
            k: Linear::as_stored(vb.pp("k"), width, inner)?,
            v: Linear::as_stored(vb.pp("v"), width, inner)?,
            o: Linear::as_stored(vb.pp("o"), inner, width)?,
            heads: config.num_heads,
        })
    }

    /// (batch, tokens, heads * d_kv) to (batch, heads, tokens, d_kv)
    fn split_heads(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, tokens, inner) = xs.dims3()?;
        xs.reshape((batch, tokens, self.heads, inner / self.heads))?.transpose(1, 2)?.contiguous()
    }

    fn forward(&self, xs: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let q = self.split_heads(&self.q.forward(xs)?)?;
        let k = self.split_heads(&self.k.forward(xs)?)?;
        let v = self.split_heads(&self.v.forward(xs)?)?;
        // (batch, heads, tokens, tokens)
        let scores = q.checked_matmul(&k.t()?)?.to_dtype(DType::F32)?.broadcast_add(bias)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(xs.dtype())?;
        // (batch, tokens, heads * d_kv)
        self.o.forward(&weights.checked_matmul(&v)?.transpose(1, 2)?.flatten_from(2)?)
    }
}

#[derive(Debug, Clone)]
enum InnerProjection {
    Relu { wi: Linear },
    GatedGelu { wi_0: Linear, wi_1: Linear },
}

#[derive(Debug, Clone)]
struct DenseReluDense {
    wi: InnerProjection,
    wo: Linear,
}

impl DenseReluDense {
    fn new(vb: VarBuilder, config: &T5Config) -> Result<Self> {
        let linear = |name: &str| Linear::as_stored(vb.pp(name), config.d_model, config.d_ff);
        let wi = match config.feed_forward_proj {
            FeedForwardProjection::Relu => InnerProjection::Relu { wi: linear("wi")? },
            FeedForwardProjection::GatedGelu => {
                InnerProjection::GatedGelu { wi_0: linear("wi_0")?, wi_1: linear("wi_1")? }
            }
        };
        let wo_dtype = if vb.dtype() == DType::F16 { DType::F32 } else { vb.dtype() };
        let wo = Linear::as_stored(vb.pp("wo").to_dtype(wo_dtype), config.d_ff, config.d_model)?;
        Ok(Self { wi, wo })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let inner = match &self.wi {
            InnerProjection::Relu { wi } => wi.forward(xs)?.relu()?,
            InnerProjection::GatedGelu { wi_0, wi_1 } => {
                (kernels::activate(wi_0.forward(xs)?, None, Activation::GeluTanh)? * wi_1.forward(xs)?)?
            }
        };
        self.wo.forward(&inner)
    }
}

/// A pre-norm transformer block: attention, then MLP, each added to the residual stream.
#[derive(Debug, Clone)]
struct Block {
    self_attention: SelfAttention,
    self_attention_norm: RmsNorm,
    dense: DenseReluDense,
    dense_norm: RmsNorm,
}

impl Block {
    fn new(vb: VarBuilder, config: &T5Config) -> Result<Self> {
        let (attention, dense) = (vb.pp("layer.0"), vb.pp("layer.1"));
        Ok(Self {
            self_attention: SelfAttention::new(attention.pp("SelfAttention"), config)?,
            self_attention_norm: RmsNorm::new(attention.pp("layer_norm"), config.d_model, config.layer_norm_epsilon)?,
            dense: DenseReluDense::new(dense.pp("DenseReluDense"), config)?,
            dense_norm: RmsNorm::new(dense.pp("layer_norm"), config.d_model, config.layer_norm_epsilon)?,
        })
    }

    fn forward(&self, xs: &Tensor, bias: &Tensor, dtype: DType) -> Result<Tensor> {
        let normed = self.self_attention_norm.forward(xs)?.to_dtype(dtype)?;
        let xs = (xs + self.self_attention.forward(&normed, bias)?.to_dtype(DType::F32)?)?;
        let normed = self.dense_norm.forward(&xs)?.to_dtype(dtype)?;
        xs + self.dense.forward(&normed)?.to_dtype(DType::F32)?
    }
}

/// The encoder of a T5 model.
#[derive(Debug, Clone)]
pub struct T5Encoder {
    embed_tokens: Embedding,
    block: Vec<Block>,
    final_layer_norm: RmsNorm,
    /// (buckets, heads), f32; stored in block 0, added by every block.
    relative_attention_bias: Tensor,
    config: T5Config,
    dtype: DType,
}

impl T5Encoder {
    /// Builds the encoder from a checkpoint of a whole model or of an encoder alone.
    pub fn new(vb: VarBuilder, config: &T5Config) -> Result<Self> {
        config.check()?;
        // Some files store the embedding table as `shared`, some as the encoder's copy, some as both.
        let copy_only = !vb.contains_tensor("shared.weight") && vb.contains_tensor("encoder.embed_tokens.weight");
        let table = if copy_only { vb.pp("encoder.embed_tokens") } else { vb.pp("shared") };
        let vb_encoder = vb.pp("encoder");
        let bias = vb_encoder.pp("block.0.layer.0.SelfAttention.relative_attention_bias");
        let bias_shape = (config.relative_attention_num_buckets, config.num_heads);
        Ok(Self {
            embed_tokens: candle_nn::embedding(config.vocab_size, config.d_model, table)?,
            relative_attention_bias: bias.get_with_hints_dtype(bias_shape, "weight", Default::default(), DType::F32)?,
            block: (0..config.num_layers)
                .map(|n| Block::new(vb_encoder.pp("block").pp(n), config))
                .collect::<Result<_>>()?,
            final_layer_norm: RmsNorm::new(
                vb_encoder.pp("final_layer_norm"),
                config.d_model,
                config.layer_norm_epsilon,
            )?,
            config: config.clone(),
            dtype: vb.dtype(),
        })
    }

    /// Returns whether a tensor of a complete model's checkpoint does not belong to the encoder.
    pub fn is_ignored(name: &str) -> bool {
        name.starts_with("decoder.") || name.starts_with("lm_head.") || name == "encoder.embed_tokens.weight"
    }

    /// Returns the configuration of the encoder.
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Returns the device of the weights, on which token ids must be.
    pub fn device(&self) -> &Device {
        self.relative_attention_bias.device()
    }

    /// Returns the last hidden state after the final norm, (batch, tokens, d_model) f32.
    ///
    /// `input_ids`: (batch, tokens), u32 or i64. `attention_mask`: the same shape, any type, 0 for padding; without it
    /// all tokens are real. Outputs of padding tokens are computed, but no real token's output depends on them.
    pub fn forward(&self, input_ids: &Tensor, attention_mask: Option<&Tensor>) -> Result<Tensor> {
        let xs = self.run(input_ids, attention_mask, |_| ())?;
        self.final_layer_norm.forward(&xs)
    }

    /// As [`forward`](Self::forward), and also returns the embedding and the state after each block, before the final
    /// norm.
    pub fn forward_with_hidden_states(
        &self,
        input_ids: &Tensor,
        attention_mask: Option<&Tensor>,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        let mut states = Vec::with_capacity(self.block.len() + 1);
        let xs = self.run(input_ids, attention_mask, |state| states.push(state.clone()))?;
        Ok((states, self.final_layer_norm.forward(&xs)?))
    }

    fn run(&self, input_ids: &Tensor, mask: Option<&Tensor>, mut visit: impl FnMut(&Tensor)) -> Result<Tensor> {
        let (_, tokens) = input_ids.dims2()?;
        let bias = self.position_bias(tokens)?;
        let bias = match mask {
            None => bias,
            Some(mask) if mask.dims() == input_ids.dims() => bias.broadcast_add(&padding_bias(mask)?)?,
            Some(mask) => bail!("attention mask has shape {:?}, token ids {:?}", mask.dims(), input_ids.dims()),
        };
        let mut xs = self.embed_tokens.forward(input_ids)?.to_dtype(DType::F32)?;
        visit(&xs);
        for block in &self.block {
            xs = block.forward(&xs, &bias, self.dtype)?;
            visit(&xs);
        }
        Ok(xs)
    }

    /// Returns the bias that every block adds to its attention scores: (1, heads, tokens, tokens) f32, rows are
    /// queries.
    pub fn position_bias(&self, tokens: usize) -> Result<Tensor> {
        let buckets = self.position_buckets(tokens);
        let ids = Tensor::from_vec(buckets, tokens * tokens, self.device())?;
        // (tokens * tokens, heads)
        let bias = self.relative_attention_bias.index_select(&ids, 0)?;
        bias.t()?.contiguous()?.reshape((1, self.config.num_heads, tokens, tokens))
    }

    /// Returns the bucket of every pair of positions, row-major by query: tokens * tokens values.
    pub fn position_buckets(&self, tokens: usize) -> Vec<u32> {
        let T5Config { relative_attention_num_buckets: buckets, relative_attention_max_distance: distance, .. } =
            self.config;
        // Only 2 * tokens - 1 distances occur; `by_distance[tokens - 1 + r]` is the bucket of key - query = r.
        let by_distance: Vec<u32> = (0..2 * tokens)
            .map(|n| relative_position_bucket(n as i64 - (tokens as i64 - 1), buckets, distance))
            .collect();
        (0..tokens).flat_map(|query| by_distance[tokens - 1 - query..][..tokens].iter().copied()).collect()
    }
}

/// Returns the bucket of a key `relative` positions after the query (before it, if negative).
///
/// Half of the `buckets` are for keys after the query. In each half, the first half of the buckets cover one distance
/// each; the others grow logarithmically up to `max_distance`, and larger distances share the last bucket.
pub fn relative_position_bucket(relative: i64, buckets: usize, max_distance: usize) -> u32 {
    let side = buckets as u32 / 2;
    let exact = side / 2;
    let offset = if relative > 0 { side } else { 0 };
    let distance = relative.unsigned_abs();
    if distance < u64::from(exact) {
        return offset + distance as u32;
    }
    // Computed in f32 and in this order, because bucket edges (32, 64, 128, ...) fall exactly on integers and other
    // rounding would move them.
    let ratio = (distance as f32 / exact as f32).ln() / (max_distance as f64 / f64::from(exact)).ln() as f32;
    let beyond = (ratio * (side - exact) as f32) as u32;
    offset + (exact.saturating_add(beyond)).min(side - 1)
}

/// Converts a mask (batch, tokens), 0 for padding, to a bias (batch, 1, 1, tokens): the lowest finite value for
/// padding, else 0.
fn padding_bias(mask: &Tensor) -> Result<Tensor> {
    let bias = mask.eq(0f64)?.to_dtype(DType::F32)?.affine(f64::from(f32::MIN), 0.0)?;
    bias.unsqueeze(1)?.unsqueeze(D::Minus2)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::Path};

    use super::*;

    fn fixture(file: &str) -> HashMap<String, Tensor> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/t5");
        candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap()
    }

    fn fixture_config() -> T5Config {
        serde_json::from_str(include_str!("../../../tests/fixtures/t5/config.json")).unwrap()
    }

    fn encoder_as(dtype: DType) -> T5Encoder {
        let vb = VarBuilder::from_tensors(fixture("model.safetensors"), dtype, &Device::Cpu);
        T5Encoder::new(vb, &fixture_config()).unwrap()
    }

    fn encoder() -> T5Encoder {
        encoder_as(DType::F32)
    }

    fn largest(xs: &Tensor) -> f32 {
        xs.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    }

    /// Fails unless the largest difference is within `tolerance` times the largest magnitude of `expected`.
    fn check_close(actual: &Tensor, expected: &Tensor, tolerance: f32) {
        assert_eq!(actual.dims(), expected.dims());
        let error = largest(&(actual - expected).unwrap()) / largest(expected);
        assert!(error < tolerance, "off by {error} of the largest magnitude");
    }

    #[test]
    fn equals_the_reference() {
        let io = fixture("io.safetensors");
        let actual = encoder().forward(&io["in.input_ids"], Some(&io["in.attention_mask"])).unwrap();
        check_close(&actual, &io["out.last_hidden_state"], 1e-5);
        let actual = encoder().forward(&io["in.long.input_ids"], None).unwrap();
        check_close(&actual, &io["out.long.last_hidden_state"], 1e-5);
    }

    #[test]
    fn real_rows_do_not_depend_on_padding() {
        let io = fixture("io.safetensors");
        let (ids, mask) = (&io["in.input_ids"], &io["in.attention_mask"]);
        let together = encoder().forward(ids, Some(mask)).unwrap().narrow(0, 1, 1).unwrap().narrow(1, 0, 13).unwrap();
        let alone = encoder().forward(&ids.narrow(0, 1, 1).unwrap().narrow(1, 0, 13).unwrap(), None).unwrap();
        check_close(&alone, &together, 1e-6);
    }

    #[test]
    fn half_precision_stays_near() {
        let io = fixture("io.safetensors");
        for (dtype, tolerance) in [(DType::F16, 5e-3), (DType::BF16, 4e-2)] {
            let encoder = encoder_as(dtype);
            let actual = encoder.forward(&io["in.input_ids"], Some(&io["in.attention_mask"])).unwrap();
            check_close(&actual, &io["out.last_hidden_state"], tolerance);
        }
    }

    #[test]
    fn buckets_saturate_and_tell_the_direction() {
        // Edges computed with the reference's `_relative_position_bucket`, 32 buckets, distance 128.
        for (relative, bucket) in [
            (0, 0),
            (-1, 1),
            (-7, 7),
            (-8, 8),
            (-11, 8),
            (-12, 9),
            (-15, 9),
            (-16, 10),
            (-31, 11),
            (-32, 12),
            (-63, 13),
            (-64, 14),
            (-90, 14),
            (-91, 15),
            (-128, 15),
            (i64::MIN, 15),
            (1, 17),
            (7, 23),
            (8, 24),
            (64, 30),
            (i64::MAX, 31),
        ] {
            assert_eq!(relative_position_bucket(relative, 32, 128), bucket, "key - query = {relative}");
        }
    }

    #[test]
    fn the_embedding_table_has_two_names() {
        let io = fixture("io.safetensors");
        let mut weights = fixture("model.safetensors");
        let table = weights.remove("shared.weight").unwrap();
        weights.insert("encoder.embed_tokens.weight".to_owned(), table);
        weights.retain(|name, _| !name.starts_with("decoder.") && name != "lm_head.weight");
        let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
        let encoder = T5Encoder::new(vb, &fixture_config()).unwrap();
        let actual = encoder.forward(&io["in.long.input_ids"], None).unwrap();
        check_close(&actual, &io["out.long.last_hidden_state"], 1e-5);
    }

    #[test]
    fn a_sparse_config_has_the_class_defaults() {
        let config: T5Config = serde_json::from_str(r#"{"model_type": "t5", "num_layers": 3}"#).unwrap();
        assert_eq!(config, T5Config { num_layers: 3, ..T5Config::default() });
        assert_eq!(config.feed_forward_proj, FeedForwardProjection::Relu);
    }

    #[test]
    fn an_unknown_feed_forward_is_refused() {
        let error = serde_json::from_str::<T5Config>(r#"{"feed_forward_proj": "gated-silu"}"#).unwrap_err();
        assert!(error.to_string().contains("unknown variant `gated-silu`, expected `relu` or `gated-gelu`"), "{error}");
    }

    #[test]
    fn the_first_versions_feed_forward_is_relu() {
        let mut config = fixture_config();
        config.feed_forward_proj = FeedForwardProjection::Relu;
        let mut weights = fixture("model.safetensors");
        for n in 0..config.num_layers {
            let prefix = format!("encoder.block.{n}.layer.1.DenseReluDense");
            let wi = weights.remove(&format!("{prefix}.wi_0.weight")).unwrap();
            weights.insert(format!("{prefix}.wi.weight"), wi);
        }
        let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
        let dense = DenseReluDense::new(vb.pp("encoder.block.0.layer.1.DenseReluDense"), &config).unwrap();
        let InnerProjection::Relu { wi } = &dense.wi else { panic!("wrong kind") };
        let xs = Tensor::ones((1, 2, config.d_model), DType::F32, &Device::Cpu).unwrap();
        let expected = dense.wo.forward(&wi.forward(&xs).unwrap().maximum(0f64).unwrap()).unwrap();
        check_close(&dense.forward(&xs).unwrap(), &expected, 1e-6);
    }

    #[test]
    fn a_mask_of_another_shape_is_refused() {
        let io = fixture("io.safetensors");
        let error = encoder().forward(&io["in.input_ids"], Some(&io["in.long.attention_mask"])).unwrap_err();
        assert!(error.to_string().contains("attention mask has shape [1, 160], token ids [2, 21]"), "{error}");
    }

    #[test]
    fn a_token_beyond_the_vocabulary_is_an_error() {
        let ids = Tensor::new(&[[5u32, 320]], &Device::Cpu).unwrap();
        assert!(encoder().forward(&ids, None).is_err());
    }

    #[test]
    fn senseless_bucket_settings_are_refused() {
        let config = T5Config { relative_attention_num_buckets: 2, ..fixture_config() };
        let vb = VarBuilder::from_tensors(fixture("model.safetensors"), DType::F32, &Device::Cpu);
        assert!(T5Encoder::new(vb, &config).unwrap_err().to_string().contains("multiple of 4"));
    }
}
