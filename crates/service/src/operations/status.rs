//! The status of a job.

use std::{sync::Arc, time::Duration};

use echogen_adapters::S3ObjectStore;
use echogen_ports::{Broker, Fault, ObjectKey};
use echogen_protocol::{JobEvent, JobId, JobResult};
use echogen_worker::{JobState, JobStatusBoard, ResultWriter};
use tokio_util::task::TaskTracker;

use super::JobEvents;
use crate::{
    Failure,
    backends::{self, Stores},
    config::ServiceConfig,
};

/// How often a watcher checks for itself, should an event have been missed.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// What is known of a job. The result says how it ended; the state, where it was last seen.
#[derive(Debug)]
pub struct JobStatus {
    /// Where it was last seen.
    pub state: Option<JobState>,
    /// How it ended.
    pub result: Option<JobResult>,
    /// Why the job status store could not be read.
    pub unreadable: Option<Fault>,
}

impl JobStatus {
    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        self.state.is_some() || self.result.is_some()
    }
}

/// What a watcher observes.
#[derive(Debug)]
pub enum Observed<'a> {
    /// Something has happened to the job.
    Event(&'a JobEvent),
    /// The job status store cannot be read.
    Unreadable(&'a Fault),
}

/// Reads the status of a job.
pub struct StatusReader {
    board: JobStatusBoard,
    results: ResultWriter,
    bucket: Option<S3ObjectStore>,
    id: JobId,
    destination: Option<String>,
}

impl StatusReader {
    /// Opens the stores that the settings name; `destination` is the job's `output.destination`, where the job status
    /// store may not know the job.
    pub async fn open(config: &ServiceConfig, id: &JobId, destination: Option<&str>) -> Result<Self, Failure> {
        let Stores { results, bucket, .. } = Stores::open(config).await?;
        let board = JobStatusBoard::start(backends::open_cache(config)?, &TaskTracker::new());
        // Nothing is written.
        let results = backends::result_writer(results, Arc::new(echogen_ports::MemoryBroker::new()));
        Ok(Self { board, results, bucket, id: id.clone(), destination: destination.map(str::to_owned) })
    }

    /// What is known now.
    pub async fn check(&self) -> Result<JobStatus, Failure> {
        let (state, unreadable) = match self.board.find(&self.id).await {
            Ok(state) => (state, None),
            Err(error) => (None, Some(error)),
        };
        let key = state.as_ref().map(|state| state.result_key.clone());
        let key = key.unwrap_or_else(|| self.id.result_key(self.destination.as_deref()));
        let key = ObjectKey::new(key).map_err(|error| Failure::usage(format!("the result's key {error}")))?;
        let result = self.results.find_at(&key).await;
        let result = result.map_err(|error| Failure::refused("the result cannot be read", &error))?;
        Ok(JobStatus { state, result, unreadable })
    }

    /// Waits until the job has ended; `each` is called for every step.
    pub async fn watch(&self, broker: &dyn Broker, mut each: impl FnMut(Observed<'_>)) -> Result<JobStatus, Failure> {
        let mut events = JobEvents::subscribe(broker, &self.id).await?;
        loop {
            let status = self.check().await?;
            status.unreadable.iter().for_each(|error| each(Observed::Unreadable(error)));
            if status.result.is_some() {
                return Ok(status);
            }
            if let Ok(Some(event)) = tokio::time::timeout(CHECK_EVERY, events.next()).await {
                each(Observed::Event(&event));
            }
        }
    }

    /// Addresses by which anybody may fetch the pictures of a result for so long.
    pub async fn presign(&self, result: &JobResult, valid: Duration) -> Result<Vec<String>, Failure> {
        let Some(bucket) = &self.bucket else {
            return Err(Failure::usage("only an s3:// store has presigned addresses; leave --presign out"));
        };
        let mut addresses = Vec::with_capacity(result.images.len());
        for image in &result.images {
            let key = ObjectKey::new(image.key.clone()).map_err(|error| Failure::usage(error.to_string()))?;
            let address = bucket.presign(&key, valid).await;
            addresses.push(address.map_err(|error| Failure::refused("no address can be presigned", &error))?);
        }
        Ok(addresses)
    }
}
