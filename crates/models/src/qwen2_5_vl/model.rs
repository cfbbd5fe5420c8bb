//! The vision-language model and greedy decoding.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{
    config::QwenConfig,
    language::{LanguageModel, Past},
    positions::{Grid, TextPositions, text_rotation},
    vision::VisionTower,
};

/// A prompt with pictures.
#[derive(Debug, Clone)]
pub struct QwenInput<'a> {
    /// Token ids; a picture's positions hold the image token.
    pub input_ids: &'a [u32],
    /// Patches of all pictures, in order: (patches, values per patch).
    pub pixel_values: &'a Tensor,
    /// Sizes of the pictures in patches, in order.
    pub grids: &'a [Grid],
}

/// The state of decoding: the key-value cache and the next token's logits.
#[derive(Debug, Clone)]
pub struct DecodingState {
    past: Past,
    next: u32,
    /// Logits of the next token, (vocab_size).
    pub logits: Tensor,
    /// The hidden state of all prompt tokens after the final norm, (tokens, hidden_size).
    pub hidden: Tensor,
}

/// The vision-language model. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct Qwen {
    visual: VisionTower,
    language: LanguageModel,
    config: QwenConfig,
}

impl Qwen {
    /// Builds the model. Matrix products run in the weights' dtype; residual streams, norms and softmax are f32.
    pub fn new(vb: VarBuilder, config: &QwenConfig) -> Result<Self> {
        config.check()?;
        let model = vb.pp("model");
        let is_nested = vb.contains_tensor("model.language_model.embed_tokens.weight");
        let visual = vb.contains_tensor("model.visual.patch_embed.proj.weight");
        let visual = if visual { model.pp("visual") } else { vb.pp("visual") };
        let is_tied = config.tie_word_embeddings || !vb.contains_tensor("lm_head.weight");
        let language = if is_nested { model.pp("language_model") } else { model };
        Ok(Self {
            visual: VisionTower::new(visual, &config.vision)?,
            language: LanguageModel::new(language, (!is_tied).then(|| vb.pp("lm_head")), &config.text)?,
            config: config.clone(),
        })
    }

    /// Returns whether a tensor of a published checkpoint is unused: buffers derived from the configuration, and an
    /// output head that duplicates the token embedding table.
    pub fn is_ignored(name: &str) -> bool {
        name.ends_with("inv_freq") || name == "lm_head.weight"
    }

    /// Returns the configuration of the model.
    pub fn config(&self) -> &QwenConfig {
        &self.config
    }

    /// Returns the vision encoder.
    pub fn visual(&self) -> &VisionTower {
        &self.visual
    }

    /// Processes a prompt with pictures (prefill).
    pub fn prefill(&self, input: &QwenInput<'_>) -> Result<DecodingState> {
        self.prefill_visiting(input, &mut |_, _| Ok(()))
    }

    /// As [`prefill`](Self::prefill). `visit` is called with the language model's stream (tokens, hidden_size) before each
    /// block, and after the final norm.
    pub fn prefill_visiting(
        &self,
        input: &QwenInput<'_>,
        visit: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<DecodingState> {
        let merge = self.config.vision.spatial_merge_size;
        let positions = TextPositions::new(input.input_ids, self.config.image_token_id, input.grids, merge)?;
        if input.input_ids.is_empty() {
            bail!("a text needs at least one token");
        }
        let xs = self.embed(input)?;
        let rotation = self.rotation(&positions.places)?;
        let mut past = self.language.no_past();
        let hidden = self.language.read(xs, &rotation, &mut past, visit)?;
        let logits = self.language.logits(&hidden.narrow(0, input.input_ids.len() - 1, 1)?)?.squeeze(0)?;
        Ok(DecodingState { past, next: positions.next, logits, hidden })
    }

    /// Embeds text and pictures as one sequence.
    fn embed(&self, input: &QwenInput<'_>) -> Result<Tensor> {
        let words = self.language.embed(input.input_ids)?;
        if input.grids.is_empty() {
            return Ok(words);
        }
        let pixels = input.pixel_values.to_device(self.language.device())?;
        let pictures = self.visual.forward(&pixels, input.grids)?.embeds.to_dtype(DType::F32)?;
        let is_picture = |id: &u32| *id == self.config.image_token_id;
        let (mut parts, mut start, mut shown) = (Vec::new(), 0, 0);
        for part in input.input_ids.chunk_by(|a, b| is_picture(a) == is_picture(b)) {
            parts.push(match is_picture(&part[0]) {
                true => pictures.narrow(0, shown, part.len())?,
                false => words.narrow(0, start, part.len())?,
            });
            start += part.len();
            shown += if is_picture(&part[0]) { part.len() } else { 0 };
        }
        Tensor::cat(&parts, 0)
    }

    fn rotation(&self, places: &[[u32; 3]]) -> Result<crate::layers::attention::Rotation> {
        let text = &self.config.text;
        text_rotation(places, text.head_dim(), text.rope_theta, text.mrope_section, self.language.device())
    }

    /// Returns the logits (tokens, vocab_size) of the prompt's last `count` tokens.
    pub fn last_logits(&self, state: &DecodingState, count: usize) -> Result<Tensor> {
        let tokens = state.hidden.dim(0)?;
        let count = count.min(tokens);
        self.language.logits(&state.hidden.narrow(0, tokens - count, count)?)
    }

    /// Processes one more token.
    pub fn step(&self, state: &mut DecodingState, token: u32) -> Result<()> {
        let xs = self.language.embed(&[token])?;
        let rotation = self.rotation(&[[state.next; 3]])?;
        let normed = self.language.read(xs, &rotation, &mut state.past, &mut |_, _| Ok(()))?;
        state.logits = self.language.logits(&normed)?.squeeze(0)?;
        state.next += 1;
        Ok(())
    }

    /// Decodes greedily until an end token (not returned), `max_new_tokens`, or until `observe` stops it. `observe` is
    /// called with each token and the logits that selected it, before the next token is computed.
    pub fn greedy(
        &self,
        state: &mut DecodingState,
        max_new_tokens: usize,
        mut observe: impl FnMut(u32, &Tensor) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        while tokens.len() < max_new_tokens {
            let token = likeliest(&state.logits)?;
            if self.config.eos_token_ids.contains(&token) {
                break;
            }
            tokens.push(token);
            if observe(token, &state.logits).is_break() || tokens.len() == max_new_tokens {
                break;
            }
            self.step(state, token)?;
        }
        Ok(tokens)
    }
}

/// Returns the index of the largest logit; the first one of equal logits.
fn likeliest(logits: &Tensor) -> Result<u32> {
    let logits = logits.to_device(&Device::Cpu)?.to_vec1::<f32>()?;
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (token, logit)| if *logit > best.1 { (token, *logit) } else { best });
    Ok(best.0 as u32)
}
