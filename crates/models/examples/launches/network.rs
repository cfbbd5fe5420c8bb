//! Networks of the published sizes with weights of zeros, made on the device.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use clap::ValueEnum;
use echogen_models::{
    device::Compute,
    echogen::{
        EchoGen, EchoGenConfig, FeatureKey, FeatureKeys, SampleRequest, SamplingOptions, Schedule, ScheduleError,
        Schedules, SubjectFeatures,
    },
    visual_tokenizer::{TokenizerConfig, TokenizerDecoder},
};

/// Number of words of the prompt.
const WORDS: usize = 20;

/// A model and the number of pixels that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// Two blocks of the smallest width, at 256 x 256 pixels.
    Tiny,
    /// The published 125M model at 512 x 512 pixels.
    #[value(name = "125m")]
    Small,
    /// The published 2B model at 1024 x 1024 pixels.
    #[value(name = "2b")]
    Large,
}

/// The networks that turn features of prompt and subject into a picture.
pub(crate) struct Network {
    pub(crate) transformer: EchoGen,
    pub(crate) decoder: TokenizerDecoder,
}

impl Size {
    /// Returns the name in the budget.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "125m",
            Self::Large => "2b",
        }
    }

    pub(crate) fn transformer(self) -> EchoGenConfig {
        match self {
            Self::Tiny => EchoGenConfig { depth: 2, dim: 256, heads: 2, block_chunks: 1, ..EchoGenConfig::layer12() },
            Self::Small => EchoGenConfig::layer12(),
            Self::Large => EchoGenConfig::echogen_2b(),
        }
    }

    fn tokenizer(self) -> TokenizerConfig {
        let published = TokenizerConfig::published(self.transformer().bits);
        match self {
            Self::Tiny => TokenizerConfig { channels: 32, ..published },
            Self::Small | Self::Large => published,
        }
    }

    pub(crate) fn schedule(self) -> std::result::Result<Schedule, ScheduleError> {
        let budget = match self {
            Self::Tiny => "0.06M",
            Self::Small => "0.25M",
            Self::Large => "1M",
        };
        Schedules::published().nearest(1.0, budget)
    }

    /// Returns the request for one picture of a subject of the largest size.
    pub(crate) fn request(self, device: &Device, seed: u64) -> Result<SampleRequest> {
        let config = self.transformer();
        let zeros = |rows: usize, channels: usize| Tensor::zeros((rows, channels), DType::F32, device);
        Ok(SampleRequest {
            text: zeros(WORDS, config.text_channels)?,
            negative_text: None,
            subject: SubjectFeatures {
                cls_token: Tensor::zeros(config.semantic_dim, DType::F32, device)?,
                patch_tokens: zeros(config.semantic_len - 1, config.semantic_dim)?,
                content: zeros(config.content_len, config.content_dim)?,
            },
            keys: FeatureKeys {
                text: Some(FeatureKey::of("the prompt")),
                subject: Some(FeatureKey::of("the subject")),
                ..FeatureKeys::default()
            },
            seed,
            options: SamplingOptions::default(),
        })
    }
}

impl Network {
    pub(crate) fn load(size: Size, compute: &Compute) -> Result<Self> {
        let vb = |dtype| VarBuilder::from_backend(Box::new(Zeros), dtype, compute.device.clone());
        Ok(Self {
            transformer: EchoGen::new(vb(DType::F32), &size.transformer(), compute.dtype)?,
            decoder: TokenizerDecoder::new(vb(compute.dtype), &size.tokenizer())?,
        })
    }
}

/// Has every tensor that is asked for by its shape.
struct Zeros;

impl SimpleBackend for Zeros {
    fn get(&self, shape: Shape, _: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("{name} was asked for without a shape")
    }

    /// Says no: then the networks ask for what they cannot do without, by its shape.
    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}
