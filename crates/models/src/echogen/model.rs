//! The transformer: embeddings, conditions, blocks and head.
//!
//! Source: the EchoGen paper's dual-path injection on top of Infinity's bitwise next-scale prediction. Tensor names
//! are those of the published `echogen_2b.pth`.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use moka::sync::Cache;

use std::sync::Arc;

use super::{
    block::{Block, ImageStep, LayerCondition, Span, image_gains},
    conditions::{RowCondition, SubjectCondition, TextCondition, TextLayer},
    config::EchoGenConfig,
    rotary::rotation_table,
    schedule::Schedule,
};
use crate::layers::{
    attention::{HeadOptions, KeyValue, Rotation, attend, split_parts},
    kernels::{Activation, activate, modulated_norm},
    linear::Linear,
    norm::RmsNorm,
    with_kept_layouts,
};

/// Number of schedules whose rotary angles are kept: those of one pixel budget, and some.
const KEPT_ROTATIONS: u64 = 20;

/// EchoGen's transformer.
pub struct EchoGen {
    pub(crate) config: EchoGenConfig,
    device: Device,
    cfg_uncond: Tensor,
    control_features_uncond: Tensor,
    control_features_refer_uncond: Tensor,
    text_norm: RmsNorm,
    text_proj_for_sos: TextPool,
    text_proj_for_ca: Projector,
    control_proj_for_ca: Projector,
    control_proj_for_ca_refer: Projector,
    control_proj_for_sos: Linear,
    pos_start: Tensor,
    control_pos_start: Tensor,
    lvl_embed: Tensor,
    word_embed: Linear,
    shared_ada_lin: Linear,
    control_shared_ada_lin: Linear,
    control_shared_ada_lin_refer: Linear,
    control_shared_ada_lin_refer_dino: Linear,
    blocks: Vec<Block>,
    /// The blocks' own gains for the image stream, (1, depth, 6, C).
    block_gains: Tensor,
    head_ada_lin: Linear,
    head: Linear,
    rotations: Cache<Schedule, Rotation>,
}

/// Features of one subject, as returned by the encoders.
#[derive(Clone, Debug)]
pub struct SubjectFeatures {
    /// DINOv2 class token, (semantic_dim).
    pub cls_token: Tensor,
    /// DINOv2 patch tokens, (S, semantic_dim), row-major.
    pub patch_tokens: Tensor,
    /// A sample of the VAE posterior, (K, content_dim), row-major.
    pub content: Tensor,
}

/// Attention pooling of the text tokens with one learned query.
struct TextPool {
    mat_q: Tensor,
    mat_kv: Linear,
    v_bias: Tensor,
    proj: Linear,
}

struct Projector {
    first: Linear,
    second: Linear,
}

/// Intermediate results of a teacher-forced pass.
#[derive(Debug, Default)]
pub struct Taps {
    /// The image stream after every block, (tokens + 1, C).
    pub blocks: Vec<Tensor>,
}

/// Intermediate results of the conditions of one (text, subject) pair; shapes as documented for the fixtures.
#[derive(Debug)]
pub struct ConditionTaps {
    /// (C).
    pub text_vector: Tensor,
    /// (C).
    pub global_vector: Tensor,
    /// (6, C).
    pub gains_image: Tensor,
    /// (6, C).
    pub gains_content: Tensor,
    /// The content stream after every block but the last, (K, C).
    pub content: Vec<Tensor>,
}

impl TextPool {
    fn new(vb: VarBuilder, config: &EchoGenConfig) -> Result<Self> {
        let (c, heads) = (config.dim, config.pool_heads());
        Ok(Self {
            mat_q: vb.get((1, heads, c / heads), "mat_q")?.reshape((heads, 1, c / heads))?,
            mat_kv: Linear::without_bias(vb.pp("mat_kv"), config.text_channels, 2 * c)?,
            v_bias: vb.get(c, "v_bias")?,
            proj: Linear::new(vb.pp("proj"), c, c)?,
        })
    }

