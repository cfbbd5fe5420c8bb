//! Takes a job back.

use echogen_ports::{Fault, ObjectKey};
use echogen_protocol::{JobId, JobResult, JobStatus, Lane, TraceContext};
use tracing::warn;

use crate::{JobState, JobStatusStore, ResultWriter, TaskMetadata, queue_loop::trace::span_under};

/// Ends jobs as cancelled, wherever they are on their way.
#[derive(Clone, Debug)]
pub struct JobCanceller {
    results: ResultWriter,
    status_store: Option<JobStatusStore>,
}

/// What came of taking a job back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// How the job ended: as cancelled, unless it had ended before.
    pub status: JobStatus,
    /// Whether this call ended it.
    pub is_new: bool,
    /// The key of its `result.json`.
    pub result_key: String,
    /// Whether that is known to be the job's own key: a job with another may have been left running.
    pub is_sure: bool,
}

impl JobCanceller {
    /// A canceller that writes by `results`, and learns from the store where a job's result belongs.
    pub fn new(results: ResultWriter, status_store: Option<JobStatusStore>) -> Self {
        Self { results, status_store }
    }

    /// Ends the job as cancelled unless it has ended. The result is durable when this returns, and the workers are told;
    /// one that does not hear it finds the result when it would write its own.
    ///
    /// A job that nothing is known of is cancelled ahead of its coming, under the key of jobs with this destination. What
    /// the store knows counts before the caller's word.
    pub async fn cancel(&self, id: &JobId, destination: Option<&str>) -> Result<Cancelled, Fault> {
        let state = self.state(id).await;
        let is_sure = state.is_some() || destination.is_some();
        let key = match &state {
            Some(state) => state.result_key.clone(),
            None => id.result_key(destination),
        };
        let key = ObjectKey::new(key)?;
        let metadata = metadata(state);
        let result = JobResult::cancelled(id.clone(), self.results.version(), self.results.now());
        let result = JobResult { content: metadata.content, again: metadata.again, ..result };
        let is_new = self.results.commit_at(&key, Lane::default(), &result, &metadata).await?;
        let status = if is_new { None } else { self.results.find_at(&key).await?.map(|result| result.status) };
        let status = status.unwrap_or(JobStatus::Cancelled);
        Ok(Cancelled { status, is_new, result_key: key.as_str().to_owned(), is_sure })
    }

    /// What the store knows of the job. A cache may be away, and is written to by others too: a key that cannot be this
    /// job's is not believed.
    async fn state(&self, id: &JobId) -> Option<JobState> {
        let found = self.status_store.as_ref()?.find(id).await;
        let state = found.inspect_err(|error| warn!(job = %id, %error, "job status not read")).ok()??;
        let plain = id.result_key(None);
        let is_own = state.result_key == plain || state.result_key.ends_with(&format!("/{plain}"));
        is_own.then_some(state)
    }
}

fn metadata(state: Option<JobState>) -> TaskMetadata {
    let Some(state) = state else { return TaskMetadata::default() };
    let trace_id = state.trace_id.and_then(|id| u128::from_str_radix(&id, 16).ok());
    let trace = trace_id.map(|id| span_under(TraceContext::new(id, 1)));
    TaskMetadata {
        reply_to: state.reply_to,
        callback: state.callback,
        tenant: state.tenant,
        content: state.content,
        again: state.again,
        trace,
        ..TaskMetadata::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use echogen_ports::{MemoryBroker, MemoryObjectStore, ObjectStore};

    use super::*;
    use crate::Clock;

    #[tokio::test]
    async fn a_destination_that_the_caller_knows_is_where_the_job_will_look() {
        let store: Arc<dyn ObjectStore> = Arc::new(MemoryObjectStore::new());
        let results = ResultWriter::new(Arc::clone(&store), Arc::new(MemoryBroker::new()), Clock::system(), "1.2.3");
        let (canceller, id) = (JobCanceller::new(results, None), JobId("one".to_owned()));
        let cancelled = canceller.cancel(&id, None).await.unwrap();
        assert_eq!((cancelled.result_key.as_str(), cancelled.is_sure), ("one/result.json", false));
        let cancelled = canceller.cancel(&id, Some("dogs")).await.unwrap();
        assert_eq!((cancelled.result_key.as_str(), cancelled.is_sure), ("dogs/one/result.json", true));
        assert!(cancelled.is_new && store.exists(&ObjectKey::new("dogs/one/result.json").unwrap()).await.unwrap());
        assert!(canceller.cancel(&id, Some("../dogs")).await.unwrap_err().is_permanent());
    }
}
