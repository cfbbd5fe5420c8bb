//! BERT encoder with an attention mask per token pair and position ids given by the caller.
//!
//! Devlin et al., "BERT" (2018); compared with `modeling_bert.py` of transformers 5.23. The pooler is not loaded.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::{Embedding, Module, VarBuilder};

use super::{attention::Projections, config::BertConfig};
use crate::layers::{
    kernels::{Activation, activate, residual},
    linear::Linear,
    norm::LayerNorm,
};

#[derive(Debug, Clone)]
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
}

impl Embeddings {
    fn new(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let width = config.hidden_size;
        let table = |rows: usize, name: &str| candle_nn::embedding(rows, width, vb.pp(name));
        Ok(Self {
            word_embeddings: table(config.vocab_size, "word_embeddings")?,
            position_embeddings: table(config.max_position_embeddings, "position_embeddings")?,
            token_type_embeddings: table(config.type_vocab_size, "token_type_embeddings")?,
            layer_norm: LayerNorm::new(vb.pp("LayerNorm"), width, config.layer_norm_eps)?,
        })
    }

    fn forward(&self, input_ids: &Tensor, token_type_ids: &Tensor, position_ids: &Tensor) -> Result<Tensor> {
        let words = self.word_embeddings.forward(input_ids)?;
        let types = self.token_type_embeddings.forward(token_type_ids)?;
        let positions = self.position_embeddings.forward(position_ids)?;
        self.layer_norm.forward(&((words + types)? + positions)?)
    }
}

/// A post-norm transformer block: attention, then MLP, each added to the stream and normed.
#[derive(Debug, Clone)]
struct Layer {
    attention: Projections,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    fn new(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = vb.pp("attention");
        Ok(Self {
            attention: Projections::new(
                &attention.pp("self"),
                attention.pp("output.dense"),
                width,
                config.num_attention_heads,
            )?,
            attention_norm: LayerNorm::new(attention.pp("output.LayerNorm"), width, eps)?,
            intermediate: Linear::new(vb.pp("intermediate.dense"), width, inner)?,
            output: Linear::new(vb.pp("output.dense"), inner, width)?,
            output_norm: LayerNorm::new(vb.pp("output.LayerNorm"), width, eps)?,
        })
    }

    /// `xs` (batch · tokens, width).
    fn forward(&self, xs: &Tensor, batch: usize, bias: &Tensor) -> Result<Tensor> {
        let ys = self.attention.forward((xs, xs, xs), batch, Some(bias))?;
        let xs = self.attention_norm.forward(&residual(xs, &ys, self.attention.out_bias(), None)?)?;
        let inner = activate(self.intermediate.product(&xs)?, self.intermediate.bias(), Activation::GeluErf)?;
        let ys = self.output.product(&inner)?;
        self.output_norm.forward(&residual(&xs, &ys, self.output.bias(), None)?)
    }
}

/// The complete encoder.
#[derive(Debug, Clone)]
pub(super) struct Bert {
    embeddings: Embeddings,
    layer: Vec<Layer>,
    config: BertConfig,
}

impl Bert {
    pub(super) fn new(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            bail!("hidden_size {} is not a multiple of {} heads", config.hidden_size, config.num_attention_heads);
        }
        let layer = vb.pp("encoder.layer");
        Ok(Self {
            embeddings: Embeddings::new(vb.pp("embeddings"), config)?,
            layer: (0..config.num_hidden_layers).map(|n| Layer::new(layer.pp(n), config)).collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// Takes token ids (batch, tokens); `bias` (batch, 1, tokens, tokens) is added to the scores. Returns (batch ·
    /// tokens, width).
    pub(super) fn forward(
        &self,
        input_ids: &Tensor,
        token_type_ids: &Tensor,
        position_ids: &Tensor,
        bias: &Tensor,
    ) -> Result<Tensor> {
        let (batch, tokens) = input_ids.dims2()?;
        let xs = self.embeddings.forward(input_ids, token_type_ids, position_ids)?;
        let mut xs = xs.to_dtype(DType::F32)?.reshape((batch * tokens, self.config.hidden_size))?;
        for layer in &self.layer {
            xs = layer.forward(&xs, batch, bias)?;
        }
        Ok(xs)
    }
}