    /// Pools (T, text_channels) to (1, C).
    fn forward(&self, text: &Tensor) -> Result<Tensor> {
        let (heads, _, head_dim) = self.mat_q.dims3()?;
        let kv = self.mat_kv.product(text)?; // (T, 2C)
        let biased = HeadOptions { bias: Some(&self.v_bias), ..HeadOptions::default() };
        let parts = split_parts(&kv, 0, (1, heads, head_dim), [HeadOptions::default(), biased])?;
        let [keys, values] = parts.as_slice() else { bail!("a projection was not split into keys and values") };
        let (keys, values) = (keys.squeeze(0)?, values.squeeze(0)?);
        let scale = 1.0 / (head_dim as f64).sqrt();
        self.proj.forward(&attend(&self.mat_q, &[&KeyValue { keys, values }], scale)?)
    }
}

impl Projector {
    fn new(vb: VarBuilder, source: usize, c: usize) -> Result<Self> {
        Ok(Self { first: Linear::new(vb.pp("0"), source, c)?, second: Linear::new(vb.pp("2"), c, c)? })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let hidden = activate(self.first.product(xs)?, self.first.bias(), Activation::GeluTanh)?;
        self.second.forward(&hidden)
    }
}

/// Loads a learned table (rows, channels). A longer table in the file is truncated; a shorter one is padded with zeros
/// (a model of a smaller pixel budget, whose further rows were never trained).
fn table(vb: &VarBuilder, name: &str, rows: usize, channels: usize) -> Result<Tensor> {
    if !vb.contains_tensor(name) {
        return vb.get((rows, channels), name);
    }
    let stored = vb.get_unchecked(name)?;
    match stored.dims2() {
        Ok((count, width)) if width == channels && count >= rows => stored.narrow(0, 0, rows),
        Ok((count, width)) if width == channels => stored.pad_with_zeros(0, 0, rows - count),
        _ => vb.get((rows, channels), name),
    }
}

/// Whether a tensor of the checkpoint is unused by design: zero buffers, training state, and the weights with which
/// the last block would update the content stream.
pub fn is_ignored(config: &EchoGenConfig, name: &str) -> bool {
    const LEFTOVERS: [&str; 4] =
        ["lvl_1L", "attn_bias_for_masking", "Infinity_visible_kvlen", "Infinity_invisible_qlen"];
    const UNREAD_IN_LAST: [&str; 7] = [
        "sa.control_mat_q.",
        "sa.control_q_bias",
        "sa.control_scale_mul_1H11",
        "sa.control_proj.",
        "control_ca_norm.",
        "control_ca.",
        "control_ffn.",
    ];
    let last = config.block_prefix(config.depth - 1);
    name.ends_with("zero_k_bias")
        || LEFTOVERS.contains(&name)
        || name
            .strip_prefix(&last)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|rest| UNREAD_IN_LAST.iter().any(|unread| rest.starts_with(unread)))
}

