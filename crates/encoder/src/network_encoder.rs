//! [`SubjectEncoder`] on the networks of a model bundle.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use echogen_imaging::RgbImage;
use echogen_models::{
    device_fault::is_device_fault, encoded_subject::SubjectError, feature_extractor::FeatureExtractor,
};
use echogen_worker::{Asker, InferenceError, InferenceThread};
use tokio::time::Instant;

use crate::{EncodeError, SubjectEncoder};

/// Requests that wait for the thread; the stage's own concurrency keeps it below.
const WAITING: usize = 4;

type Question = (Arc<RgbImage>, u32);

/// Encodes with DINOv2 and the autoencoder, on a thread of their own.
#[derive(Debug)]
pub struct NetworkEncoder {
    models: BTreeMap<String, String>,
    thread: InferenceThread<Question, Result<Vec<u8>, SubjectError>>,
}

impl NetworkEncoder {
    /// Starts the thread. `models` are the digests for the result.
    pub fn start(networks: FeatureExtractor, models: BTreeMap<String, String>) -> std::io::Result<Self> {
        let serve = move |(cutout, resolution): Question, _: &Asker<'_>| {
            let encoded = networks.encode(&cutout, resolution as usize);
            if let Err(error) = &encoded
                && is_device_fault(error)
            {
                echogen_telemetry::health().device_fault(&error.to_string());
            }
            encoded?.to_bytes()
        };
        Ok(Self { models, thread: InferenceThread::start("encoder-networks", WAITING, serve)? })
    }
}

#[async_trait]
impl SubjectEncoder for NetworkEncoder {
    async fn encode(&self, cutout: Arc<RgbImage>, resolution: u32, deadline: Instant) -> Result<Vec<u8>, EncodeError> {
        Ok(self.thread.ask((cutout, resolution), deadline).await??)
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
