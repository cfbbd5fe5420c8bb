//! Autoregressive sampling over all scales with key-value caches: next-scale prediction of bits.
//!
//! A [`Sampling`] holds the state between scales: [`Sampling::logits`] returns the guided logits of the current scale,
//! [`Sampling::accept`] takes the chosen bits; [`Sampling::step`] does both, drawing bits from each image's seed. It owns
//! all its state, so several may be alive and be stepped in any order. Rows are batched but never mixed: attention runs
//! row by row and all other operations token by token, so an image depends neither on the other images of its batch nor
//! on other samplings.

use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};

use candle_core::{Result, Tensor, bail};

use super::{
    block::Span,
    condition_cache::{BatchConditions, CacheUse, ConditionCache, FeatureKeys, Subject, Text},
    conditions::RowCondition,
    guidance::SamplingOptions,
    model::{EchoGen, Pass, SubjectFeatures},
    schedule::Schedule,
};
use crate::{
    layers::{
        attention::{KeyValue, Rotation},
        draws::{Draw, draw, weighted_sum},
    },
    random::CounterRng,
    visual_tokenizer::CodeSum,
};

/// Number of the random stream that bits are drawn from. The posterior's noise uses another stream.
pub const BIT_STREAM: u64 = 1;

/// A request for one image.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// T5 features of the prompt, (T, text_channels).
    pub text: Tensor,
    /// T5 features of the negative prompt; replaces the learned "no text" if given.
    pub negative_text: Option<Tensor>,
    /// The subject.
    pub subject: SubjectFeatures,
    /// What texts and subject are known by. For one without a key, a picture reads its features back from the device.
    pub keys: FeatureKeys,
    /// Seed of the sampled bits.
    pub seed: u64,
    /// Guidance, temperature, top_k and top_p.
    pub options: SamplingOptions,
}

/// Sampling failed or was cancelled.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The observer cancelled the batch.
    #[error("sampling was cancelled before scale {scale}")]
    Cancelled {
        /// Index of the first scale that was not run.
        scale: usize,
    },
    /// The request is invalid. The message says what to change.
    #[error("{0}")]
    Invalid(String),
    /// The networks gave something that is no number.
    #[error("the logits of scale {scale} are not finite; compute in another type (f32 or bf16)")]
    NotFinite {
        /// Index of the scale.
        scale: usize,
    },
    /// A tensor operation failed.
    #[error("sampling failed")]
    Tensor(#[from] candle_core::Error),
}

/// Which guidance rows run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// Rows with a non-zero weight.
    #[default]
    Needed,
    /// All three rows, as in the published code; for comparison.
    All,
}

/// A transformer with its condition cache.
pub struct Sampler {
    model: Arc<EchoGen>,
    conditions: ConditionCache,
}

/// The state of one image during sampling.
struct ImageState {
    options: SamplingOptions,
    rng: CounterRng,
    /// Code sum of the scales so far, at the size of the last scale.
    codes: CodeSum,
    /// Input tokens of the current scale, (L, C); `None` for the first scale.
    tokens: Option<Tensor>,
}

/// The state of one guidance row during sampling.
struct RowState {
    image: usize,
    kind: usize,
    /// Number of leading scales at which the row runs.
    scales: usize,
    condition: Arc<RowCondition>,
    caches: Vec<KeyValue>,
}

/// A batch of images with one schedule, between two scales. Its conditions stay with it until the rows that need them
/// end, whatever the cache drops.
pub struct Sampling {
    model: Arc<EchoGen>,
    schedule: Schedule,
    rotation: Rotation,
    images: Vec<ImageState>,
    rows: Vec<RowState>,
    scale: usize,
    row_logits: Vec<Tensor>,
    usage: CacheUse,
}

impl Sampler {
    /// Creates a sampler that caches at most `cache_bytes` bytes of conditions across calls.
    pub fn new(model: EchoGen, cache_bytes: usize) -> Self {
        Self { model: Arc::new(model), conditions: ConditionCache::new(cache_bytes) }
    }

    /// Returns the transformer.
    pub fn model(&self) -> &EchoGen {
        &self.model
    }