impl EchoGen {
    /// Loads the transformer. The blocks use `block_dtype` (bf16 or f16 where the device supports it); conditions,
    /// gains, norms, embeddings and head stay in `vb`'s dtype, which should be float32.
    pub fn new(vb: VarBuilder, config: &EchoGenConfig, block_dtype: DType) -> Result<Self> {
        config.validate().map_err(candle_core::Error::Msg)?;
        let c = config.dim;
        let gains_layer = |name: &str| Linear::new(vb.pp(name).pp("1"), c, 6 * c);
        let block_vb = |index| vb.pp(config.block_prefix(index)).to_dtype(block_dtype);
        let blocks = (0..config.depth).map(|index| Block::new(block_vb(index), config, index + 1 == config.depth));
        let block_gains = (0..config.depth).map(|index| image_gains(&block_vb(index), c));
        Ok(Self {
            config: config.clone(),
            device: vb.device().clone(),
            cfg_uncond: table(&vb, "cfg_uncond", config.text_maxlen, config.text_channels)?,
            control_features_uncond: table(&vb, "control_features_uncond", config.semantic_len, config.semantic_dim)?,
            control_features_refer_uncond: table(
                &vb,
                "control_features_refer_uncond",
                config.content_len,
                config.content_dim,
            )?,
            text_norm: RmsNorm::new(vb.pp("text_norm"), config.text_channels, config.norm_eps)?,
            text_proj_for_sos: TextPool::new(vb.pp("text_proj_for_sos.ca"), config)?,
            text_proj_for_ca: Projector::new(vb.pp("text_proj_for_ca"), config.text_channels, c)?,
            control_proj_for_ca: Projector::new(vb.pp("control_proj_for_ca"), config.semantic_dim, c)?,
            control_proj_for_ca_refer: Projector::new(vb.pp("control_proj_for_ca_refer"), config.content_dim, c)?,
            control_proj_for_sos: Linear::new(vb.pp("control_proj_for_sos"), config.semantic_dim, c)?,
            pos_start: vb.get((1, 1, c), "pos_start")?.reshape((1, c))?,
            control_pos_start: vb.get((1, 1, c), "control_pos_start")?.reshape((1, c))?,
            lvl_embed: vb.get((config.levels, c), "lvl_embed.weight")?,
            word_embed: Linear::new(vb.pp("word_embed"), config.bits, c)?,
            shared_ada_lin: gains_layer("shared_ada_lin")?,
            control_shared_ada_lin: gains_layer("control_shared_ada_lin")?,
            control_shared_ada_lin_refer: gains_layer("control_shared_ada_lin_refer")?,
            control_shared_ada_lin_refer_dino: gains_layer("control_shared_ada_lin_refer_dino")?,
            blocks: blocks.collect::<Result<Vec<_>>>()?,
            block_gains: Tensor::stack(&block_gains.collect::<Result<Vec<_>>>()?, 1)?,
            head_ada_lin: Linear::new(vb.pp("head_nm.ada_lin.1"), c, 2 * c)?,
            head: Linear::new(vb.pp("head"), c, 2 * config.bits)?,
            rotations: Cache::new(KEPT_ROTATIONS),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &EchoGenConfig {
        &self.config
    }

    /// Returns the device of the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the learned "no text" embedding of `length` tokens, (length, text_channels).
    pub(crate) fn no_text(&self, length: usize) -> Result<Tensor> {
        self.cfg_uncond.narrow(0, 0, length)
    }

    /// Returns the learned "no subject" embedding with the given numbers of content tokens and patches.
    pub(crate) fn no_subject(&self, content: usize, patches: usize) -> Result<SubjectFeatures> {
        Ok(SubjectFeatures {
            cls_token: self.control_features_uncond.get(0)?,
            patch_tokens: self.control_features_uncond.narrow(0, 1, patches)?,
            content: self.control_features_refer_uncond.narrow(0, 0, content)?,
        })
    }

    /// Returns the rotary angles of every position of a schedule, kept between batches.
    pub(crate) fn rotation(&self, schedule: &Schedule) -> Result<Rotation> {
        if let Some(kept) = self.rotations.get(schedule) {
            return Ok(kept);
        }
        let computed = rotation_table(schedule, self.config.head_dim(), &self.device)?;
        self.rotations.insert(schedule.clone(), computed.clone());
        Ok(computed)
    }

    /// Checks the shape of text features.
    pub(crate) fn check_text(&self, text: &Tensor) -> Result<()> {
        let (length, channels) = text.dims2()?;
        if length == 0 || length > self.config.text_maxlen || channels != self.config.text_channels {
            let (most, wanted) = (self.config.text_maxlen, self.config.text_channels);
            bail!("text features are {length} x {channels}; the model takes 1 to {most} tokens of {wanted} channels");
        }
        Ok(())
    }

    /// Checks the shapes of subject features.
    pub(crate) fn check_subject(&self, subject: &SubjectFeatures) -> Result<()> {
        let config = &self.config;
        let (patches, patch_channels) = subject.patch_tokens.dims2()?;
        let (content, content_channels) = subject.content.dims2()?;
        let channels = subject.cls_token.dims1()?;
        if channels != config.semantic_dim
            || patch_channels != config.semantic_dim
            || content_channels != config.content_dim
        {
            bail!(
                "subject features have {channels}, {patch_channels} and {content_channels} channels; the model takes \
                 {0}, {0} and {1}",
                config.semantic_dim,
                config.content_dim
            );
        }
        if patches == 0 || patches + 1 > config.semantic_len || content == 0 || content > config.content_len {
            bail!(
                "the subject has {patches} patches and {content} content tokens; the model takes at most {} and {}",
                config.semantic_len - 1,
                config.content_len
            );
        }
        Ok(())
    }

    /// Computes the conditions that depend on the text only; `text` (T, text_channels), before the norm.
    pub(crate) fn text_condition(&self, text: &Tensor) -> Result<TextCondition> {
        self.check_text(text)?;
        let c = self.config.dim;
        let normed = self.text_norm.forward(text)?;
        let vector = self.text_proj_for_sos.forward(&normed)?; // (1, C)
        let activated = vector.silu()?;
        let words = self.text_proj_for_ca.forward(&normed)?; // (T, C)
        let layer = |block: &Block| {
            Ok(TextLayer { words: block.words(&words)?, words_for_content: block.words_for_content(&words)? })
        };
        Ok(TextCondition {
            image_gains: self.shared_ada_lin.forward(&activated)?.reshape((1, 6, c))?,
            content_gains: self.control_shared_ada_lin_refer.forward(&activated)?.reshape((1, 6, c))?,
            head_gains: self.head_ada_lin.forward(&activated)?.reshape((1, 2, c))?,
            layers: self.blocks.iter().map(layer).collect::<Result<_>>()?,
            vector,
        })
    }

    /// Computes the conditions that depend on the subject only.
    pub(crate) fn subject_condition(&self, subject: &SubjectFeatures) -> Result<SubjectCondition> {
        self.check_subject(subject)?;
        let c = self.config.dim;
        let vector = self.control_proj_for_sos.forward(&subject.cls_token.unsqueeze(0)?)?; // (1, C)
        let activated = vector.silu()?;
        let patches = self.control_proj_for_ca.forward(&subject.patch_tokens)?; // (S, C)
        Ok(SubjectCondition {
            image_gains: self.control_shared_ada_lin.forward(&activated)?.reshape((1, 6, c))?,
            content_gains: self.control_shared_ada_lin_refer_dino.forward(&activated)?.reshape((1, 6, c))?,
            content: self.control_proj_for_ca_refer.forward(&subject.content)?,
            patches: self.blocks.iter().map(|block| block.patches(&patches)).collect::<Result<_>>()?,
            vector,
        })
    }

    /// Computes the conditions that depend on the pair: runs the content stream and the first scale. `seen` is called
    /// with the content stream after every block but the last.
    pub(crate) fn row_condition(
        &self,
        text: Arc<TextCondition>,
        subject: &SubjectCondition,
        mut seen: impl FnMut(&Tensor),
    ) -> Result<RowCondition> {
        let content_gains = (&text.content_gains + &subject.content_gains)?;
        let gains = (&text.image_gains + &subject.image_gains)?.unsqueeze(1)?.broadcast_add(&self.block_gains)?;
        let mut content = subject.content.clone();
        let mut layers = Vec::with_capacity(self.blocks.len());
        for ((block, words), patches) in self.blocks.iter().zip(&text.layers).zip(&subject.patches) {
            let (own, next) = block.content(&content, &content_gains, words.words_for_content.as_ref())?;
            layers.push(LayerCondition { content: own, patches: patches.clone(), words: words.words.clone() });
            if let Some(next) = next {
                seen(&next);
                content = next;
            }
        }
        let (first_keys, first_logits) = self.first_scale(&text, subject, &gains, &layers)?;
        Ok(RowCondition { text, gains, layers, first_keys, first_logits })
    }

    /// Runs the global and the text token through all blocks: the computation before the first sampled bit.
    fn first_scale(
        &self,
        text: &TextCondition,
        subject: &SubjectCondition,
        gains: &Tensor,
        layers: &[LayerCondition],
    ) -> Result<(Vec<KeyValue>, Tensor)> {
        let caches = self.empty_caches(2)?;
        let rotation = self.rotation(&Schedule::new(vec![(1, 1)], (1, 1)).map_err(candle_core::Error::wrap)?)?;
        let prefix = self.prefix(text, subject)?;
        let pass = Pass {
            gains: gains.clone(),
            rows: vec![(layers, caches.as_slice())],
            rotation: &rotation,
            position: 0,
            spans: &[Span { start: 0, count: 2, keys: 2 }],
        };
        let xs = self.run_blocks(prefix, &self.level(0)?, &pass, |_| ())?;
        let logits = self.logits(&xs.narrow(0, 1, 1)?, &text.head_gains)?;
        Ok((caches, logits))
    }

    /// Returns [global + control_pos_start, text + pos_start], (2, C).
    pub(crate) fn prefix(&self, text: &TextCondition, subject: &SubjectCondition) -> Result<Tensor> {
        Tensor::cat(&[(&subject.vector + &self.control_pos_start)?, (&text.vector + &self.pos_start)?], 0)
    }

    /// Allocates the key-value caches of one row, one per block, each (H, capacity, head_dim). They are filled in
    /// place.
    pub(crate) fn empty_caches(&self, capacity: usize) -> Result<Vec<KeyValue>> {
        let shape = (self.config.heads, capacity, self.config.head_dim());
        let empty = || Tensor::zeros(shape, self.block_dtype(), &self.device);
        (0..self.config.depth).map(|_| Ok(KeyValue { keys: empty()?, values: empty()? })).collect()
    }

    fn block_dtype(&self) -> DType {
        self.blocks.first().map_or(DType::F32, |block| block.dtype())
    }

    /// Returns the bytes of key-value cache that one row of `schedule` needs.
    pub fn kv_cache_bytes(&self, schedule: &Schedule) -> usize {
        let elements = 2 * self.config.depth * self.config.dim * (schedule.image_tokens() + 1);
        elements * self.block_dtype().size_in_bytes()
    }

    /// Returns the level embedding of scale `index`, (1, C).
    pub(crate) fn level(&self, index: usize) -> Result<Tensor> {
        self.lvl_embed.narrow(0, index, 1)
    }

    /// Embeds code sums (L, d) as tokens (L, C).
    pub(crate) fn embed_words(&self, codes: &Tensor) -> Result<Tensor> {
        self.word_embed.forward(codes)
    }

    /// Runs tokens (R · L, C) through all blocks; `level` is (1, C) or (R · L, C). `seen` is called with the stream
    /// after each block.
    pub(crate) fn run_blocks(
        &self,
        xs: Tensor,
        level: &Tensor,
        pass: &Pass,
        seen: impl FnMut(&Tensor),
    ) -> Result<Tensor> {
        with_kept_layouts(&self.device, || self.run_all(xs, level, pass, seen))
    }

    fn run_all(&self, mut xs: Tensor, level: &Tensor, pass: &Pass, mut seen: impl FnMut(&Tensor)) -> Result<Tensor> {
        let gains = pass.gains.transpose(0, 1)?.contiguous()?; // (depth, R, 6, C)
        for (index, block) in self.blocks.iter().enumerate() {
            if index == 0 || (index % self.config.chunk_depth() == 0 && !self.config.level_embed_once) {
                xs = xs.broadcast_add(level)?;
            }
            let conditions: Vec<_> = pass.rows.iter().map(|(layers, _)| &layers[index]).collect();
            let caches: Vec<_> = pass.rows.iter().map(|(_, caches)| &caches[index]).collect();
            let step = ImageStep {
                gains: &gains.get(index)?,
                rotation: pass.rotation,
                conditions: &conditions,
                caches: &caches,
                position: pass.position,
                spans: pass.spans,
            };
            xs = block.image(&xs, &step)?;
            seen(&xs);
        }
        Ok(xs)
    }

    /// Returns the head's output for one row, (L, 2d): pairs (bit 0, bit 1). One row at a time, because the summation
    /// order of a product this narrow could depend on the number of rows in the batch.
    pub(crate) fn logits(&self, xs: &Tensor, head_gains: &Tensor) -> Result<Tensor> {
        self.head.forward(&modulated_norm(xs, head_gains, (0, 1), self.config.norm_eps, self.head.dtype())?)
    }

    /// Runs all scales in one pass with known codes (teacher forcing). `inputs` (L − 1, d) are the resized code sums
    /// of scales 1 and following, row-major and concatenated. Returns logits (L, 2d) without guidance and temperature.
    pub fn teacher_forced(
        &self,
        text: &Tensor,
        subject: &SubjectFeatures,
        inputs: &Tensor,
        schedule: &Schedule,
    ) -> Result<(Tensor, Taps)> {
        let text = Arc::new(self.text_condition(text)?);
        let subject = self.subject_condition(subject)?;
        let row = self.row_condition(Arc::clone(&text), &subject, |_| ())?;
        let count = schedule.image_tokens() + 1;
        let xs = Tensor::cat(&[self.prefix(&text, &subject)?, self.embed_words(inputs)?], 0)?;
        let positions = (0..schedule.scales().len()).map(|index| schedule.positions(index));
        let spans: Vec<_> = positions.clone().map(|p| Span { start: p.start, count: p.len(), keys: p.end }).collect();
        let levels = positions
            .enumerate()
            .map(|(index, p)| self.level(index)?.broadcast_as((p.len(), self.config.dim)))
            .collect::<Result<Vec<_>>>()?;
        let caches = self.empty_caches(count)?;
        let pass = Pass {
            gains: row.gains.clone(),
            rows: vec![(row.layers.as_slice(), caches.as_slice())],
            rotation: &self.rotation(schedule)?,
            position: 0,
            spans: &spans,
        };
        let mut taps = Taps::default();
        let xs = self.run_blocks(xs, &Tensor::cat(&levels, 0)?, &pass, |xs| taps.blocks.push(xs.clone()))?;
        Ok((self.logits(&xs.narrow(0, 1, count - 1)?, &text.head_gains)?, taps))
    }

    /// Returns the intermediate results of the conditions of one (text, subject) pair.
    pub fn condition_taps(&self, text: &Tensor, subject: &SubjectFeatures) -> Result<ConditionTaps> {
        let text = Arc::new(self.text_condition(text)?);
        let subject = self.subject_condition(subject)?;
        let mut content = Vec::new();
        self.row_condition(Arc::clone(&text), &subject, |xs| content.push(xs.clone()))?;
        Ok(ConditionTaps {
            text_vector: text.vector.squeeze(0)?,
            global_vector: subject.vector.squeeze(0)?,
            gains_image: (&text.image_gains + &subject.image_gains)?.squeeze(0)?,
            gains_content: (&text.content_gains + &subject.content_gains)?.squeeze(0)?,
            content,
        })
    }
}

/// The guidance rows of one pass through all blocks.
pub(crate) struct Pass<'a> {
    /// (R, depth, 6, C), including the blocks' own gains.
    pub(crate) gains: Tensor,
    /// Each row's conditions and caches, one of each per block.
    pub(crate) rows: Vec<(&'a [LayerCondition], &'a [KeyValue])>,
    /// Rotary angles of the L tokens.
    pub(crate) rotation: &'a Rotation,
    /// Position of the first of the L tokens.
    pub(crate) position: usize,
    /// Visible keys of the queries.
    pub(crate) spans: &'a [Span],
}
