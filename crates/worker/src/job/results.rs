//! How a job ends: `result.json` first, created only if absent, then the task of making it known.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Broker, Fault, ObjectKey, ObjectStore};
use echogen_protocol::{
    ContentHash, EventKind, Failure, Job, JobEvent, JobId, JobOutline, JobResult, JobStatus, Lane,
    json::{self, Bounds},
};
use echogen_telemetry::JobEnd;
use jiff::Timestamp;
use serde_json::json;

use crate::{
    Clock, JobState, JobStatusStore, TaskMetadata,
    job::{duration, notices},
};

/// Bytes of a `result.json` that is read back: 64 pictures and the job's own words stay far below.
const MAX_RESULT_BYTES: u64 = 16 * 1024 * 1024;

/// How a job ends that the stages do not end themselves.
#[async_trait]
pub trait FailureHandler: Send + Sync {
    /// Ends the job as failed (or expired, or cancelled, as `failure` says), unless it has ended already. Idempotent.
    async fn fail(&self, job: &JobOutline, failure: Failure, metadata: &TaskMetadata) -> Result<(), Fault>;

    /// Checks the word that a job was cancelled.
    async fn check_cancelled(&self, job: &JobOutline) -> Result<CancellationStatus, Fault>;
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

/// Writes results into the result store and hands them to the notifier.
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

    /// Answers whoever asks for a job that has ended, or whose id is taken by other content; returns whether that is all
    /// there is to do. If it is not, the job is to run, also if it had a result before and is asked for again.
    pub async fn is_settled(&self, job: &Job, metadata: &TaskMetadata) -> Result<bool, Fault> {
        match self.find(job).await? {
            Some(result) => self.answer(&ObjectKey::of_result(job)?, &result, metadata).await,
            None => Ok(false),
        }
    }

    /// The same for where a result that is missed costs little: the store is asked only if the job status store knows of
    /// an end or cannot answer, or the job is asked for again. It may have forgotten an end, so the last stage asks the
    /// store itself.
    pub async fn is_noted(&self, job: &Job, metadata: &TaskMetadata) -> Result<bool, Fault> {
        if let Some(status_store) = &self.status_store
            && job.again == 0
            && let Ok(state) = status_store.find(&job.id).await
            && !state.as_ref().is_some_and(|state| state.state.ends_job())
        {
            let Some(state) = state.filter(|state| is_other(state.content, metadata.content)) else { return Ok(false) };
            self.publish_conflict(&job.id, state.state, metadata).await?;
            return Ok(true);
        }
        self.is_settled(job, metadata).await
    }

    /// Keeps the job for [`JobStatusStore::request`].
    pub fn remember(&self, job: &Job) {
        if let Some(status_store) = &self.status_store {
            status_store.remember(job);
        }
    }

    /// Ends the job with `result` unless it has ended before; returns whether this result is the one that counts.
    ///
    /// The notifier's task is published either way, and always with the result in the store: a process that died between
    /// the two steps is made good by the next try, and subscribers know the event by its id. It returns only when the broker
    /// has the task.
    pub async fn commit(&self, job: &Job, result: JobResult, metadata: &TaskMetadata) -> Result<bool, Fault> {
        let result = JobResult { content: metadata.content, ..result };
        self.commit_at(&ObjectKey::of_result(job)?, job.lane, &result, metadata).await
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
        lane: Lane,
        result: &JobResult,
        metadata: &TaskMetadata,
    ) -> Result<bool, Fault> {
        let bytes = serde_json::to_vec_pretty(result)
            .map_err(|error| Fault::internal("the result cannot be written as JSON").because(error))?;
        let bytes = Bytes::from(bytes);
        // Twice, because the first time the place may be taken by a result that this one supersedes.
        for _ in 0..2 {
            if self.store.put_if_absent(key, bytes.clone()).await? {
                echogen_telemetry::metrics().job_ended(counted_as(result.status));
                duration::record(lane, duration::outcome_of(result), metadata, self.clock.now());
                self.publish_end(key.as_str(), result, metadata).await?;
                return Ok(true);
            }
            let found = self.find_at(key).await?;
            if let Some(found) = found
                && self.answer(key, &found, metadata).await?
            {
                return Ok(false);
            }
        }
        // Without a result nobody may take the job for ended, whatever stands in its place.
        Err(Fault::unavailable(format!("the object {key} was there, and is gone again")))
    }

