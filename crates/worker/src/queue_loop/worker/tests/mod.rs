//! The loop against the twins: duplicates, retries, drain. Callbacks, cancellation, dying workers, lanes, slow settling and
//! notifications have a file each.

mod calling_back;
mod cancelling;
mod dying;
mod lanes;
mod losing;
mod notifying;
mod settling;
mod shared_store;
mod stand_in_notifier;
mod waiting;

use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use echogen_ports::{
    Backoff, Consumer, DEAD_LETTER_REASON, Event, EventStream, FaultKind, MemoryBroker, MemoryObjectStore, Message,
    ObjectKey, ObjectStore, QueueName,
};
use echogen_protocol::{
    ContentHash, FailureKind, Job, JobResult, JobStatus, Lane, Partitions, Progress, SegmentTask, StageName,
    TaskHeaders,
};
use echogen_testkit::{Duplicating, FailFirst, IgnoresPrefetch, LostAcks, eventually, job};
use jiff::{Timestamp, ToSpan};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::task::TaskTracker;

use self::{shared_store::SharedStore, stand_in_notifier::StandInNotifier};
use super::*;
use crate::{LaneWeights, Outcome, ResultWriter, StageContext};

/// What the test stage does with a job, by its id's beginning. It is the stage that takes tasks of this type.
#[derive(Debug)]
struct Script<T> {
    /// Tries by job.
    tries: Mutex<HashMap<String, u32>>,
    at_work: AtomicU32,
    most_at_work: AtomicU32,
    /// What stuck tasks would be told by.
    cancelled: Mutex<Vec<CancellationToken>>,
    /// The senders' settings, of each try.
    settings: Mutex<Vec<Option<String>>>,
    takes: PhantomData<fn(T)>,
}

impl<T> Default for Script<T> {
    fn default() -> Self {
        let (tries, cancelled, settings) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self {
            tries,
            at_work: AtomicU32::new(0),
            most_at_work: AtomicU32::new(0),
            cancelled,
            settings,
            takes: PhantomData,
        }
    }
}

impl<T> Script<T> {
    fn tries(&self, job: &str) -> u32 {
        self.tries.lock().unwrap().get(job).copied().unwrap_or(0)
    }
}

#[async_trait]
impl<T: StageTask> Stage for Script<T> {
    type Task = T;

    async fn run(&self, task: T, context: &StageContext) -> Result<Outcome, Fault> {
        self.settings.lock().unwrap().push(context.metadata.settings.clone());
        let job = task.job().cloned().unwrap_or_else(|| job(task.job_id().as_str()));
        let tries = {
            let mut tries = self.tries.lock().unwrap();
            let tries = tries.entry(job.id.0.clone()).or_default();
            *tries += 1;
            *tries
        };
        match job.id.as_str().split('-').next().unwrap() {
            "flaky" if tries < 3 => Err(Fault::unavailable("store is busy").because("503")),
            "never" => Err(Fault::unavailable("store is gone")),
            "panic" if tries < 2 => panic!("oh no"),
            "open" if tries < 9 => Err(Fault::circuit_open("not called").retry_in(Duration::from_secs(1))),
            "open" => {
                assert_eq!(context.metadata.attempt, 1);
                Ok(next(job))
            }
            "busy" => Err(asks_for(Duration::ZERO)),
            "patient" => Err(asks_for(Duration::from_secs(3_600))),
            "barred" => Err(Fault::refused("the store is locked").because("403")),
            "wrong" => Err(Fault::bad_image("not an image")),
            // Longer than the grace period of a shutdown, and shorter than a try may take.
            long @ ("slow" | "long") => {
                let at_work = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_at_work.fetch_max(at_work, Ordering::SeqCst);
                sleep(Duration::from_secs(if long == "long" { 9 } else { 5 })).await;
                self.at_work.fetch_sub(1, Ordering::SeqCst);
                Ok(next(job))
            }
            "stuck" => {
                self.cancelled.lock().unwrap().push(context.job_cancelled.clone());
                sleep(Duration::from_secs(100_000)).await;
                Ok(Outcome::Done)
            }
            _ => {
                assert_eq!(context.metadata.attempt, tries);
                Ok(next(job))
            }
        }
    }
}

