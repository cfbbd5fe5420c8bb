//! How a job ends: `result.json` first, created only if absent, then its event.

use std::sync::Arc;

use async_trait::async_trait;
use echogen_ports::{Broker, Event, Fault, Message, ObjectKey, ObjectStore};
use echogen_protocol::{
    Failure, Job, JobEvent, JobId, JobOutline, JobResult, JobStatus, NotifyTask, StageTask, TaskHeaders,
    json::{self, Bounds},
};
use echogen_telemetry::JobEnd;
use jiff::Timestamp;

use crate::{Clock, JobState, JobStatusStore, TaskMetadata};

/// Bytes of a `result.json` that is read back: 64 pictures and the job's own words stay far below.
const MAX_RESULT_BYTES: u64 = 16 * 1024 * 1024;

/// How a job ends that the stages do not end themselves.
#[async_trait]
pub trait FailureHandler: Send + Sync {
    /// Ends the job as failed (or expired, or cancelled, as `failure` says), unless it has ended already. Idempotent.
    async fn fail(&self, job: &JobOutline, failure: Failure, metadata: &TaskMetadata) -> Result<(), Fault>;

    /// Checks the word that a job was taken back; `result_key` is where its result belongs.
    async fn check_cancelled(&self, id: &JobId, result_key: &str) -> Result<CancellationStatus, Fault>;
}

/// What is true of the word that a job was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancellationStatus {
    /// Nothing: the job has no result, so it goes on.
    Not,
    /// The job has its result; there is nothing left to do.
    Ended,
    /// Whoever took it back did not know where its result belongs: that is still to be written.
    Unsettled,
}

/// Writes results into the result store and publishes their events.
#[derive(Clone, Debug)]
pub struct ResultWriter {
    store: Arc<dyn ObjectStore>,
    broker: Arc<dyn Broker>,
    clock: Clock,
    version: String,
    status_store: Option<JobStatusStore>,
}

impl ResultWriter {
    /// A writer into `store`; `version` is EchoGen's, as it stands in the results.
    pub fn new(store: Arc<dyn ObjectStore>, broker: Arc<dyn Broker>, clock: Clock, version: impl Into<String>) -> Self {
        Self { store, broker, clock, version: version.into(), status_store: None }
    }

    /// The same writer, which notes every end on the job status store too.
    #[must_use]
    pub fn with_status_store(mut self, status_store: JobStatusStore) -> Self {
        self.status_store = Some(status_store);
        self
    }

    /// EchoGen's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns the job's result, if it has ended.
    pub async fn find(&self, job: &Job) -> Result<Option<JobResult>, Fault> {
        self.find_at(&ObjectKey::of_result(job)?).await
    }

    /// The same for where a result that is missed costs little: the store is asked only if the job status store knows of an end
    /// or cannot answer. It may have forgotten one, so the last stage asks the store itself.
    pub async fn find_noted(&self, job: &Job) -> Result<Option<JobResult>, Fault> {
        if let Some(status_store) = &self.status_store
            && let Ok(state) = status_store.find(&job.id).await
            && !state.is_some_and(|state| state.state.ends_job())
        {
            return Ok(None);
        }
        self.find(job).await
    }

    /// Ends the job with `result` unless it has ended before; returns whether this result is the one that counts.
    ///
    /// The event is sent either way, and always that of the result in the store: a process that died between the two
    /// steps is made good by the next try, and listeners know the event by its id. It returns only when the broker has
    /// the event.
    pub async fn commit(&self, job: &Job, result: &JobResult, metadata: &TaskMetadata) -> Result<bool, Fault> {
        self.commit_at(&ObjectKey::of_result(job)?, result, metadata).await
    }

    /// Publishes the end of a job once more, in case the first event was lost, and answers the client that `metadata` names:
    /// by reply or by callback.
    pub async fn publish_again(&self, job: &Job, result: &JobResult, metadata: &TaskMetadata) -> Result<(), Fault> {
        self.publish_end(&job.result_key(), result, metadata).await
    }

    /// Returns the result at a key of the result store, if there is one.
    pub async fn find_at(&self, key: &ObjectKey) -> Result<Option<JobResult>, Fault> {
        let Some(bytes) = self.store.get(key, MAX_RESULT_BYTES).await? else { return Ok(None) };
        let result = json::read(&bytes, &Bounds::MESSAGE).map_err(|error| {
            Fault::internal(format!("the object {key} is no result; remove it and run the job again")).because(error)
        })?;
        Ok(Some(result))
    }