    /// Samples a batch. Returns each image's code sum (d, H, W) on the model's device, the input of the visual tokenizer's
    /// decoder. `observe` is called before each scale with (scale index, number of scales), and may cancel the batch.
    pub fn sample(
        &self,
        requests: &[SampleRequest],
        schedule: &Schedule,
        mut observe: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> std::result::Result<Vec<Tensor>, SampleError> {
        let scales = schedule.scales().len();
        let mut sampling = None;
        for scale in 0..scales {
            if observe(scale, scales).is_break() {
                return Err(SampleError::Cancelled { scale });
            }
            let sampling = match &mut sampling {
                Some(sampling) => sampling,
                empty => empty.insert(self.start(requests, schedule, Rows::Needed)?),
            };
            sampling.step()?;
        }
        let finished: Sampling = sampling.ok_or_else(|| SampleError::Invalid("the schedule is empty".to_owned()))?;
        Ok(finished.summed()?)
    }

    /// Computes the conditions of all rows or takes them from the cache, and allocates the key-value caches. A condition
    /// that several rows of the batch have is computed once.
    pub fn start(
        &self,
        requests: &[SampleRequest],
        schedule: &Schedule,
        rows: Rows,
    ) -> std::result::Result<Sampling, SampleError> {
        let count = schedule.scales().len();
        if count > self.model.config.levels {
            let levels = self.model.config.levels;
            return Err(SampleError::Invalid(format!("the schedule has {count} scales; the model knows {levels}")));
        }
        let mut sampling = Sampling {
            model: Arc::clone(&self.model),
            schedule: schedule.clone(),
            rotation: self.model.rotation(schedule)?,
            images: Vec::with_capacity(requests.len()),
            rows: Vec::new(),
            scale: 0,
            row_logits: Vec::new(),
            usage: CacheUse::default(),
        };
        let mut conditions = BatchConditions::default();
        for request in requests {
            request.options.validate(count).map_err(SampleError::Invalid)?;
            self.add_image(&mut sampling, request, rows, &mut conditions)?;
        }
        sampling.usage = conditions.usage();
        Ok(sampling)
    }

    fn add_image(
        &self,
        sampling: &mut Sampling,
        request: &SampleRequest,
        rows: Rows,
        conditions: &mut BatchConditions,
    ) -> Result<()> {
        let count = sampling.schedule.scales().len();
        let image = sampling.images.len();
        let row_scales = match rows {
            Rows::Needed => request.options.row_scales(count),
            Rows::All => [count; 3],
        };
        for (kind, scales) in row_scales.into_iter().enumerate().filter(|(_, scales)| *scales > 0) {
            let (text, subject) = request.row(kind)?;
            let condition = self.conditions.row(&self.model, text, subject, conditions)?;
            let caches = self.model.empty_caches(sampling.schedule.image_tokens() + 1)?;
            for (cache, first) in caches.iter().zip(&condition.first_keys) {
                cache.keys.slice_set(&first.keys, 1, 0)?;
                cache.values.slice_set(&first.values, 1, 0)?;
            }
            sampling.rows.push(RowState { image, kind, scales, condition, caches });
        }
        let (height, width) = sampling.schedule.last();
        sampling.images.push(ImageState {
            options: request.options.clone(),
            rng: CounterRng::new(request.seed, BIT_STREAM),
            codes: CodeSum::zeros(1, self.model.config.bits, (height, width), self.model.device())?,
            tokens: None,
        });
        Ok(())
    }
}

impl SampleRequest {
    /// Returns the text and the subject of guidance row `kind`.
    fn row(&self, kind: usize) -> Result<(Text<'_>, Subject<'_>)> {
        let nothing =
            Subject::Nothing { content: self.subject.content.dim(0)?, patches: self.subject.patch_tokens.dim(0)? };
        let text = Text::Features(&self.text, self.keys.text);
        Ok(match (kind, &self.negative_text) {
            (0, _) => (text, Subject::Features(&self.subject, self.keys.subject)),
            (1, _) => (text, nothing),
            (_, Some(negative)) => (Text::Features(negative, self.keys.negative_text), nothing),
            (_, None) => (Text::Nothing(self.text.dim(0)?), nothing),
        })
    }
}

impl Sampling {
    /// Samples the current scale with bits drawn from each image's seed, and advances to the next.
    pub fn step(&mut self) -> std::result::Result<(), SampleError> {
        let logits = self.logits()?;
        let bits = self.draw(&logits)?;
        Ok(self.accept(&bits)?)
    }

    /// Removes images of the batch and frees their key-value caches. The others keep their order and do not change.
    pub fn remove(&mut self, images: Range<usize>) {
        self.rows.retain(|row| !images.contains(&row.image));
        for row in self.rows.iter_mut().filter(|row| row.image >= images.end) {
            row.image -= images.len();
        }
        self.images.drain(images);
        self.row_logits.clear();
    }

    /// Returns hits and misses of the condition cache.
    pub fn cache_use(&self) -> CacheUse {
        self.usage
    }

