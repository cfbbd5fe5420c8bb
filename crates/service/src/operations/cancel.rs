//! Cancelling jobs: the result "cancelled" is written unless a job has ended.

use echogen_protocol::JobId;
use echogen_worker::{Cancelled, JobCanceller, JobStatusBoard};
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
        let board = JobStatusBoard::start(backends::open_cache(config)?, &tracker);
        let broker = super::connect(config).await?;
        let writer = backends::result_writer(results, broker).with_board(board.clone());
        Ok(Self { canceller: JobCanceller::new(writer, Some(board)), tracker })
    }

    /// Cancels one job; `destination` is its `output.destination`, where the job status store may not know the job.
    pub async fn cancel(&self, id: &JobId, destination: Option<&str>) -> Result<Cancelled, Failure> {
        let cancelled = self.canceller.cancel(id, destination).await;
        cancelled.map_err(|error| Failure::refused("the job cannot be cancelled", &error))
    }

    /// Waits until the job status store has been written.
    pub async fn close(self) {
        let Self { canceller, tracker } = self;
        // The writer ends when its last sender is dropped.
        drop(canceller);
        tracker.close();
        tracker.wait().await;
    }
}
