//! Cached autoregressive sampling over all scales: next-scale prediction of bits.
//!
//! A [`Sampling`] steps through the scales: [`Sampling::logits`] gives the guided logits of the present scale,
//! [`Sampling::accept`] takes the bits that were chosen from them. [`Sampler::sample`] does both in turn, drawing from
//! each image's own seed. Rows are computed side by side but never mixed: attention runs row by row, all else token by
//! token, so an image does not depend on what else is in its batch.

use std::{ops::ControlFlow, sync::Arc};

use candle_core::{Device, Result, Tensor, bail};

use super::{
    bits::{BIT_STREAM, draw_bits},
    block::Span,
    condition_cache::{CacheUse, ConditionCache, Subject, Text},
    conditions::RowCondition,
    guidance::SamplingOptions,
    model::{EchoGen, Pass, SubjectFeatures},
    schedule::Schedule,
};
use crate::{
    layers::attention::{KeyValue, Rotation},
    random::CounterRng,
    visual_tokenizer::CodeSum,
};

/// One image to sample.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// T5 features of the prompt, (T, text_channels).
    pub text: Tensor,
    /// T5 features of the negative prompt; takes the place of "no text".
    pub negative_text: Option<Tensor>,
    /// The subject.
    pub subject: SubjectFeatures,
    /// Seed of the drawn bits.
    pub seed: u64,
    /// Guidance, temperature and the like.
    pub options: SamplingOptions,
}

/// Why sampling stopped.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The observer said so.
    #[error("sampling was cancelled before scale {scale}")]
    Cancelled {
        /// The scale that was not run.
        scale: usize,
    },
    /// The request cannot be sampled; says what to change.
    #[error("{0}")]
    Invalid(String),
    /// A tensor operation failed.
    #[error("sampling failed")]
    Tensor(#[from] candle_core::Error),
}

/// Which rows are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// Those that guidance gives a weight.
    #[default]
    Needed,
    /// All three, as the published code does; for comparison.
    All,
}

/// A transformer with the conditions it keeps.
pub struct Sampler {
    model: EchoGen,
    conditions: ConditionCache,
}

/// One image on its way.
struct ImageState {
    options: SamplingOptions,
    rng: CounterRng,
    /// Of the scales so far, at the size of the last scale, on the CPU.
    codes: CodeSum,
    /// Tokens of the present scale before the blocks, (L, C); none for the first scale.
    tokens: Option<Tensor>,
}

/// One guidance row on its way.
struct RowState {
    image: usize,
    kind: usize,
    /// The row runs at scales below this.
    scales: usize,
    condition: Arc<RowCondition>,
    caches: Vec<KeyValue>,
}

/// A batch of images of one schedule, between two scales.
pub struct Sampling<'a> {
    model: &'a EchoGen,
    schedule: &'a Schedule,
    rotation: Rotation,
    images: Vec<ImageState>,
    rows: Vec<RowState>,
    scale: usize,
    row_logits: Vec<Tensor>,
    usage: CacheUse,
}

impl Sampler {
    /// A sampler that keeps at most `cache_bytes` of conditions across calls.
    pub fn new(model: EchoGen, cache_bytes: usize) -> Self {
        Self { model, conditions: ConditionCache::new(cache_bytes) }
    }

    /// The transformer.
    pub fn model(&self) -> &EchoGen {
        &self.model
    }

    /// Samples a batch; returns each image's summed codes (d, H, W) on the CPU, ready for the visual tokenizer's
    /// decoder. `observe` is told before each scale which of how many comes, and may stop the batch.
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
            let logits = sampling.logits()?;
            let bits = sampling.draw(&logits)?;
            sampling.accept(&bits)?;
        }
        let finished: Sampling = sampling.ok_or_else(|| SampleError::Invalid("the schedule is empty".to_owned()))?;
        Ok(finished.summed()?)
    }

    /// Computes or looks up the conditions of all rows, and allocates their key-value caches.
    pub fn start<'a>(
        &'a self,
        requests: &[SampleRequest],
        schedule: &'a Schedule,
        rows: Rows,
    ) -> std::result::Result<Sampling<'a>, SampleError> {
        let count = schedule.scales().len();
        if count > self.model.config.levels {
            let levels = self.model.config.levels;
            return Err(SampleError::Invalid(format!("the schedule has {count} scales; the model knows {levels}")));
        }
        let mut sampling = Sampling {
            model: &self.model,
            schedule,
            rotation: self.model.rotation(schedule)?,
            images: Vec::with_capacity(requests.len()),
            rows: Vec::new(),
            scale: 0,
            row_logits: Vec::new(),
            usage: CacheUse::default(),
        };
        for request in requests {
            request.options.validate(count).map_err(SampleError::Invalid)?;
            self.add_image(&mut sampling, request, rows)?;
        }
        Ok(sampling)
    }

    fn add_image(&self, sampling: &mut Sampling, request: &SampleRequest, rows: Rows) -> Result<()> {
        let count = sampling.schedule.scales().len();
        let image = sampling.images.len();
        let row_scales = match rows {
            Rows::Needed => request.options.row_scales(count),
            Rows::All => [count; 3],
        };
        for (kind, scales) in row_scales.into_iter().enumerate().filter(|(_, scales)| *scales > 0) {
            let (text, subject) = request.row(kind)?;
            let condition = self.conditions.row(&self.model, text, subject, &mut sampling.usage)?;
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
            codes: CodeSum::zeros(1, self.model.config.bits, (height, width), &Device::Cpu)?,
            tokens: None,
        });
        Ok(())
    }
}