    pub(crate) async fn commit_at(
        &self,
        key: &ObjectKey,
        result: &JobResult,
        metadata: &TaskMetadata,
    ) -> Result<bool, Fault> {
        let bytes = serde_json::to_vec_pretty(result)
            .map_err(|error| Fault::internal("the result cannot be written as JSON").because(error))?;
        if self.store.put_if_absent(key, bytes.into()).await? {
            echogen_telemetry::metrics().job_ended(counted_as(result.status));
            self.publish_end(key.as_str(), result, metadata).await?;
            return Ok(true);
        }
        // Without a result nobody may take the job for ended, whatever stands in its place.
        let gone = || Fault::unavailable(format!("the object {key} was there, and is gone again"));
        let counts = self.find_at(key).await?.ok_or_else(gone)?;
        self.publish_end(key.as_str(), &counts, metadata).await?;
        Ok(false)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Publishes the task of calling the client's own server: durable, as the job's end is, but apart from it: that server may
    /// be slow or away.
    async fn leave_notice(&self, callback: &str, event: &JobEvent) -> Result<(), Fault> {
        let task = NotifyTask { callback: callback.to_owned(), event: event.clone() };
        let headers = TaskHeaders {
            first_seen: Some(self.clock.now()),
            traceparent: event.traceparent,
            job: Some(event.subject.to_string()),
            ..TaskHeaders::default()
        };
        self.broker.publish(&task.queue(), Message::of_task(&task, &headers)).await
    }

    async fn publish_end(&self, key: &str, result: &JobResult, metadata: &TaskMetadata) -> Result<(), Fault> {
        let event = JobEvent::of_result(result).in_trace(metadata.trace);
        let told = Event::of_job(&event).replying_to(metadata.reply_to.clone());
        self.broker.publish_event(told).await?;
        if let Some(callback) = &metadata.callback {
            self.leave_notice(callback, &event).await?;
        }
        if let Some(status_store) = &self.status_store {
            status_store.note(&event.subject, JobState::of(&event, metadata, key));
        }
        Ok(())
    }
}

#[async_trait]
impl FailureHandler for ResultWriter {
    async fn fail(&self, job: &JobOutline, failure: Failure, metadata: &TaskMetadata) -> Result<(), Fault> {
        let result = JobResult::failed(job, failure, &self.version, self.clock.now());
        match ObjectKey::new(job.result_key.as_str()) {
            Ok(key) => self.commit_at(&key, &result, metadata).await.map(drop),
            // A job that is refused for its very id or destination has no place for a result; its event is all there is.
            Err(_) => self.publish_end("", &result, metadata).await,
        }
    }

