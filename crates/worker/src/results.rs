//! How a job ends: `result.json` first, created only if absent, then the event that tells of it.

use std::sync::Arc;

use async_trait::async_trait;
use echogen_ports::{Broker, Event, ObjectKey, ObjectStore, PortError};
use echogen_protocol::{Failure, Job, JobEvent, JobResult};

use crate::Clock;

/// Bytes of a `result.json` that is read back: 64 pictures and the job's own words stay far below.
const MAX_RESULT_BYTES: u64 = 16 * 1024 * 1024;

/// What is done about a job that cannot succeed.
#[async_trait]
pub trait FailureHandler: Send + Sync {
    /// Ends the job as failed (or expired, or cancelled, as `failure` says), unless it has ended already. Idempotent.
    async fn fail(&self, job: &Job, failure: Failure) -> Result<(), PortError>;
}

/// Writes results into the result store and tells of them.
#[derive(Clone, Debug)]
pub struct ResultWriter {
    store: Arc<dyn ObjectStore>,
    broker: Arc<dyn Broker>,
    clock: Clock,
    version: String,
}

impl ResultWriter {
    /// A writer into `store`; `version` is EchoGen's, as it stands in the results.
    pub fn new(store: Arc<dyn ObjectStore>, broker: Arc<dyn Broker>, clock: Clock, version: impl Into<String>) -> Self {
        Self { store, broker, clock, version: version.into() }
    }

    /// EchoGen's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the job's result, if it has ended.
    pub async fn find(&self, job: &Job) -> Result<Option<JobResult>, PortError> {
        let key = ObjectKey::of_result(job)?;
        let Some(bytes) = self.store.get(&key, MAX_RESULT_BYTES).await? else { return Ok(None) };
        let result = serde_json::from_slice(&bytes).map_err(|error| {
            PortError::permanent(format!("the object {key} is no result; remove it and run the job again"))
                .because(error)
        })?;
        Ok(Some(result))
    }

    /// Ends the job with `result` unless it has ended before; returns whether this result is the one that counts.
    ///
    /// The event is sent either way, and always that of the result in the store: a process that died between the two
    /// steps is made good by the next try, and listeners know the event by its id.
    pub async fn commit(&self, job: &Job, result: &JobResult) -> Result<bool, PortError> {
        let key = ObjectKey::of_result(job)?;
        let bytes = serde_json::to_vec_pretty(result)
            .map_err(|error| PortError::permanent("the result cannot be written as JSON").because(error))?;
        let first = self.store.put_if_absent(&key, bytes.into()).await?;
        let counts = if first { Some(result.clone()) } else { self.find(job).await? };
        if let Some(counts) = counts {
            self.broker.publish_event(Event::of_job(&JobEvent::of_result(&counts))).await?;
        }
        Ok(first)
    }
}

#[async_trait]
impl FailureHandler for ResultWriter {
    async fn fail(&self, job: &Job, failure: Failure) -> Result<(), PortError> {
        // A job that is refused for its very id or destination has no place for a result; its event is all there is.
        let result = JobResult::failed(job, failure, &self.version, self.clock.now());
        if ObjectKey::of_result(job).is_err() {
            return self.broker.publish_event(Event::of_job(&JobEvent::of_result(&result))).await;
        }
        self.commit(job, &result).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use echogen_ports::{EventStream, MemoryBroker, MemoryObjectStore};
    use echogen_protocol::{EventKind, FailureKind, JobId, JobStatus};
    use jiff::Timestamp;

    use super::*;

    struct Bench {
        store: Arc<MemoryObjectStore>,
        events: Box<dyn EventStream>,
        results: ResultWriter,
        job: Job,
    }

    async fn bench() -> Bench {
        let (store, broker) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryBroker::new()));
        let events = broker.subscribe("job").await.unwrap();
        let clock = Clock::fixed(Timestamp::UNIX_EPOCH);
        let results = ResultWriter::new(Arc::clone(&store) as Arc<dyn ObjectStore>, broker, clock, "1.2.3");
        Bench { store, events, results, job: Job::new("dog.png".into(), "a dog").with_id() }
    }

    async fn next_event(events: &mut Box<dyn EventStream>) -> JobEvent {
        let event = tokio::time::timeout(Duration::from_secs(5), events.next()).await;
        event.unwrap().unwrap().to_job().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_result_counts_and_is_told_every_time() {
        let mut bench = bench().await;
        let good = JobResult::completed(&bench.job, Vec::new(), "1.2.3", Timestamp::UNIX_EPOCH);
        assert!(bench.results.commit(&bench.job, &good).await.unwrap());
        let failure = Failure { kind: FailureKind::Internal, message: "too late".to_owned() };
        bench.results.fail(&bench.job, failure).await.unwrap();
        assert_eq!(bench.results.find(&bench.job).await.unwrap(), Some(good));
        let (first, second) = (next_event(&mut bench.events).await, next_event(&mut bench.events).await);
        assert_eq!(first.kind, EventKind::Completed);
        assert_eq!(first, second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_leaves_a_result_of_its_kind() {
        let mut bench = bench().await;
        let failure = Failure { kind: FailureKind::Expired, message: "too late".to_owned() };
        bench.results.fail(&bench.job, failure.clone()).await.unwrap();
        let result = bench.results.find(&bench.job).await.unwrap().unwrap();
        assert_eq!((result.status, result.error), (JobStatus::Expired, Some(failure)));
        assert_eq!(next_event(&mut bench.events).await.kind, EventKind::Expired);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_with_an_impossible_id_gets_an_event_and_no_object() {
        let mut bench = bench().await;
        bench.job.id = JobId("../climb".to_owned());
        let failure = Failure { kind: FailureKind::InvalidJob, message: "bad id".to_owned() };
        bench.results.fail(&bench.job, failure).await.unwrap();
        assert_eq!(next_event(&mut bench.events).await.kind, EventKind::Failed);
        assert!(bench.store.keys().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_is_none_is_named() {
        let bench = bench().await;
        let key = ObjectKey::of_result(&bench.job).unwrap();
        bench.store.put(&key, "{".into()).await.unwrap();
        let error = bench.results.find(&bench.job).await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains(key.as_str()), "{error}");
    }
}