impl SampleRequest {
    /// The text and the subject of guidance row `kind`.
    fn row(&self, kind: usize) -> Result<(Text<'_>, Subject<'_>)> {
        let nothing =
            Subject::Nothing { content: self.subject.content.dim(0)?, patches: self.subject.patch_tokens.dim(0)? };
        Ok(match (kind, &self.negative_text) {
            (0, _) => (Text::Features(&self.text), Subject::Features(&self.subject)),
            (1, _) => (Text::Features(&self.text), nothing),
            (_, Some(negative)) => (Text::Features(negative), nothing),
            (_, None) => (Text::Nothing(self.text.dim(0)?), nothing),
        })
    }
}

impl Sampling<'_> {
    /// How often kept conditions were used.
    pub fn cache_use(&self) -> CacheUse {
        self.usage
    }

    /// The guided logits of the present scale, divided by the temperature: (L, 2d) for each image.
    pub fn logits(&mut self) -> Result<Vec<Tensor>> {
        self.row_logits = if self.scale == 0 {
            self.rows.iter().map(|row| row.condition.first_logits.clone()).collect()
        } else {
            self.run_scale()?
        };
        let live: Vec<_> = self.live_rows().map(|row| (row.image, row.kind)).collect();
        let mut guided: Vec<Option<Tensor>> = vec![None; self.images.len()];
        for ((image, kind), logits) in live.into_iter().zip(&self.row_logits) {
            let options = &self.images[image].options;
            let weight = options.row_weights(self.scale)[kind] / options.temperature.at(self.scale);
            if weight != 0.0 {
                let term = (logits * weight)?;
                guided[image] = Some(match guided[image].take() {
                    None => term,
                    Some(sum) => (sum + term)?,
                });
            }
        }
        guided.into_iter().map(|g| g.map_or_else(|| bail!("guidance leaves no row to sample from"), Ok)).collect()
    }

    /// The head's output of every live row at the present scale, before guidance: (L, 2d), image by image.
    pub fn row_logits(&self) -> &[Tensor] {
        &self.row_logits
    }

    /// Draws the present scale's bits from each image's own seed.
    pub fn draw(&mut self, logits: &[Tensor]) -> Result<Vec<Vec<u8>>> {
        let pairs = self.images.iter_mut().zip(logits);
        pairs
            .map(|(image, logits)| {
                let logits = logits.flatten_all()?.to_vec1::<f32>()?;
                Ok(draw_bits(&logits, &image.options, &mut image.rng))
            })
            .collect()
    }

    /// Takes the bits of the present scale, (token, bit) row-major for each image, and goes on to the next scale.
    pub fn accept(&mut self, bits: &[Vec<u8>]) -> Result<()> {
        let (scales, depth) = (self.schedule.scales(), self.model.config.bits);
        let Some(&(height, width)) = scales.get(self.scale) else { bail!("all scales have been sampled") };
        for (image, bits) in self.images.iter_mut().zip(bits) {
            if bits.len() != height * width * depth {
                bail!("scale {} takes {} bits, got {}", self.scale, height * width * depth, bits.len());
            }
            image.codes.add(&Tensor::from_slice(bits, (1, height, width, depth), &Device::Cpu)?)?;
            image.tokens = match scales.get(self.scale + 1) {
                None => None,
                Some(next) => {
                    let codes = image.codes.transformer_input(*next)?.squeeze(0)?; // (height · width, d)
                    Some(self.model.embed_words(&codes.to_device(self.model.device())?)?)
                }
            };
        }
        self.scale += 1;
        self.rows.retain(|row| row.scales > self.scale);
        Ok(())
    }

    /// The sum of codes so far, (d, H, W) for each image, on the CPU.
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
