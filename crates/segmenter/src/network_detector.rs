//! [`Detector`] on the networks of a model bundle.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant as Moment},
};

use async_trait::async_trait;
use echogen_imaging::RgbImage;
use echogen_models::device_fault::is_device_fault;
use echogen_protocol::{Job, Subject};
use echogen_worker::{Asker, InferenceError, InferenceThread};
use tokio::time::Instant;

use crate::{
    detector::{DetectError, Detector, Found},
    finder::{FinderConfig, SubjectNetworks, find_subject},
};

/// Requests that wait for the thread; the stage's own concurrency keeps it below.
const WAITING: usize = 4;

/// How long the namer may talk; what it said by then counts.
const NAMING_TIME: Duration = Duration::from_secs(120);

type Question = (Arc<RgbImage>, Subject);

/// Finds subjects with namer, detector and masker, on a thread of their own.
#[derive(Debug)]
pub struct NetworkDetector {
    version: String,
    models: BTreeMap<String, String>,
    thread: InferenceThread<Question, Result<Found, DetectError>>,
}

impl NetworkDetector {
    /// What answers depend on: the networks' digests and the settings. The key of a cut-out, see
    /// [`echogen_protocol::SubjectKeys::finders`].
    pub fn version_of(config: &FinderConfig, models: &BTreeMap<String, String>) -> String {
        let digests = models.iter().map(|(name, digest)| format!("{name}={digest}")).collect::<Vec<_>>().join("+");
        format!("{digests} {}", config.version())
    }

    /// Starts the thread. `models` are the digests of the networks that are there.
    pub fn start(
        networks: impl SubjectNetworks + 'static,
        config: FinderConfig,
        models: BTreeMap<String, String>,
    ) -> std::io::Result<Self> {
        let version = Self::version_of(&config, &models);
        let serve = move |(picture, subject): Question, asker: &Asker<'_>| {
            let started = Moment::now();
            let keep_going = || started.elapsed() < NAMING_TIME && !asker.is_gone();
            let found = find_subject(&networks, &config, &picture, &subject, &keep_going);
            if let Err(error) = &found
                && is_device_fault(error)
            {
                echogen_telemetry::health().device_fault(&error.to_string());
            }
            found
        };
        Ok(Self { version, models, thread: InferenceThread::start("subject-networks", WAITING, serve)? })
    }
}

#[async_trait]
impl Detector for NetworkDetector {
    async fn detect(&self, picture: Arc<RgbImage>, job: &Job, deadline: Instant) -> Result<Found, DetectError> {
        self.thread.ask((picture, job.subject.clone()), deadline).await?
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