    async fn check_cancelled(&self, id: &JobId, result_key: &str) -> Result<CancellationStatus, Fault> {
        if self.find_at(&ObjectKey::new(result_key)?).await?.is_some() {
            return Ok(CancellationStatus::Ended);
        }
        let elsewhere = ObjectKey::new(id.result_key(None))?;
        let marked = elsewhere.as_str() != result_key
            && self.find_at(&elsewhere).await?.is_some_and(|result| result.status == JobStatus::Cancelled);
        Ok(if marked { CancellationStatus::Unsettled } else { CancellationStatus::Not })
    }
}

/// How the metrics call it.
fn counted_as(status: JobStatus) -> JobEnd {
    match status {
        JobStatus::Completed => JobEnd::Completed,
        JobStatus::Failed => JobEnd::Failed,
        JobStatus::Expired => JobEnd::Expired,
        JobStatus::Cancelled => JobEnd::Cancelled,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use echogen_ports::{EventStream, MemoryBroker, MemoryCache, MemoryObjectStore};
    use echogen_protocol::{EventKind, FailureKind, ReplyTo, TraceContext};
    use tokio_util::task::TaskTracker;

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
    async fn the_first_result_counts_and_is_notified_every_time() {
        let mut bench = bench().await;
        let good = JobResult::completed(&bench.job, Vec::new(), "1.2.3", Timestamp::UNIX_EPOCH);
        assert!(bench.results.commit(&bench.job, &good, &TaskMetadata::default()).await.unwrap());
        let failure = Failure { kind: FailureKind::Internal, message: "too late".to_owned() };
        bench.results.fail(&bench.job.outline(), failure, &TaskMetadata::default()).await.unwrap();
        assert_eq!(bench.results.find(&bench.job).await.unwrap(), Some(good));
        let (first, second) = (next_event(&mut bench.events).await, next_event(&mut bench.events).await);
        assert_eq!(first.kind, EventKind::Completed);
        assert_eq!(first, second);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_answers_who_asked_belongs_to_the_trace_and_is_noted() {
        let (broker, tracker) = (Arc::new(MemoryBroker::new()), TaskTracker::new());
        let mut answers = broker.consume(&echogen_protocol::QueueName("answers".to_owned()), 1).await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, answers.receive()).await.is_err(), "the queue stands");
        let status_store = JobStatusStore::start(Arc::new(MemoryCache::new(10_000)), &tracker);
        let store = Arc::new(MemoryObjectStore::new());
        let results = ResultWriter::new(store, broker, Clock::fixed(Timestamp::UNIX_EPOCH), "1.2.3")
            .with_status_store(status_store.clone());
        let job = Job { id: JobId("one".to_owned()), ..Job::new("dog.png".into(), "a dog") };
        let trace = TraceContext::new(1, 2);
        let reply_to = ReplyTo { queue: "answers".to_owned(), correlation_id: Some("7".to_owned()) };
        let metadata = TaskMetadata { reply_to: Some(reply_to), trace: Some(trace), ..TaskMetadata::default() };
        let good = JobResult::completed(&job, Vec::new(), "1.2.3", Timestamp::UNIX_EPOCH);
        results.commit(&job, &good, &metadata).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(5), answers.receive()).await.expect("an answer comes");
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.message.headers[ReplyTo::CORRELATION_HEADER], "7");
        let event: JobEvent = serde_json::from_slice(&answer.message.body).unwrap();
        assert_eq!((event.kind, event.traceparent), (EventKind::Completed, Some(trace)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let state = status_store.find(&job.id).await.unwrap().unwrap();
        assert_eq!((state.state, state.result_key.as_str()), (EventKind::Completed, "one/result.json"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_leaves_a_result_of_its_kind() {
        let mut bench = bench().await;
        let failure = Failure { kind: FailureKind::Expired, message: "too late".to_owned() };
        bench.results.fail(&bench.job.outline(), failure.clone(), &TaskMetadata::default()).await.unwrap();
        let result = bench.results.find(&bench.job).await.unwrap().unwrap();
        assert_eq!((result.status, result.error), (JobStatus::Expired, Some(failure)));
        assert_eq!(next_event(&mut bench.events).await.kind, EventKind::Expired);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_with_an_impossible_id_gets_an_event_and_no_object() {
        let mut bench = bench().await;
        bench.job.id = JobId("../climb".to_owned());
        let failure = Failure { kind: FailureKind::InvalidJob, message: "bad id".to_owned() };
        bench.results.fail(&bench.job.outline(), failure, &TaskMetadata::default()).await.unwrap();
        assert_eq!(next_event(&mut bench.events).await.kind, EventKind::Failed);
        assert!(bench.store.keys().is_empty());
    }

    /// A store in which something stands at every key that is no object, as a folder among files.
    #[derive(Debug)]
    struct Taken;

    #[async_trait]
    impl ObjectStore for Taken {
        async fn get(&self, _: &ObjectKey, _: u64) -> Result<Option<bytes::Bytes>, Fault> {
            Ok(None)
        }

        async fn put(&self, _: &ObjectKey, _: bytes::Bytes) -> Result<(), Fault> {
            Ok(())
        }

        async fn put_if_absent(&self, _: &ObjectKey, _: bytes::Bytes) -> Result<bool, Fault> {
            Ok(false)
        }

        async fn exists(&self, _: &ObjectKey) -> Result<bool, Fault> {
            Ok(false)
        }

        async fn delete(&self, _: &ObjectKey) -> Result<(), Fault> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_whose_result_is_neither_written_nor_there_has_not_ended() {
        let Bench { job, .. } = bench().await;
        let clock = Clock::fixed(Timestamp::UNIX_EPOCH);
        let results = ResultWriter::new(Arc::new(Taken), Arc::new(MemoryBroker::new()), clock, "1.2.3");
        let failure = Failure { kind: FailureKind::Internal, message: "lost".to_owned() };
        assert!(results.fail(&job.outline(), failure, &TaskMetadata::default()).await.is_err());
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
