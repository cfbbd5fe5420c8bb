//! Constant networks: they return the same answer at once, so that everything around them is measured.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use echogen_encoder::{EncodeError, SubjectEncoder};
use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use echogen_protocol::{Job, Parameters, PixelBudget, SubjectKeys};
use echogen_sampler::{ImageSampler, SampleError, SampleRequest, Sampled};
use echogen_segmenter::{Detector, GivenBox};
use echogen_service::LoadedNetworks;
use echogen_testkit::parameters;

/// A prompt with this word ends the process that samples it, as a crash in a driver would.
pub const POISON: &str = "poison";

/// Size of an encoded subject in bytes, about the same as the mini bundle's.
const SUBJECT_BYTES: usize = 64 * 1024;

/// Side of a picture in pixels.
const SIDE: u32 = 64;

/// The constant networks.
#[derive(Debug)]
pub struct Constant {
    /// How long each answer takes.
    pub delay: Duration,
    /// Size of an encoded subject in bytes.
    pub subject_bytes: usize,
    /// Side of a picture in pixels.
    pub side: u32,
}

impl Constant {
    /// Returns networks that take `delay` for each answer.
    pub fn taking(delay: Duration) -> Self {
        Self { delay, subject_bytes: SUBJECT_BYTES, side: SIDE }
    }

    async fn think(&self) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }
}

/// Returns constant networks for all stages, which take `delay` for each answer.
pub fn networks(delay: Duration) -> LoadedNetworks {
    let constant = Arc::new(Constant::taking(delay));
    LoadedNetworks {
        name: "constant".to_owned(),
        subjects: subject_keys(),
        detector: Arc::new(GivenBox),
        encoder: constant.clone(),
        sampler: constant,
    }
}

/// Returns how the keys of the constant subjects are computed.
pub fn subject_keys() -> SubjectKeys {
    SubjectKeys {
        encoders: "constant".to_owned(),
        dtypes: vec!["f32".to_owned()],
        finders: GivenBox.version(),
        default_pixel_budget: PixelBudget::M0_06,
        resolutions: [(PixelBudget::M0_06, 256)].into(),
    }
}

/// Returns a small picture as PNG that is unique to `number`.
pub fn picture(number: u64) -> Vec<u8> {
    let bytes = number.to_le_bytes();
    let image = RgbImage::from_fn(4, 4, |x, y| {
        let at = usize::try_from(y * 4 + x).unwrap_or(0);
        [bytes[at % 8], bytes[(at + 1) % 8], 0x55].into()
    });
    encode_image(&image, ImageFormat::Png, 100).unwrap_or_default()
}

#[async_trait]
impl SubjectEncoder for Constant {
    async fn encode(&self, _: Arc<RgbImage>, _: u32, _: tokio::time::Instant) -> Result<Vec<u8>, EncodeError> {
        self.think().await;
        Ok(vec![7; self.subject_bytes])
    }

    fn dtype(&self) -> &str {
        "f32"
    }

    fn models(&self) -> BTreeMap<String, String> {
        [("dinov2".to_owned(), "0".repeat(64))].into()
    }
}

#[async_trait]
impl ImageSampler for Constant {
    fn plan(&self, job: &Job) -> Result<Parameters, SampleError> {
        Ok(parameters(job, "constant", self.side))
    }

    async fn sample(&self, request: SampleRequest) -> Result<Sampled, SampleError> {
        if request.parameters.prompt.contains(POISON) {
            std::process::abort();
        }
        self.think().await;
        for index in 0..request.seeds.len() {
            request.send(index, RgbImage::from_pixel(self.side, self.side, [200, 120, 40].into()));
        }
        Ok(Sampled::default())
    }

    fn models(&self) -> BTreeMap<String, String> {
        [("transformer".to_owned(), "0".repeat(64))].into()
    }
}
