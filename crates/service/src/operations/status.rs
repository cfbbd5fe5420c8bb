//! Reads the status of a job.

use std::{sync::Arc, time::Duration};

use echogen_ports::{Cache, Fault, MemoryBroker, ObjectKey, ObjectStore};
use echogen_protocol::{JobId, JobResult};
use echogen_worker::{JobState, JobStatusStore, ResultWriter};
use tokio_util::task::TaskTracker;

use crate::{
    Failure,
    backends::{self, Stores},
    config::ServiceConfig,
};

/// What is known of a job: the result if it has ended, and the state in which the job status store last recorded it.
#[derive(Debug)]
pub struct JobStatus {
    /// The last recorded state.
    pub state: Option<JobState>,
    /// The result, which says how it ended.
    pub result: Option<JobResult>,
    /// Why the job status store could not be read.
    pub unreadable: Option<Fault>,
}

impl JobStatus {
    /// Returns whether anything is known.
    pub fn is_known(&self) -> bool {
        self.state.is_some() || self.result.is_some()
    }
}

/// Reads the status of a job.
pub struct StatusReader {
    status_store: JobStatusStore,
    results: ResultWriter,
    store: Arc<dyn ObjectStore>,
    id: JobId,
    destination: Option<String>,
}

impl StatusReader {
    /// Opens the stores that the settings name. `destination` is the job's `output.destination`, which is needed if
    /// the job status store does not know the job.
    pub async fn open(config: &ServiceConfig, id: &JobId, destination: Option<&str>) -> Result<Self, Failure> {
        let Stores { results, .. } = Stores::open(config).await?;
        Ok(Self::new(backends::open_cache(config)?, results, id, destination))
    }

    /// Creates a reader of opened stores.
    pub(super) fn new(
        cache: Arc<dyn Cache>,
        store: Arc<dyn ObjectStore>,
        id: &JobId,
        destination: Option<&str>,
    ) -> Self {
        let status_store = JobStatusStore::start(cache, &TaskTracker::new());
        // The reader writes no results and publishes no events, so an unused in-memory broker suffices.
        let results = backends::result_writer(Arc::clone(&store), Arc::new(MemoryBroker::new()));
        Self { status_store, results, store, id: id.clone(), destination: destination.map(str::to_owned) }
    }

    /// Returns the job's id.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// Returns the last recorded state.
    pub(super) async fn state(&self) -> Result<Option<JobState>, Fault> {
        self.status_store.find(&self.id).await
    }

    /// Returns the current status.
    pub async fn check(&self) -> Result<JobStatus, Failure> {
        let (state, unreadable) = match self.state().await {
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

    /// Returns presigned URLs by which anyone may fetch the pictures of a result for the given time.
    pub async fn presign(&self, result: &JobResult, valid: Duration) -> Result<Vec<String>, Failure> {
        let mut addresses = Vec::with_capacity(result.images.len());
        for image in &result.images {
            let key = ObjectKey::new(image.key.clone()).map_err(|error| Failure::usage(error.to_string()))?;
            let address = self.store.presign_get(&key, valid).await;
            let address = address.map_err(|error| Failure::refused("no address can be presigned", &error))?;
            addresses.push(
                address.ok_or_else(|| {
                    Failure::usage("only an s3:// store has presigned addresses; leave --presign out")
                })?,
            );
        }
        Ok(addresses)
    }
}