    /// Returns the guided logits of the current scale, divided by the temperature: (L, 2d) for each image.
    pub fn logits(&mut self) -> Result<Vec<Tensor>> {
        self.row_logits = if self.scale == 0 {
            self.rows.iter().map(|row| row.condition.first_logits.clone()).collect()
        } else {
            self.run_scale()?
        };
        let live: Vec<_> = self.live_rows().map(|row| (row.image, row.kind)).collect();
        let mut terms = vec![Vec::new(); self.images.len()];
        for ((image, kind), logits) in live.into_iter().zip(&self.row_logits) {
            let options = &self.images[image].options;
            let weight = options.row_weights(self.scale)[kind] / options.temperature.at(self.scale);
            if weight != 0.0 {
                terms[image].push((logits, weight));
            }
        }
        let guided = terms.iter().map(|terms| match terms.as_slice() {
            [] => bail!("guidance leaves no row to sample from"),
            terms => weighted_sum(terms),
        });
        guided.collect()
    }

    /// Returns the head's output of every active row at the current scale, before guidance: (L, 2d), image by image.
    pub fn row_logits(&self) -> &[Tensor] {
        &self.row_logits
    }

    /// Draws the current scale's bits from each image's seed: u8, (token, bit) row-major for each image, where its logits
    /// are. This is where a scale waits for the device, once: until the logits are computed. So what runs between two scales,
    /// a cancellation or another batch, finds a device without work of earlier scales.
    ///
    /// # Errors
    ///
    /// A logit is not finite: the networks have overflowed, and any bit would be a lie.
    pub fn draw(&mut self, logits: &[Tensor]) -> std::result::Result<Vec<Tensor>, SampleError> {
        let draws = self.images.iter_mut().zip(logits).map(|(image, logits)| Draw {
            logits,
            choice: image.options.choice(),
            rng: &mut image.rng,
        });
        draw(&mut draws.collect::<Vec<_>>())?.ok_or(SampleError::NotFinite { scale: self.scale })
    }

    /// Takes the bits of the current scale, (token, bit) row-major for each image as u8 on any device, and advances to the
    /// next scale.
    pub fn accept(&mut self, bits: &[Tensor]) -> Result<()> {
        let (scales, depth) = (self.schedule.scales(), self.model.config.bits);
        let Some(&(height, width)) = scales.get(self.scale) else { bail!("all scales have been sampled") };
        if bits.len() != self.images.len() {
            bail!("bits of {} images were given for {}", bits.len(), self.images.len());
        }
        for (image, bits) in self.images.iter_mut().zip(bits) {
            if bits.elem_count() != height * width * depth {
                bail!("scale {} takes {} bits, got {}", self.scale, height * width * depth, bits.elem_count());
            }
            let bits = bits.to_device(self.model.device())?.reshape((1, height, width, depth))?;
            image.codes.add(&bits)?;
            image.tokens = match scales.get(self.scale + 1) {
                None => None,
                Some(next) => {
                    let codes = image.codes.transformer_input(*next)?.squeeze(0)?; // (height · width, d)
                    Some(self.model.embed_words(&codes)?)
                }
            };
        }
        self.scale += 1;
        self.rows.retain(|row| row.scales > self.scale);
        Ok(())
    }

    /// Returns the code sum so far, (d, H, W) for each image, on the model's device. Decoded after any scale, it is a coarse
    /// picture.
    pub fn summed(&self) -> Result<Vec<Tensor>> {
        self.images.iter().map(|image| image.codes.tensor().squeeze(0)).collect()
    }

    fn live_rows(&self) -> impl Iterator<Item = &RowState> {
        self.rows.iter().filter(|row| row.scales > self.scale)
    }

    fn run_scale(&self) -> Result<Vec<Tensor>> {
        let rows: Vec<_> = self.live_rows().collect();
        let positions = self.schedule.positions(self.scale);
        let tokens = rows.iter().map(|row| match &self.images[row.image].tokens {
            Some(tokens) => Ok(tokens),
            None => bail!("the bits of the scale before have not been accepted"),
        });
        let gains: Vec<_> = rows.iter().map(|row| &row.condition.gains).collect();
        let pass = Pass {
            gains: Tensor::cat(&gains, 0)?,
            rows: rows.iter().map(|row| (row.condition.layers.as_slice(), row.caches.as_slice())).collect(),
            rotation: &self.rotation.narrow(positions.start, positions.len())?,
            position: positions.start,
            spans: &[Span { start: 0, count: positions.len(), keys: positions.end }],
        };
        let xs = Tensor::cat(&tokens.collect::<Result<Vec<_>>>()?, 0)?; // (R · L, C)
        let xs = self.model.run_blocks(xs, &self.model.level(self.scale)?, &pass, |_| ())?;
        let split = rows.iter().enumerate().map(|(index, row)| {
            let own = xs.narrow(0, index * positions.len(), positions.len())?;
            self.model.logits(&own, &row.condition.text.head_gains)
        });
        split.collect()
    }
}
