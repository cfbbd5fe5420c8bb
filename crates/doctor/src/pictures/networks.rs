//! Text encoder, transformer and decoder with drawn weights, and one timed batch.

use std::time::Instant;

use candle_core::{DType, Device, Shape, Tensor};
use echogen_models::{
    device::Compute,
    echogen::{
        EchoGen, EchoGenConfig, FeatureKey, FeatureKeys, Rows, SampleRequest, Sampler, SamplingOptions, Schedule,
        SubjectFeatures,
    },
    t5::T5Encoder,
    visual_tokenizer::{TokenizerDecoder, to_rgb8},
};

use crate::{
    drawn_weights::DrawnWeights,
    size::{Size, Work},
};

/// Tokens of the prompt.
const WORDS: usize = 20;
/// Bytes of the sampler's cache of conditions.
const CACHE_BYTES: usize = 8 << 30;

/// The networks.
pub(super) struct Networks {
    weights: DrawnWeights,
    weight_bytes: u64,
    device: Device,
    text: T5Encoder,
    sampler: Sampler,
    decoder: TokenizerDecoder,
    schedule: Schedule,
    options: SamplingOptions,
}

/// A batch, with the seconds of its parts.
pub(super) struct Made {
    pub(super) text: f64,
    pub(super) conditions: f64,
    pub(super) scales: Vec<f64>,
    pub(super) decoder: f64,
    /// The bytes of each picture.
    pub(super) pictures: Vec<Vec<u8>>,
}

impl Networks {
    /// Draws the weights.
    pub(super) fn draw(size: Size, compute: &Compute) -> anyhow::Result<Self> {
        let weights = DrawnWeights::new(&compute.device)?;
        let dtype = compute.dtype;
        let model = EchoGen::new(weights.builder(DType::F32), &size.transformer(), dtype)?;
        let text = T5Encoder::new(weights.builder(dtype), &size.text_encoder())?;
        let decoder = TokenizerDecoder::new(weights.builder(dtype), &size.tokenizer())?;
        compute.synchronize()?;
        Ok(Self {
            weight_bytes: weights.bytes(),
            weights,
            device: compute.device.clone(),
            text,
            sampler: Sampler::new(model, CACHE_BYTES),
            decoder,
            schedule: size.schedule()?,
            options: SamplingOptions::default(),
        })
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    pub(super) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn config(&self) -> &EchoGenConfig {
        self.sampler.model().config()
    }

    /// Returns the guidance rows of a picture.
    pub(super) fn rows(&self) -> usize {
        self.options.row_scales(self.schedule.scales().len()).iter().filter(|scales| **scales > 0).count()
    }

    /// Returns the bytes of keys and values of a batch.
    pub(super) fn kv_bytes(&self, batch: usize) -> u64 {
        (batch * self.rows() * self.sampler.model().kv_cache_bytes(&self.schedule)) as u64
    }

    pub(super) fn work(&self) -> Work {
        Work::of(self.config(), &self.schedule, WORDS)
    }

    /// Makes a batch of pictures of one prompt and subject, with the seeds 0 and following. Runs with another number have
    /// another prompt, so that their conditions are not in the cache.
    pub(super) fn make(&self, batch: usize, run: usize) -> anyhow::Result<Made> {
        let mut clock = Clock::start(&self.device)?;
        let ids: Vec<u32> = (0..WORDS).map(|word| (word * 7 + run * 13 + 2) as u32 % 500).collect();
        let text = self.text.forward(&Tensor::new(ids, &self.device)?.unsqueeze(0)?, None)?.squeeze(0)?;
        let text_seconds = clock.lap()?;
        let requests = self.requests(batch, &text, run)?;
        clock.lap()?;
        let mut sampling = self.sampler.start(&requests, &self.schedule, Rows::Needed)?;
        let conditions = clock.lap()?;
        let mut scales = Vec::new();
        for _ in self.schedule.scales() {
            let logits = sampling.logits()?;
            let bits = sampling.draw(&logits)?;
            sampling.accept(&bits)?;
            scales.push(clock.lap()?);
        }
        let pictures = sampling.summed()?.iter().map(|codes| self.decode(codes)).collect::<anyhow::Result<_>>()?;
        let decoder = clock.lap()?;
        Ok(Made { text: text_seconds, conditions, scales, decoder, pictures })
    }

    fn requests(&self, batch: usize, text: &Tensor, run: usize) -> anyhow::Result<Vec<SampleRequest>> {
        let config = self.config();
        let drawn = |shape: &[usize]| self.weights.normal(&Shape::from(shape), 1.0, DType::F32);
        let subject = SubjectFeatures {
            cls_token: drawn(&[config.semantic_dim])?,
            patch_tokens: drawn(&[config.semantic_len - 1, config.semantic_dim])?,
            content: drawn(&[config.content_len, config.content_dim])?,
        };
        let request = |seed| SampleRequest {
            text: text.clone(),
            negative_text: None,
            subject: subject.clone(),
            keys: FeatureKeys {
                text: Some(FeatureKey::of(&format!("run {run}"))),
                subject: Some(FeatureKey::of("drawn")),
                ..FeatureKeys::default()
            },
            seed,
            options: self.options.clone(),
        };
        Ok((0..batch as u64).map(request).collect())
    }

    fn decode(&self, codes: &Tensor) -> anyhow::Result<Vec<u8>> {
        let picture = self.decoder.forward(&codes.unsqueeze(0)?.to_device(&self.device)?)?;
        Ok(to_rgb8(&picture)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
    }
}

/// Measures one part after the other, each until the device has done it.
struct Clock<'a> {
    device: &'a Device,
    began: Instant,
}

impl<'a> Clock<'a> {
    fn start(device: &'a Device) -> candle_core::Result<Self> {
        device.synchronize()?;
        Ok(Self { device, began: Instant::now() })
    }

    /// Returns the seconds since the last call.
    fn lap(&mut self) -> candle_core::Result<f64> {
        self.device.synchronize()?;
        let seconds = self.began.elapsed().as_secs_f64();
        self.began = Instant::now();
        Ok(seconds)
    }
}
