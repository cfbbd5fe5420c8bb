//! Generation of pictures from a prompt and an encoded subject: text encoder, transformer and visual tokenizer of a
//! bundle.

use std::{ops::ControlFlow, sync::Arc};

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use moka::{policy::EvictionPolicy, sync::Cache};

use crate::{
    echogen::{
        EchoGen, FeatureKey, FeatureKeys, Rows, SampleError, SampleRequest, Sampler, Sampling, SamplingOptions,
        Schedule, ScheduleError, Schedules, SubjectFeatures, is_ignored,
    },
    encoded_subject::EncodedSubject,
    layers::resize::resize_area,
    sizes::Sizes,
    t5::T5Encoder,
    text_encoder::{TextEncoder, TextEncoderError, load_tokenizer},
    visual_tokenizer::{TokenizerDecoder, to_rgb8},
};
use echogen_checkpoint::bundle::{Bundle, BundleError, Network};

/// Seed of the noise that samples the subject's posterior. Constant, so that one draw, and hence one set of content
/// tokens, serves all seeds and prompts of a subject. The published code draws this noise without a seed.
const CONTENT_SEED: u64 = 0;

/// Maximum number of prompts whose features are cached.
const KEPT_PROMPTS: u64 = 256;

/// A request for one picture.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// The prompt.
    pub prompt: String,
    /// Replaces the learned "no text" embedding in guidance, if given.
    pub negative_prompt: Option<String>,
    /// The subject.
    pub subject: Arc<EncodedSubject>,
    /// Seed of the sampled bits.
    pub seed: u64,
    /// Guidance, temperature, top_k and top_p.
    pub options: SamplingOptions,
}