/// A failure of a server that says when to come again.
fn asks_for(wait: Duration) -> Fault {
    Fault::throttled("the server is busy").retry_in(wait)
}

fn next(job: Job) -> Outcome {
    let image = ContentHash::of(b"picture");
    Outcome::next(&SegmentTask { job, image, progress: Progress::default() })
}

/// The bench of the stage that takes jobs, on one of its queues.
type Bench = StageBench<Job>;

struct StageBench<T> {
    broker: MemoryBroker,
    store: Arc<MemoryObjectStore>,
    stage: Arc<Script<T>>,
    shutdown: CancellationToken,
    clock: Clock,
    worker: JoinHandle<Result<(), Fault>>,
    notifier: Option<StandInNotifier>,
}

fn queue() -> QueueName {
    QueueName::of(StageName::Dispatcher, Lane::Standard)
}

/// Where those go on that are done.
fn next_queue() -> QueueName {
    QueueName::of(StageName::Segmenter, Lane::Standard)
}

fn config() -> WorkerConfig {
    let backoff = Backoff { first_seconds: 1.0, factor: 2.0, max_seconds: 60.0 };
    WorkerConfig {
        concurrency: 2,
        max_waiting_cost: u64::MAX,
        partitions: Partitions::ONE,
        task_timeout_seconds: 10.0,
        max_attempts: 4,
        max_crashes: 3,
        max_redeliveries: 3,
        full_queue_seconds: 60.0,
        backoff,
        grace_seconds: 8.0,
        lane_weights: LaneWeights::default(),
        lanes: Lane::ALL.to_vec(),
    }
}

impl<T: StageTask> StageBench<T> {
    /// A worker at a broker that `wrap` makes of the twin, and a store whose first calls fail.
    fn start(wrap: impl FnOnce(MemoryBroker) -> Arc<dyn Broker>, store_failures: u32) -> Self {
        Self::with_status(wrap, store_failures, None)
    }

    /// A worker on another of its stage's queues.
    fn on(queue: QueueName) -> Self {
        Self::with_all(|broker| Arc::new(broker), 0, None, queue)
    }

    fn with_status(
        wrap: impl FnOnce(MemoryBroker) -> Arc<dyn Broker>,
        store_failures: u32,
        status_store: Option<JobStatusStore>,
    ) -> Self {
        Self::with_all(wrap, store_failures, status_store, queue())
    }

    fn with_all(
        wrap: impl FnOnce(MemoryBroker) -> Arc<dyn Broker>,
        store_failures: u32,
        status_store: Option<JobStatusStore>,
        queue: QueueName,
    ) -> Self {
        let (broker, store, stage) =
            (MemoryBroker::new(), Arc::new(MemoryObjectStore::new()), Arc::new(Script::default()));
        let (wrapped, clock) = (wrap(broker.clone()), Clock::fixed(Timestamp::UNIX_EPOCH));
        let flaky = Arc::new(FailFirst::new(SharedStore(Arc::clone(&store)), store_failures));
        let mut results = ResultWriter::new(flaky, Arc::clone(&wrapped), clock.clone(), "1.2.3");
        if let Some(status_store) = &status_store {
            results = results.with_status_store(status_store.clone());
        }
        let mut worker =
            Worker::new(Arc::clone(&stage), wrapped, Arc::new(results), config()).with_clock(clock.clone());
        if T::STAGE == StageName::Dispatcher {
            worker = worker.on_queue(queue);
        }
        if let Some(status_store) = status_store {
            worker = worker.with_status_store(status_store);
        }
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        let worker = tracker.spawn(worker.run(shutdown.clone()));
        let notifier = (T::STAGE != StageName::Notifier).then(|| StandInNotifier::start(&broker));
        Self { broker, store, stage, shutdown, clock, worker, notifier }
    }

    fn plain() -> Self {
        Self::start(|broker| Arc::new(broker), 0)
    }

