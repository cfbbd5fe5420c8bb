//! The networks of a bundle that generate pictures, in this process, without stages and stores.

use std::{ops::ControlFlow, sync::Arc};

use anyhow::{Context, Result};
use echogen_checkpoint::bundle::Bundle;
use echogen_imaging::RgbImage;
use echogen_models::{
    device::Compute,
    echogen::{PerScale, SamplingOptions, Schedule},
    encoded_subject::EncodedSubject,
    feature_extractor::FeatureExtractor,
    generator::{Generator, ImageRequest},
};
use echogen_sampler::SamplerConfig;
use echogen_service::config::JobDefaults;

/// Maximum bytes of cached conditions.
const CONDITION_CACHE_BYTES: usize = 1 << 28;

/// Generates pictures from a cut-out and sentences.
pub(crate) struct Pipeline {
    generator: Generator,
    encoder: FeatureExtractor,
    pub(crate) schedule: Schedule,
    /// Side in pixels at which a subject is encoded.
    pub(crate) resolution: usize,
    /// Seed of the first picture; later pictures count up.
    pub(crate) seed: u64,
}

impl Pipeline {
    /// Loads the networks for square pictures of the bundle's default size.
    pub(crate) fn load(bundle: &Bundle, Compute { device, dtype }: &Compute) -> Result<Self> {
        let defaults = &bundle.manifest().sampling;
        let generator = Generator::load(bundle, device, *dtype, CONDITION_CACHE_BYTES)?;
        let schedule = generator.schedules().nearest(1.0, defaults.pixel_budget.as_str())?;
        let resolution = defaults.subject_resolution.get(&defaults.pixel_budget).copied();
        Ok(Self {
            encoder: FeatureExtractor::load(bundle, device, *dtype)?,
            resolution: resolution.context("the bundle's pixel budget has no subject_resolution")? as usize,
            seed: defaults.seed,
            generator,
            schedule,
        })
    }

    /// Encodes a cut-out.
    pub(crate) fn encode(&self, cutout: &RgbImage) -> Result<EncodedSubject> {
        Ok(self.encoder.encode(cutout, self.resolution)?)
    }

    /// Returns the best batch size, the same as in the sampler stage.
    pub(crate) fn side_by_side(&self, options: &SamplingOptions) -> usize {
        let config = SamplerConfig::default();
        let by_tokens = config.batch_tokens() / self.schedule.image_tokens().max(1);
        let by_memory = config.kv_bytes() / (self.generator.kv_cache_bytes(&self.schedule, options) as u64).max(1);
        config.max_batch.min(by_tokens).min(usize::try_from(by_memory).unwrap_or(usize::MAX)).max(1)
    }

    /// Generates the pictures in one batch.
    pub(crate) fn make(&self, requests: &[ImageRequest]) -> Result<Vec<RgbImage>> {
        Ok(self.generator.generate(requests, &self.schedule, |_, _| ControlFlow::Continue(()))?)
    }
}

/// Creates the request for a picture of a subject in a scene.
pub(crate) fn request(
    caption: &str,
    subject: &Arc<EncodedSubject>,
    seed: u64,
    options: &SamplingOptions,
) -> ImageRequest {
    ImageRequest {
        prompt: caption.to_owned(),
        negative_prompt: None,
        subject: Arc::clone(subject),
        seed,
        options: options.clone(),
    }
}

/// Returns the bundle's sampling parameters, overridden by those given in the options.
pub(crate) fn sampling(bundle: &Bundle, given: &JobDefaults) -> SamplingOptions {
    let defaults = &bundle.manifest().sampling;
    let or = |given: &Option<echogen_protocol::PerScale>, default: f64| match given {
        None => PerScale::All(default),
        Some(echogen_protocol::PerScale::All(number)) => PerScale::All(*number),
        Some(echogen_protocol::PerScale::Each(numbers)) => PerScale::Each(numbers.clone()),
    };
    SamplingOptions {
        guidance_text: or(&given.guidance_text, defaults.guidance_text),
        guidance_subject: or(&given.guidance_subject, defaults.guidance_subject),
        temperature: or(&given.temperature, defaults.temperature),
        top_k: defaults.top_k,
        top_p: given.top_p.unwrap_or(defaults.top_p),
    }
}
