//! Cancels jobs: writes the result "cancelled" for a job that has not ended.

use echogen_protocol::JobId;
use echogen_worker::{Cancelled, JobCanceller, JobStatusStore};
use tokio_util::task::TaskTracker;

use crate::{
    Failure,
    backends::{self, Stores},
    config::ServiceConfig,
};

/// Cancels jobs.
pub struct Canceller {
    canceller: JobCanceller,
    tracker: TaskTracker,
}

impl Canceller {
    /// Opens the stores and connects to the broker that the settings name.
    pub async fn open(config: &ServiceConfig) -> Result<Self, Failure> {
        let tracker = TaskTracker::new();
        let results = Stores::open(config).await?.results;
        let status_store = JobStatusStore::start(backends::open_cache(config)?, &tracker);
        let broker = super::connect(config).await?;
        let writer = backends::result_writer(results, broker).with_status_store(status_store.clone());
        Ok(Self { canceller: JobCanceller::new(writer, Some(status_store)), tracker })
    }

    /// Cancels one job. `destination` is its `output.destination`, which is needed if the job status store does not
    /// know the job.
    pub async fn cancel(&self, id: &JobId, destination: Option<&str>) -> Result<Cancelled, Failure> {
        let cancelled = self.canceller.cancel(id, destination).await;
        cancelled.map_err(|error| Failure::refused("the job cannot be cancelled", &error))
    }

    /// Waits until all updates of the job status store are written.
    pub async fn close(self) {
        let Self { canceller, tracker } = self;
        // The background task ends when the last handle to it is dropped, so the canceller must be dropped before
        // waiting.
        drop(canceller);
        tracker.close();
        tracker.wait().await;
    }
}
