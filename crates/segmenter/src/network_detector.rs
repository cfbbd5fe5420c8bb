//! [`Detector`] on the networks of a model bundle.

use std::{collections::BTreeMap, sync::Arc, time::Instant as Moment};

use async_trait::async_trait;
use echogen_imaging::RgbImage;
use echogen_models::device_fault::is_device_fault;
use echogen_protocol::{Job, Subject};
use echogen_worker::{InferenceError, InferenceThread, RequestHandle};
use tokio::time::Instant;

use crate::{
    detector::{DetectError, Detector, Found},
    finder::{FinderConfig, SubjectNetworks, find_subject},
};

/// Requests that may wait for the inference thread; the stage's concurrency keeps the number below this.
const WAITING: usize = 4;

/// Finds subjects with the namer, the detector and the masker, on an inference thread of its own.
#[derive(Debug)]
pub struct NetworkDetector {
    version: String,
    models: BTreeMap<String, String>,
    thread: InferenceThread<(Arc<RgbImage>, Subject), Found, DetectError>,
}

impl NetworkDetector {
    /// Returns everything the answers depend on: the networks' digests and the settings. It is part of the key of a
    /// segmentation, see [`echogen_protocol::SubjectKeys::finders`].
    pub fn version_of(config: &FinderConfig, models: &BTreeMap<String, String>) -> String {
        let digests = models.iter().map(|(name, digest)| format!("{name}={digest}")).collect::<Vec<_>>().join("+");
        format!("{digests} {}", config.version())
    }

    /// Starts the inference thread. `models` are the digests of the networks that the bundle has.
    pub fn start(
        networks: impl SubjectNetworks + 'static,
        config: FinderConfig,
        models: BTreeMap<String, String>,
    ) -> std::io::Result<Self> {
        let version = Self::version_of(&config, &models);
        let naming_timeout = config.naming_timeout();
        let serve = move |(picture, subject): (Arc<RgbImage>, Subject), handle: &RequestHandle<_, _>| {
            let started = Moment::now();
            let keep_going = || started.elapsed() < naming_timeout && !handle.is_abandoned();
            find_subject(&networks, &config, &picture, &subject, &keep_going)
        };
        let thread = InferenceThread::start("subject-networks", WAITING, is_device_fault, serve)?;
        Ok(Self { version, models, thread })
    }
}

#[async_trait]
impl Detector for NetworkDetector {
    async fn detect(&self, picture: Arc<RgbImage>, job: &Job, deadline: Instant) -> Result<Found, DetectError> {
        self.thread.ask((picture, job.subject.clone()), deadline).await
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn models(&self) -> BTreeMap<String, String> {
        self.models.clone()
    }
}

impl From<InferenceError> for DetectError {
    fn from(error: InferenceError) -> Self {
        Self::Failed(error.into())
    }
}