    async fn send(&self, id: &str) {
        self.send_job(&job(id)).await;
    }

    async fn send_job(&self, job: &Job) {
        self.broker.publish(&queue(), Message::of_job(job, self.clock.now())).await.unwrap();
    }

    async fn idle(&self) {
        let queues = [QueueName::of(T::STAGE, Lane::Standard), QueueName::of(StageName::Notifier, Lane::Standard)];
        let waiting = || queues.iter().map(|queue| self.broker.waiting(queue)).sum::<usize>();
        eventually("all tasks are settled", || waiting() == 0 && self.broker.unsettled() == 0).await;
    }

    fn followed(&self) -> usize {
        self.broker.waiting(&next_queue())
    }

    async fn result(&self, id: &str) -> Option<JobResult> {
        let key = ObjectKey::new(format!("{id}/result.json")).unwrap();
        let bytes = self.store.get(&key, 1 << 20).await.unwrap()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.worker.await.unwrap().unwrap();
        assert_eq!(self.broker.unsettled(), 0, "nothing stays out after the end");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_done_and_followed_by_the_next() {
    let bench = Bench::plain();
    bench.send("one").await;
    bench.idle().await;
    let mut consumer = bench.broker.consume(&next_queue(), 1).await.unwrap();
    let delivery = consumer.receive().await.unwrap().unwrap();
    assert_eq!(SegmentTask::parse(&delivery.message.body).unwrap().job.id.as_str(), "one");
    let headers = TaskHeaders::from_map(&delivery.message.headers);
    assert_eq!((headers.failures, headers.job.as_deref()), (0, Some("one")));
    delivery.ack().await.unwrap();
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_tried_again_after_growing_waits() {
    let bench = Bench::plain();
    let began = Instant::now();
    bench.send("flaky").await;
    bench.idle().await;
    let took = began.elapsed().as_secs_f64();
    assert_eq!((bench.stage.tries("flaky"), bench.followed()), (3, 1));
    // Between half and all of 1 + 2 seconds; the look itself is good to milliseconds.
    assert!((1.5..3.01).contains(&took), "{took} seconds");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_never_works_ends_among_the_dead_letters_with_its_story() {
    let bench = Bench::plain();
    let mut events = bench.broker.subscribe("job.parked").await.unwrap();
    bench.send("never").await;
    bench.idle().await;
    assert_eq!(bench.stage.tries("never"), 4);
    let dead = bench.broker.dead_letters(&queue());
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].headers[DEAD_LETTER_REASON], "4 tries failed, the last one: store is gone");
    let headers = TaskHeaders::from_map(&dead[0].headers);
    assert_eq!((headers.failures, headers.first_seen), (4, Some(Timestamp::UNIX_EPOCH)));
    assert_eq!(Job::parse(&dead[0].body).unwrap().id.as_str(), "never", "it can be sent again as it is");
    assert_eq!(events.next().await.unwrap().to_job().unwrap().subject.as_str(), "never");
    assert_eq!(bench.result("never").await, None, "a parked job has not ended");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_ends_the_job_at_once() {
    let bench = Bench::plain();
    let mut events = bench.broker.subscribe("job.failed").await.unwrap();
    bench.send("wrong").await;
    bench.idle().await;
    let result = bench.result("wrong").await.unwrap();
    assert_eq!((result.status, result.error.unwrap().message.as_str()), (JobStatus::Failed, "not an image"));
    assert_eq!(events.next().await.unwrap().to_job().unwrap().subject.as_str(), "wrong");
    assert_eq!((bench.stage.tries("wrong"), bench.broker.dead_letters(&queue()).len()), (1, 0));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_refused_for_rights_or_configuration_is_kept_for_who_mends_them() {
    let bench = Bench::plain();
    let mut events = bench.broker.subscribe("job.parked").await.unwrap();
    bench.send("barred").await;
    bench.idle().await;
    assert_eq!((bench.stage.tries("barred"), bench.result("barred").await), (1, None), "the job has not ended");
    let dead = bench.broker.dead_letters(&queue());
    assert_eq!(dead[0].headers[DEAD_LETTER_REASON], "the store is locked: 403");
    assert_eq!(events.next().await.unwrap().to_job().unwrap().subject.as_str(), "barred");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_busy_but_not_full_is_no_reason_to_hold_the_delivery() {
    let busy = |inner| -> Arc<dyn Broker> {
        let (queue, refusals) = (next_queue(), AtomicU32::new(1));
        Arc::new(FullAtFirst { inner, queue, refusals, kind: FaultKind::Throttled })
    };
    let bench = Bench::start(busy, 0);
    bench.send("slow").await;
    bench.idle().await;
    assert_eq!((bench.followed(), bench.stage.tries("slow")), (1, 2), "its task was requeued");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_cannot_be_written_down_comes_again() {
    let bench = Bench::start(|broker| Arc::new(broker), 2);
    bench.send("wrong").await;
    bench.idle().await;
    assert_eq!(bench.result("wrong").await.unwrap().status, JobStatus::Failed);
    assert_eq!(bench.stage.tries("wrong"), 3);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_try_and_the_worker_lives_on() {
    let bench = Bench::plain();
    bench.send("panic").await;
    bench.send("one").await;
    bench.idle().await;
    assert_eq!((bench.stage.tries("panic"), bench.followed()), (2, 2));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_between_publish_and_ack_repeats_and_loses_nothing() {
    let bench = Bench::start(|broker| Arc::new(LostAcks::new(broker, 1)), 0);
    bench.broker.publish(&queue(), Message::of_job(&job("slow-one"), bench.clock.now())).await.unwrap();
    bench.idle().await;
    assert_eq!(bench.stage.tries("slow-one"), 2);
    assert_eq!(bench.followed(), 2, "the follow-up comes twice; the next stage settles it by content");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn duplicates_make_one_result() {
    let bench = Bench::start(|broker| Arc::new(Duplicating(broker)), 0);
    for _ in 0..3 {
        bench.send("wrong").await;
    }
    bench.idle().await;
    assert_eq!(bench.store.keys().len(), 1);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_fails_puts_the_task_back() {
    let bench = Bench::start(|broker| Arc::new(FailFirst::new(broker, 2)), 0);
    bench.send("slow-one").await;
    bench.idle().await;
    assert_eq!((bench.stage.tries("slow-one"), bench.followed()), (3, 1));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_never_settled_is_parked_in_the_end() {
    // Every publish fails, that of the dead letter not: it comes after max_redeliveries + 1 tries.
    let bench = Bench::start(|broker| Arc::new(FailFirst::new(broker, 4)), 0);
    let mut events = bench.broker.subscribe("job.parked.slow-one").await.unwrap();
    bench.send("slow-one").await;
    bench.idle().await;
    assert_eq!((bench.stage.tries("slow-one"), bench.followed()), (4, 0));
    assert!(events.next().await.is_some(), "whoever waits for the job is told");
    let reason = bench.broker.dead_letters(&queue())[0].headers[DEAD_LETTER_REASON].clone();
    assert!(reason.starts_with("handed out 4 times"), "{reason}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_task_is_parked_and_a_bad_job_fails_under_its_id() {
    let bench = Bench::plain();
    let blank = r#"{"id":"blank","subject":{"image":"dog.png"},"prompt":" "}"#;
    let segment = r#"{"stage":"segment","id":"misplaced"}"#;
    for body in ["\u{1}", "{\"stage\":\"paint\"}", "{\"promt\":1}", segment, "{\"id\":\"typo\",\"promt\":1}", blank] {
        bench.broker.publish(&queue(), Message { body: body.into(), headers: Default::default() }).await.unwrap();
    }
    bench.idle().await;
    assert_eq!(bench.broker.dead_letters(&queue()).len(), 4);
    let error = bench.result("blank").await.unwrap().error.unwrap();
    assert_eq!((error.kind, error.message.as_str()), (FailureKind::InvalidJob, "prompt: is empty; write a few words"));
    let error = bench.result("typo").await.unwrap().error.unwrap();
    assert_eq!(error.kind, FailureKind::InvalidJob);
    assert_eq!(error.message, "unknown field \"promt\"; did you mean \"prompt\"?");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_past_its_deadline_is_not_begun() {
    let bench = Bench::plain();
    let late = Job { deadline: Some(Timestamp::UNIX_EPOCH), ..job("late") };
    bench.send_job(&late).await;
    let early = Job { deadline: Some(Timestamp::UNIX_EPOCH + 1.hour()), ..job("early") };
    bench.send_job(&early).await;
    bench.idle().await;
    assert_eq!(bench.result("late").await.unwrap().status, JobStatus::Expired);
    assert_eq!((bench.stage.tries("late"), bench.stage.tries("early"), bench.followed()), (0, 1, 1));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_try_that_takes_too_long_is_a_failed_try() {
    let bench = Bench::plain();
    bench.send("stuck").await;
    bench.idle().await;
    let reason = bench.broker.dead_letters(&queue())[0].headers[DEAD_LETTER_REASON].clone();
    assert_eq!(reason, "4 tries failed, the last one: the dispatcher stage took longer than 10 seconds");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_tasks_are_at_work_than_allowed() {
    let bench = Bench::start(|broker| Arc::new(IgnoresPrefetch(broker)), 0);
    for index in 0..7 {
        bench.send(&format!("slow-{index}")).await;
    }
    bench.idle().await;
    assert_eq!((bench.followed(), bench.stage.most_at_work.load(Ordering::SeqCst)), (7, 2));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_what_runs_end_and_takes_nothing_more() {
    let bench = Bench::plain();
    for index in 0..5 {
        bench.send(&format!("slow-{index}")).await;
    }
    let stage = Arc::clone(&bench.stage);
    eventually("two are at work", || stage.at_work.load(Ordering::SeqCst) == 2).await;
    let broker = bench.broker.clone();
    bench.stop().await;
    assert_eq!((broker.waiting(&next_queue()), broker.waiting(&queue())), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_period_tasks_go_back_as_they_came() {
    let bench = Bench::plain();
    bench.send("stuck").await;
    let stage = Arc::clone(&bench.stage);
    eventually("it is at work", || stage.tries("stuck") == 1).await;
    let (broker, began) = (bench.broker.clone(), Instant::now());
    bench.stop().await;
    assert_eq!(began.elapsed(), config().grace());
    let mut consumer = broker.consume(&queue(), 1).await.unwrap();
    let delivery = consumer.receive().await.unwrap().unwrap();
    assert_eq!(TaskHeaders::from_map(&delivery.message.headers).failures, 0, "a requeue is no failure");
}

/// A stage queue that is full for a while, as RabbitMQ says it: refused, and asked to wait.
#[derive(Debug)]
struct FullAtFirst {
    inner: MemoryBroker,
    queue: QueueName,
    refusals: AtomicU32,
    kind: FaultKind,
}

impl FullAtFirst {
    fn new(inner: MemoryBroker, queue: QueueName, refusals: u32) -> Self {
        Self { inner, queue, refusals: AtomicU32::new(refusals), kind: FaultKind::QueueFull }
    }
}

#[async_trait]
impl Broker for FullAtFirst {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        let take = |left: u32| left.checked_sub(1);
        if *queue == self.queue && self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Err(Fault::new(self.kind, "the queue is full").retry_in(Duration::from_secs(1)));
        }
        self.inner.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.inner.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.inner.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        self.inner.consume(queue, prefetch).await
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.inner.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.inner.subscribe(prefix).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_waited_for_with_the_delivery_in_hand() {
    // Far more refusals than redeliveries are allowed.
    let bench = Bench::start(|inner| Arc::new(FullAtFirst::new(inner, next_queue(), 30)), 0);
    bench.send("good").await;
    bench.idle().await;
    assert_eq!((bench.followed(), bench.stage.tries("good")), (1, 1));
    assert!(bench.broker.dead_letters(&queue()).is_empty());
    bench.stop().await;
}
