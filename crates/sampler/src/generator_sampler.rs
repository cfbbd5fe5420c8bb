//! [`ImageSampler`] on the networks of a model bundle.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use async_trait::async_trait;
use echogen_checkpoint::bundle::{Bundle, SamplingDefaults};
use echogen_imaging::RgbImage;
use echogen_models::{
    Tensor,
    echogen::{self, FeatureKey, Sampling, Schedule, ScheduleError},
    encoded_subject::{EncodedSubject, SubjectError},
    generator::{Generator, GeneratorError, ImageRequest},
    plan::{BatchSizes, MemoryPlan},
};
use echogen_protocol::{Job, Parameters, PerScale, SubjectKeys};
use echogen_worker::InferenceError;

use crate::{
    BatchCounters, ImageSampler, SampleError, SampleRequest, Sampled, SamplerConfig,
    batch_thread::{BatchNetworks, BatchThread, Part},
    subject_cache::SubjectCache,
};

/// Samples with a [`Generator`] on an inference thread of its own, jobs of one shape in one batch.
#[derive(Debug)]
pub struct GeneratorSampler {
    bundle: String,
    defaults: SamplingDefaults,
    pub(crate) subjects: SubjectKeys,
    models: BTreeMap<String, String>,
    pub(crate) generator: Arc<Generator>,
    max_batch_tokens: Option<usize>,
    /// How many pictures fit into a batch; empty without a plan.
    batch_sizes: BatchSizes,
    thread: BatchThread,
}

impl GeneratorSampler {
    /// Starts the inference thread. `models` are the digests for the result; `subjects` lists the pixel budgets.
    pub fn start(
        bundle: &Bundle,
        generator: Generator,
        subjects: SubjectKeys,
        models: BTreeMap<String, String>,
        config: &SamplerConfig,
    ) -> std::io::Result<Self> {
        let generator = Arc::new(generator);
        let networks = SamplerNetworks {
            generator: Arc::clone(&generator),
            subjects: SubjectCache::new(config.subject_cache_bytes),
        };
        let thread = BatchThread::start("sampler-networks", config, networks)?;
        let (bundle, defaults) = (bundle.name().to_owned(), bundle.manifest().sampling.clone());
        let (max_batch_tokens, batch_sizes) = (Some(config.batch_tokens()), BatchSizes::default());
        Ok(Self { bundle, defaults, subjects, models, generator, max_batch_tokens, batch_sizes, thread })
    }

    /// Returns the sampler with a plan's limits of a batch.
    #[must_use]
    pub fn with_plan(self, plan: &MemoryPlan) -> Self {
        Self { max_batch_tokens: plan.limits.max_batch_tokens, batch_sizes: BatchSizes::of(plan), ..self }
    }

    /// Returns the counters of the batches run so far.
    pub fn batches(&self) -> &BatchCounters {
        self.thread.counters()
    }
}

#[async_trait]
impl ImageSampler for GeneratorSampler {
    fn plan(&self, job: &Job) -> Result<Parameters, SampleError> {
        self.subjects.resolution(job).map_err(SampleError::Unsupported)?;
        let pixel_budget = self.subjects.pixel_budget(job);
        let h_div_w = 1.0 / job.aspect_ratio.width_to_height();
        let schedule = self.generator.schedules().nearest(h_div_w, pixel_budget.as_str()).map_err(unsupported)?;
        let (height, width) = schedule.pixels();
        let or = |given: &Option<PerScale>, default: f64| given.clone().unwrap_or(PerScale::All(default));
        let parameters = Parameters {
            bundle: self.bundle.clone(),
            prompt: job.prompt.clone(),
            negative_prompt: job.negative_prompt.clone(),
            aspect_ratio: job.aspect_ratio.to_string(),
            pixel_budget,
            width: u32::try_from(width).unwrap_or(u32::MAX),
            height: u32::try_from(height).unwrap_or(u32::MAX),
            text_guidance: or(&job.guidance.text, self.defaults.guidance_text),
            subject_guidance: or(&job.guidance.subject, self.defaults.guidance_subject),
            temperature: or(&job.temperature, self.defaults.temperature),
            top_k: job.top_k.unwrap_or(self.defaults.top_k),
            top_p: job.top_p.unwrap_or(self.defaults.top_p),
            format: job.output.format,
            quality: job.output.quality,
        };
        options(&parameters).validate(schedule.scales().len()).map_err(SampleError::Unsupported)?;
        Ok(parameters)
    }