/// Generation failed.
#[derive(Debug, thiserror::Error)]
pub enum GeneratorError {
    /// The bundle is incomplete or malformed, or its weights do not fit.
    #[error(transparent)]
    Bundle(Box<BundleError>),
    /// The prompt cannot be encoded, or the text encoder cannot be built.
    #[error(transparent)]
    Text(#[from] TextEncoderError),
    /// The model does not support the aspect ratio or the pixel budget.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Sampling failed or was cancelled.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A tensor operation failed.
    #[error("a network failed")]
    Tensor(#[from] candle_core::Error),
}

impl From<BundleError> for GeneratorError {
    fn from(error: BundleError) -> Self {
        Self::Bundle(Box::new(error))
    }
}

impl GeneratorError {
    /// Whether a retry of the same request is pointless. Tensor errors may be caused by lack of memory, so they are
    /// transient.
    pub fn is_permanent(&self) -> bool {
        !matches!(
            self,
            Self::Tensor(_) | Self::Text(TextEncoderError::Network(_)) | Self::Sample(SampleError::Tensor(_))
        )
    }
}

/// The networks for generation.
pub struct Generator {
    text_encoder: TextEncoder,
    prompts: Cache<String, Tensor>,
    sampler: Sampler,
    decoder: TokenizerDecoder,
    schedules: Schedules,
    device: Device,
}

impl Generator {
    /// Loads the networks of `bundle`. `dtype` is that of the large parts (float32 on the CPU). Conditions of prompts
    /// and subjects are cached across calls in at most `cache_bytes` bytes.
    pub fn load(bundle: &Bundle, device: &Device, dtype: DType, cache_bytes: usize) -> Result<Self, GeneratorError> {
        let Sizes { transformer: config, text_encoder: t5_config, tokenizer: tokenizer_config, schedules, .. } =
            Sizes::of(bundle)?;
        let on = |dtype| (device, dtype);
        let model = bundle.load(
            Network::Transformer,
            on(DType::F32),
            |name| is_ignored(&config, name),
            |vb| EchoGen::new(vb, &config, dtype),
        )?;
        let decoder = bundle.load(Network::VisualTokenizer, on(dtype), TokenizerDecoder::ignores, |vb| {
            TokenizerDecoder::new(vb, &tokenizer_config)
        })?;
        let encoder =
            bundle.load(Network::TextEncoder, on(dtype), T5Encoder::is_ignored, |vb| T5Encoder::new(vb, &t5_config))?;
        let tokenizer = load_tokenizer(&bundle.tokenizer(Network::TextEncoder)?)?;
        Ok(Self {
            text_encoder: TextEncoder::new(tokenizer, encoder, config.text_maxlen)?,
            prompts: Cache::builder().max_capacity(KEPT_PROMPTS).eviction_policy(EvictionPolicy::lru()).build(),
            sampler: Sampler::new(model, cache_bytes),
            decoder,
            schedules,
            device: device.clone(),
        })
    }

    /// Returns the schedules of the bundle's pixel budgets.
    pub fn schedules(&self) -> &Schedules {
        &self.schedules
    }

    /// Returns the bytes of key-value cache that one picture needs during sampling, over all its guidance rows.
    pub fn kv_cache_bytes(&self, schedule: &Schedule, options: &SamplingOptions) -> usize {
        let rows = options.row_scales(schedule.scales().len()).iter().filter(|scales| **scales > 0).count();
        rows * self.sampler.model().kv_cache_bytes(schedule)
    }

    /// Returns the transformer with its cache of conditions.
    pub fn sampler(&self) -> &Sampler {
        &self.sampler
    }

    /// Starts a batch of one picture for each request, all of one schedule. Its scales are then sampled one by one with
    /// [`Sampling::step`], and its code sums decoded with [`decode`](Self::decode). A picture depends neither on the
    /// others of its batch nor on what else is sampled between two scales.
    pub fn start(&self, requests: &[ImageRequest], schedule: &Schedule) -> Result<Sampling, GeneratorError> {
        let requests = requests.iter().map(|request| self.features(request)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.sampler.start(&requests, schedule, Rows::Needed)?)
    }

    /// Makes one picture for each request, all of one schedule, without a pause. The pictures are those of a batch that is
    /// stepped. `observe` is called before each scale with its index and the number of scales, and may stop the batch.
    pub fn generate(
        &self,
        requests: &[ImageRequest],
        schedule: &Schedule,
        observe: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Vec<RgbImage>, GeneratorError> {
        let requests = requests.iter().map(|request| self.features(request)).collect::<Result<Vec<_>, _>>()?;
        let summed = self.sampler.sample(&requests, schedule, observe)?;
        // Decoded one at a time, because the decoder's largest activation determines the peak memory of the batch.
        summed.iter().map(|codes| self.decode(codes)).collect()
    }

    fn features(&self, request: &ImageRequest) -> Result<SampleRequest, GeneratorError> {
        let subject = &request.subject;
        let negative = request.negative_prompt.as_deref().map(|prompt| self.encode(prompt)).transpose()?;
        Ok(SampleRequest {
            text: self.encode(&request.prompt)?,
            negative_text: negative,
            subject: SubjectFeatures {
                cls_token: subject.cls.to_device(&self.device)?,
                patch_tokens: subject.patches.to_device(&self.device)?,
                content: subject.content(CONTENT_SEED)?.to_device(&self.device)?,
            },
            keys: FeatureKeys {
                text: Some(FeatureKey::of(&request.prompt)),
                negative_text: request.negative_prompt.as_deref().map(FeatureKey::of),
                subject: subject.key,
            },
            seed: request.seed,
            options: request.options.clone(),
        })
    }

    /// Returns the T5 features of a prompt, (tokens, text_channels), float32.
    fn encode(&self, prompt: &str) -> Result<Tensor, GeneratorError> {
        if let Some(features) = self.prompts.get(prompt) {
            return Ok(features);
        }
        let features = self.text_encoder.encode(prompt)?.to_dtype(DType::F32)?;
        self.prompts.insert(prompt.to_owned(), features.clone());
        Ok(features)
    }

    /// Decodes a code sum (d, H, W), as [`Sampling::summed`] returns it, to a picture.
    pub fn decode(&self, codes: &Tensor) -> Result<RgbImage, GeneratorError> {
        picture(&self.pixels(codes)?)
    }

    /// Decodes the code sum of the scales so far (d, H, W) to a picture of at most `max_side` pixels on a side.
    ///
    /// The sum is decoded whole by the decoder of the finished picture, as VAR does with its `f_hat`
    /// (<https://github.com/FoundationVision/VAR/blob/main/models/quant.py>, `embed_to_fhat`), and the pixels are averaged.
    /// To average the sum instead would take a fraction of the time and give another picture: codes are no pixels.
    pub fn preview(&self, codes: &Tensor, max_side: usize) -> Result<RgbImage, GeneratorError> {
        let pixels = self.pixels(codes)?;
        let (_, _, height, width) = pixels.dims4()?;
        let longest = height.max(width);
        if longest <= max_side {
            return picture(&pixels);
        }
        let small = |side: usize| (side * max_side / longest).max(1);
        picture(&resize_area(&pixels, small(height), small(width))?)
    }

    /// Returns the pixels of a code sum (d, H, W): (1, 3, height, width) in [-1, 1], on the device.
    fn pixels(&self, codes: &Tensor) -> Result<Tensor, GeneratorError> {
        Ok(self.decoder.forward(&codes.unsqueeze(0)?.to_device(&self.device)?)?)
    }
}

/// Converts pixels (1, 3, height, width) in [-1, 1] to a picture.
fn picture(pixels: &Tensor) -> Result<RgbImage, GeneratorError> {
    let bytes = to_rgb8(pixels)?.squeeze(0)?; // (height, width, 3)
    let (height, width, _) = bytes.dims3()?;
    let bytes = bytes.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u8>()?;
    let picture = RgbImage::from_raw(width as u32, height as u32, bytes);
    picture.ok_or_else(|| candle_core::Error::Msg("the decoder gave too few bytes".to_owned()).into())
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator")
            .field("budgets", &self.schedules.budgets().collect::<Vec<_>>())
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_found_by_the_prompt_and_the_subjects_key() {
        let bundle =
            Bundle::open(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini")).unwrap();
        let generator = Generator::load(&bundle, &Device::Cpu, DType::F32, 1 << 26).unwrap();
        let schedule = generator.schedules().nearest(1.0, "0.004M").unwrap();
        let blank = EncodedSubject::blank(generator.sampler().model().config(), 64).unwrap();
        let usage = |prompt: &str, key: Option<&str>| {
            let request = ImageRequest {
                prompt: prompt.to_owned(),
                negative_prompt: None,
                subject: Arc::new(EncodedSubject { key: key.map(FeatureKey::of), ..blank.clone() }),
                seed: 1,
                options: SamplingOptions::default(),
            };
            let usage = generator.start(&[request], &schedule).unwrap().cache_use();
            (usage.hits, usage.misses)
        };
        assert_eq!(usage("a red mug", Some("mug")), (0, 2));
        assert_eq!(usage("a red mug", Some("mug")), (2, 0));
        assert_eq!(usage("a red mug", Some("dog")), (1, 1), "a key names a subject of its own");
        assert_eq!(usage("a red mug", None), (1, 1), "and so do features");
        assert_eq!(usage("a red mug", None), (2, 0));
        assert_eq!(usage("a red dog", Some("mug")), (1, 1), "the row of nothing depends on the number of words");
    }
}
