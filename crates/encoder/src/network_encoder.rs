//! [`SubjectEncoder`] on the networks of a model bundle.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use echogen_imaging::RgbImage;
use echogen_models::{
    device_fault::is_device_fault, encoded_subject::SubjectError, feature_extractor::FeatureExtractor,
};
use echogen_worker::{InferenceError, InferenceThread, RequestHandle};
use tokio::time::Instant;

use crate::{EncodeError, SubjectEncoder};

/// Requests that may wait for the inference thread; the stage's concurrency keeps the number below this.
const WAITING: usize = 4;

/// Encodes with DINOv2 and the autoencoder, on an inference thread of their own.
#[derive(Debug)]
pub struct NetworkEncoder {
    models: BTreeMap<String, String>,
    dtype: &'static str,
    thread: InferenceThread<(Arc<RgbImage>, u32), Vec<u8>, EncodeError>,
}

impl NetworkEncoder {
    /// Starts the inference thread. `models` are the digests for the result.
    pub fn start(networks: FeatureExtractor, models: BTreeMap<String, String>) -> std::io::Result<Self> {
        let dtype = networks.dtype().as_str();
        let serve = move |(cutout, resolution): (Arc<RgbImage>, u32), _: &RequestHandle<_, _>| {
            Ok(networks.encode(&cutout, resolution as usize)?.to_bytes()?)
        };
        let thread = InferenceThread::start("encoder-networks", WAITING, is_device_fault, serve)?;
        Ok(Self { models, dtype, thread })
    }
}

#[async_trait]
impl SubjectEncoder for NetworkEncoder {
    async fn encode(&self, cutout: Arc<RgbImage>, resolution: u32, deadline: Instant) -> Result<Vec<u8>, EncodeError> {
        self.thread.ask((cutout, resolution), deadline).await
    }

    fn dtype(&self) -> &str {
        self.dtype
    }

    fn models(&self) -> BTreeMap<String, String> {
        self.models.clone()
    }
}

impl From<InferenceError> for EncodeError {
    fn from(error: InferenceError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<SubjectError> for EncodeError {
    fn from(error: SubjectError) -> Self {
        if error.is_permanent() { Self::BadPicture(error.to_string()) } else { Self::Failed(error.into()) }
    }
}