    async fn sample(&self, request: SampleRequest) -> Result<Sampled, SampleError> {
        let parameters = &request.parameters;
        let size = (parameters.height as usize, parameters.width as usize);
        let schedule = self.generator.schedules().of_pixels(size, parameters.pixel_budget.as_str());
        let schedule = schedule.map_err(unsupported)?;
        let options = options(parameters);
        let kv_bytes = self.generator.kv_cache_bytes(&schedule, &options) as u64;
        let rows = options.row_scales(schedule.scales().len()).into_iter().filter(|scales| *scales > 0).count();
        let that_fit = self.batch_sizes.pictures(parameters.pixel_budget.as_str(), rows).unwrap_or(usize::MAX);
        let by_tokens = self.max_batch_tokens.map_or(usize::MAX, |most| most / schedule.image_tokens().max(1));
        let max_images = that_fit.min(by_tokens).max(1);
        self.thread.ask(request, schedule, kv_bytes, max_images).await
    }

    fn models(&self) -> BTreeMap<String, String> {
        self.models.clone()
    }
}

impl From<InferenceError> for SampleError {
    fn from(error: InferenceError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<GeneratorError> for SampleError {
    fn from(error: GeneratorError) -> Self {
        if error.is_permanent() { Self::Unsupported(error.to_string()) } else { Self::Failed(error.into()) }
    }
}

/// The state that the inference thread owns.
struct SamplerNetworks {
    generator: Arc<Generator>,
    /// Decoded subjects; requests for one subject tend to arrive close together.
    subjects: SubjectCache<EncodedSubject>,
}

impl BatchNetworks for SamplerNetworks {
    type Subject = Arc<EncodedSubject>;
    type Sampling = Sampling;
    type Codes = Tensor;

    fn prepare(&mut self, request: &SampleRequest) -> Result<Arc<EncodedSubject>, SampleError> {
        let key = Some(FeatureKey::of(&request.subject_key));
        let subject = self.subjects.get_or_decode(&request.subject_key, &request.subject, |bytes| {
            Ok(EncodedSubject { key, ..EncodedSubject::from_bytes(bytes)? })
        });
        subject.map_err(|error: SubjectError| SampleError::BadSubject(error.into()))
    }

    fn start(&mut self, parts: &[Part<'_, Arc<EncodedSubject>>], schedule: &Schedule) -> Result<Sampling, SampleError> {
        let images = parts.iter().flat_map(|part| {
            let seeds = part.seeds.iter();
            seeds.map(|seed| image_request(&part.request.parameters, part.subject, *seed))
        });
        Ok(self.generator.start(&images.collect::<Vec<ImageRequest>>(), schedule)?)
    }

    fn step(&mut self, sampling: &mut Sampling) -> Result<(), SampleError> {
        Ok(sampling.step().map_err(GeneratorError::from)?)
    }

    fn remove(&mut self, sampling: &mut Sampling, pictures: Range<usize>) {
        sampling.remove(pictures);
    }

    fn finish(&mut self, sampling: &Sampling) -> Result<Vec<Tensor>, SampleError> {
        Ok(sampling.summed().map_err(GeneratorError::from)?)
    }

    fn decode(&mut self, codes: &Tensor) -> Result<RgbImage, SampleError> {
        Ok(self.generator.decode(codes)?)
    }

    fn preview(&mut self, codes: &Tensor, max_side: u32) -> Result<RgbImage, SampleError> {
        Ok(self.generator.preview(codes, max_side as usize)?)
    }
}

fn image_request(parameters: &Parameters, subject: &Arc<EncodedSubject>, seed: u64) -> ImageRequest {
    ImageRequest {
        prompt: parameters.prompt.clone(),
        negative_prompt: parameters.negative_prompt.clone(),
        subject: Arc::clone(subject),
        seed,
        options: options(parameters),
    }
}

fn options(parameters: &Parameters) -> echogen::SamplingOptions {
    echogen::SamplingOptions {
        guidance_text: per_scale(&parameters.text_guidance),
        guidance_subject: per_scale(&parameters.subject_guidance),
        temperature: per_scale(&parameters.temperature),
        top_k: parameters.top_k,
        top_p: parameters.top_p,
    }
}

fn per_scale(numbers: &PerScale) -> echogen::PerScale {
    match numbers {
        PerScale::All(number) => echogen::PerScale::All(*number),
        PerScale::Each(numbers) => echogen::PerScale::Each(numbers.clone()),
    }
}

fn unsupported(error: ScheduleError) -> SampleError {
    SampleError::Unsupported(error.to_string())
}