    /// Answers whoever asks for a job that has this result: once more by its end, in case the first event was lost and
    /// because another client may have sent the same job; or that the id is taken by other content. Returns whether that
    /// is all there is to do; otherwise the job is asked for again, and the place of its result is free.
    async fn answer(&self, key: &ObjectKey, result: &JobResult, metadata: &TaskMetadata) -> Result<bool, Fault> {
        if is_other(result.content, metadata.content) {
            self.publish_conflict(&result.id, result.status.into(), metadata).await?;
            return Ok(true);
        }
        if result.is_superseded_by(metadata.again) {
            self.store.delete(key).await?;
            return Ok(false);
        }
        self.publish_end(key.as_str(), result, metadata).await?;
        Ok(true)
    }

    /// Tells the sender of a job that its id is taken by a job of other content, and counts it.
    async fn publish_conflict(&self, id: &JobId, state: EventKind, metadata: &TaskMetadata) -> Result<(), Fault> {
        echogen_telemetry::metrics().job_conflicted();
        let content = metadata.content.map(|content| content.to_string());
        let message = format!("the id {id} is taken by a job of other content; send this job under another id");
        let data = json!({ "message": message, "content": content, "state": state });
        let event = JobEvent::new(EventKind::Conflict, id, self.clock.now(), data);
        let event = event.with_part(content.unwrap_or_default()).in_trace(metadata.trace);
        notices::notify(&*self.broker, &event, metadata, self.clock.now()).await
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn publish_end(&self, key: &str, result: &JobResult, metadata: &TaskMetadata) -> Result<(), Fault> {
        let event = JobEvent::of_result(result).in_trace(metadata.trace);
        notices::notify(&*self.broker, &event, metadata, self.clock.now()).await?;
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
        let result = JobResult { content: metadata.content, ..result };
        match ObjectKey::new(job.result_key.as_str()) {
            Ok(key) => self.commit_at(&key, job.lane, &result, metadata).await.map(drop),
            // A job that is refused for its very destination has no place for a result; its event is all there is.
            Err(_) => self.publish_end("", &result, metadata).await,
        }
    }

    async fn check_cancelled(&self, job: &JobOutline) -> Result<CancellationStatus, Fault> {
        let is_valid = |result: &JobResult| !result.is_superseded_by(job.again);
        if self.find_at(&ObjectKey::new(job.result_key.as_str())?).await?.is_some_and(|result| is_valid(&result)) {
            return Ok(CancellationStatus::Ended);
        }
        let elsewhere = ObjectKey::new(job.id.result_key(None))?;
        let marked = elsewhere.as_str() != job.result_key
            && self
                .find_at(&elsewhere)
                .await?
                .is_some_and(|result| result.status == JobStatus::Cancelled && is_valid(&result));
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

/// Whether two contents are known and differ.
fn is_other(one: Option<ContentHash>, other: Option<ContentHash>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use echogen_ports::{Consumer, MemoryBroker, MemoryCache, MemoryObjectStore};
    use echogen_protocol::{
        EventKind, FailureKind, Lane, Notice, NotifyTask, QueueName, ReplyTo, StageName, StageTask, TaskHeaders,
        TraceContext,
    };
    use tokio_util::task::TaskTracker;

    use super::*;

    struct Bench {
        store: Arc<MemoryObjectStore>,
        ends: Box<dyn Consumer>,
        results: ResultWriter,
        job: Job,
    }

    async fn bench() -> Bench {
        let (store, broker) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryBroker::new()));
        let ends = ends(&broker).await;
        let clock = Clock::fixed(Timestamp::UNIX_EPOCH);
        let results = ResultWriter::new(Arc::clone(&store) as Arc<dyn ObjectStore>, broker, clock, "1.2.3");
        Bench { store, ends, results, job: Job::new("dog.png".into(), "a dog").with_id() }
    }

    async fn ends(broker: &MemoryBroker) -> Box<dyn Consumer> {
        broker.consume(&QueueName::of(StageName::Notifier, Lane::default()), 10).await.unwrap()
    }

    /// The next task for the notifier, and its headers.
    async fn next_end(ends: &mut Box<dyn Consumer>) -> (NotifyTask, TaskHeaders) {
        let delivery = tokio::time::timeout(Duration::from_secs(5), ends.receive()).await;
        let delivery = delivery.unwrap().unwrap().unwrap();
        let message = delivery.message.clone();
        delivery.ack().await.unwrap();
        (NotifyTask::parse(&message.body).unwrap(), TaskHeaders::from_map(&message.headers))
    }

    async fn next_event(ends: &mut Box<dyn Consumer>) -> JobEvent {
        next_end(ends).await.0.event
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_result_counts_and_is_notified_every_time() {
        let mut bench = bench().await;
        let good = JobResult::completed(&bench.job, Vec::new(), "1.2.3", Timestamp::UNIX_EPOCH);
        assert!(bench.results.commit(&bench.job, good.clone(), &TaskMetadata::default()).await.unwrap());
        let failure = Failure { kind: FailureKind::Internal, message: "too late".to_owned() };
        bench.results.fail(&bench.job.outline(), failure, &TaskMetadata::default()).await.unwrap();
        assert_eq!(bench.results.find(&bench.job).await.unwrap(), Some(good));
        let (first, second) = (next_event(&mut bench.ends).await, next_event(&mut bench.ends).await);
        assert_eq!(first.kind, EventKind::Completed);
        assert_eq!(first, second);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_answers_who_asked_belongs_to_the_trace_and_is_noted() {
        let (broker, tracker) = (Arc::new(MemoryBroker::new()), TaskTracker::new());
        let mut ends = ends(&broker).await;
        let status_store = JobStatusStore::start(Arc::new(MemoryCache::new(10_000)), &tracker);
        let store = Arc::new(MemoryObjectStore::new());
        let results = ResultWriter::new(store, broker, Clock::fixed(Timestamp::UNIX_EPOCH), "1.2.3")
            .with_status_store(status_store.clone());
        let job = Job { id: JobId("one".to_owned()), ..Job::new("dog.png".into(), "a dog") };
        let trace = TraceContext::new(1, 2);
        let reply_to = ReplyTo { queue: "answers".to_owned(), correlation_id: Some("7".to_owned()) };
        let callback = Some("https://example.org/done".to_owned());
        let metadata =
            TaskMetadata { reply_to: Some(reply_to.clone()), callback, trace: Some(trace), ..TaskMetadata::default() };
        let good = JobResult::completed(&job, Vec::new(), "1.2.3", Timestamp::UNIX_EPOCH);
        results.commit(&job, good, &metadata).await.unwrap();
        let (task, headers) = next_end(&mut ends).await;
        assert_eq!(task.pending, [Notice::Event, Notice::Reply, Notice::Callback]);
        assert_eq!((task.event.kind, task.event.traceparent), (EventKind::Completed, Some(trace)));
        assert_eq!((headers.reply_to, headers.traceparent), (Some(reply_to), Some(trace)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let state = status_store.find(&job.id).await.unwrap().unwrap();
        assert_eq!((state.state, state.result_key.as_str()), (EventKind::Completed, "one/result.json"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_a_jobs_end_is_recorded_once() {
        let bench = bench().await;
        let job = Job { lane: Lane::Bulk, ..bench.job.clone() };
        let metadata = TaskMetadata {
            accepted: Some(Timestamp::from_second(-90).unwrap()),
            content: Some(job.content()),
            ..TaskMetadata::default()
        };
        let failure = Failure { kind: FailureKind::Internal, message: "broken".to_owned() };
        bench.results.fail(&job.outline(), failure.clone(), &metadata).await.unwrap();
        bench.results.fail(&job.outline(), failure, &metadata).await.unwrap();
        let text = echogen_telemetry::metrics().render(&echogen_telemetry::Health::default());
        // No other test of this process ends a job of this lane so.
        assert!(text.contains("echogen_job_seconds_count{lane=\"bulk\",outcome=\"failed\"} 1\n"), "{text}");
        assert!(text.contains("echogen_job_seconds_sum{lane=\"bulk\",outcome=\"failed\"} 90\n"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_leaves_a_result_of_its_kind() {
        let mut bench = bench().await;
        let failure = Failure { kind: FailureKind::Expired, message: "too late".to_owned() };
        bench.results.fail(&bench.job.outline(), failure.clone(), &TaskMetadata::default()).await.unwrap();
        let result = bench.results.find(&bench.job).await.unwrap().unwrap();
        assert_eq!((result.status, result.error), (JobStatus::Expired, Some(failure)));
        assert_eq!(next_event(&mut bench.ends).await.kind, EventKind::Expired);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_with_an_impossible_destination_gets_an_event_and_no_object() {
        let mut bench = bench().await;
        bench.job.output.destination = Some("../climb".to_owned());
        let failure = Failure { kind: FailureKind::InvalidJob, message: "bad destination".to_owned() };
        bench.results.fail(&bench.job.outline(), failure, &TaskMetadata::default()).await.unwrap();
        assert_eq!(next_event(&mut bench.ends).await.kind, EventKind::Failed);
        assert!(bench.store.keys().is_empty());
    }

    /// A store in which something stands at every key that is no object, as a folder among files.
    #[derive(Debug)]
    struct Taken;

    #[async_trait]
    impl ObjectStore for Taken {
        async fn get(&self, _: &ObjectKey, _: u64) -> Result<Option<Bytes>, Fault> {
            Ok(None)
        }

        async fn put(&self, _: &ObjectKey, _: Bytes) -> Result<(), Fault> {
            Ok(())
        }

        async fn put_if_absent(&self, _: &ObjectKey, _: Bytes) -> Result<bool, Fault> {
            Ok(false)
        }

        async fn exists(&self, _: &ObjectKey) -> Result<bool, Fault> {
            Ok(false)
        }

        async fn delete(&self, _: &ObjectKey) -> Result<(), Fault> {
            Ok(())
        }

        async fn list(&self, _: &str, _: Option<&ObjectKey>, _: usize) -> Result<Vec<ObjectKey>, Fault> {
            Ok(Vec::new())
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

    fn asking(job: &Job) -> TaskMetadata {
        TaskMetadata { content: Some(job.content()), again: job.again, ..TaskMetadata::default() }
    }

    async fn end(bench: &Bench, job: &Job, failure: Option<&str>) {
        match failure {
            Some(message) => {
                let failure = Failure { kind: FailureKind::BadImage, message: message.to_owned() };
                bench.results.fail(&job.outline(), failure, &asking(job)).await.unwrap();
            }
            None => {
                let result = JobResult::completed(job, Vec::new(), "1.2.3", Timestamp::UNIX_EPOCH);
                bench.results.commit(job, result, &asking(job)).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_run_again_when_it_is_asked_for_again_and_once_for_each_asking() {
        let mut bench = bench().await;
        let (first, job) = (bench.job.clone(), bench.job.clone());
        end(&bench, &first, Some("404")).await;
        assert!(bench.results.is_settled(&first, &asking(&first)).await.unwrap(), "the same asking has its answer");
        let again = Job { again: 1, ..job.clone() };
        assert_eq!(again.content(), first.content());
        assert!(!bench.results.is_settled(&again, &asking(&again)).await.unwrap());
        assert_eq!(bench.results.find(&job).await.unwrap(), None, "the place of its result is free");
        end(&bench, &again, Some("still 404")).await;
        assert!(bench.results.is_settled(&again, &asking(&again)).await.unwrap(), "a second delivery runs nothing");
        let last = Job { again: 2, ..job.clone() };
        // The task of an earlier asking comes late: its result is in the place when the last one is ready.
        end(&bench, &last, None).await;
        end(&bench, &again, Some("late")).await;
        let result = bench.results.find(&job).await.unwrap().unwrap();
        assert_eq!((result.status, result.again), (JobStatus::Completed, 2));
        let more = Job { again: 3, ..job };
        assert!(bench.results.is_settled(&more, &asking(&more)).await.unwrap(), "what has completed stays");
        let kinds: Vec<EventKind> = {
            let mut kinds = Vec::new();
            for _ in 0..6 {
                kinds.push(next_event(&mut bench.ends).await.kind);
            }
            kinds
        };
        use EventKind::{Completed, Failed};
        assert_eq!(kinds, [Failed, Failed, Failed, Failed, Completed, Completed]);
    }

    #[tokio::test(start_paused = true)]
    async fn other_content_under_a_taken_id_is_a_conflict() {
        let mut bench = bench().await;
        let job = bench.job.clone();
        end(&bench, &job, None).await;
        let other = Job { prompt: "a cat".to_owned(), again: 9, ..job.clone() };
        assert!(bench.results.is_settled(&other, &asking(&other)).await.unwrap());
        end(&bench, &other, None).await;
        assert_eq!(next_event(&mut bench.ends).await.kind, EventKind::Completed);
        for _ in 0..2 {
            let event = next_event(&mut bench.ends).await;
            assert_eq!((event.kind, &event.subject), (EventKind::Conflict, &job.id));
            assert_eq!(event.data["content"], other.content().to_string());
        }
        let same = Job { lane: Lane::Bulk, callback: Some("https://a".to_owned()), ..job.clone() };
        assert!(bench.results.is_settled(&same, &asking(&same)).await.unwrap());
        assert_eq!(next_event(&mut bench.ends).await.kind, EventKind::Completed, "nothing of its content differs");
    }
}
