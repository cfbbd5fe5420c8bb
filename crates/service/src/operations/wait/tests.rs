//! The connection is lost in the middle, an event is lost altogether, a store cannot be read.

use async_trait::async_trait;
use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{
    Consumer, Event, EventStream, Fault, MemoryBroker, MemoryCache, MemoryObjectStore, Message, ObjectKey, ObjectStore,
    QueueName,
};
use echogen_protocol::{FailureKind, JobResult};
use echogen_testkit::{CutProxy, FailFirst, RabbitMq, job};
use echogen_worker::JobStatusStore;
use jiff::Timestamp;
use tokio_util::task::TaskTracker;

use super::*;

/// The stores of an installation.
#[derive(Default)]
struct Stores {
    results: Arc<MemoryObjectStore>,
}

impl Stores {
    fn reader(&self, id: &JobId) -> Arc<StatusReader> {
        let cache = Arc::new(MemoryCache::new(1 << 20));
        Arc::new(StatusReader::new(cache, Arc::clone(&self.results) as _, id, None))
    }

    /// Stores the result "failed".
    async fn end(&self, job: &Job) -> JobResult {
        let failure = echogen_protocol::Failure { kind: FailureKind::InvalidJob, message: "no dog".to_owned() };
        let result = JobResult::failed(&job.outline(), failure, "1.2.3", Timestamp::UNIX_EPOCH);
        let key = ObjectKey::of_result(job).unwrap();
        self.results.put(&key, serde_json::to_vec(&result).unwrap().into()).await.unwrap();
        result
    }
}

fn named(id: &str) -> Job {
    let mut job = job("a dog");
    job.id = JobId(id.to_owned());
    job
}

fn event(kind: EventKind, id: &JobId) -> Event {
    Event::of_job(&JobEvent::new(kind, id, Timestamp::UNIX_EPOCH, json!({})))
}

/// Waits for what must happen; with the clock paused it takes no time.
async fn at_last<T>(waiting: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(86_400), waiting).await.expect("the answer is not lost")
}

/// A broker that delivers no event.
#[derive(Debug, Default)]
struct Mute(MemoryBroker);

#[async_trait]
impl Broker for Mute {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.0.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.0.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.0.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        self.0.consume(queue, prefetch).await
    }

    async fn publish_event(&self, _: Event) -> Result<(), Fault> {
        Ok(())
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.0.subscribe(prefix).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_events_of_one_job_are_followed_and_no_others() {
    let broker = Arc::new(MemoryBroker::new());
    let mut wait = JobWait::start(Arc::clone(&broker) as _, &JobId("one".to_owned()), None).await.unwrap();
    for (kind, id) in [
        (EventKind::Completed, "two"),
        (EventKind::Accepted, "one"),
        (EventKind::Completed, "one.two"),
        (EventKind::Parked, "on"),
        (EventKind::Completed, "one"),
    ] {
        broker.publish_event(event(kind, &JobId(id.to_owned()))).await.unwrap();
    }
    let mut seen = Vec::new();
    let each = |observed: Observed<'_>| {
        if let Observed::Event(event) = observed {
            seen.push((event.kind, event.subject.to_string()));
        }
    };
    let last = wait.end(each).await.unwrap();
    assert_eq!(last.kind, EventKind::Completed);
    assert_eq!(seen, [EventKind::Accepted, EventKind::Completed].map(|kind| (kind, "one".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_lost_costs_seconds_and_not_the_answer() {
    let (broker, stores, job) = (Arc::new(Mute::default()), Stores::default(), named("one"));
    let mut wait = JobWait::start(broker as _, &job.id, Some(stores.reader(&job.id))).await.unwrap();
    let ending = async {
        tokio::time::sleep(Duration::from_secs(600)).await;
        let result = stores.end(&job).await;
        (result, Instant::now())
    };
    let waiting = async {
        let last = at_last(wait.end(|_| ())).await;
        (last.unwrap(), Instant::now())
    };
    let ((result, ended), (last, noticed)) = tokio::join!(ending, waiting);
    assert_eq!(last, JobEvent::of_result(&result));
    assert!(noticed - ended <= INTERVALS.longest(u32::MAX), "{:?}", noticed - ended);
    assert!(wait.look_ups < 200, "the store is not asked all the time: {}", wait.look_ups);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_reads_a_result_that_is_there_already() {
    let (broker, stores, job) = (Arc::new(Mute::default()), Stores::default(), named("one"));
    stores.end(&job).await;
    let begin = Instant::now();
    let mut wait = JobWait::of_known_job(broker as _, stores.reader(&job.id)).await.unwrap();
    assert!(at_last(wait.result(|_| ())).await.unwrap().result.is_some());
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_parked_job_is_noticed_without_its_event_unless_it_was_parked_before() {
    let (broker, stores, id) = (Arc::new(Mute::default()), Stores::default(), JobId("one".to_owned()));
    let cache = Arc::new(MemoryCache::new(1 << 20));
    let reader = || Arc::new(StatusReader::new(Arc::clone(&cache) as _, Arc::clone(&stores.results) as _, &id, None));
    let note = async |seconds| {
        let tracker = TaskTracker::new();
        let store = JobStatusStore::start(Arc::clone(&cache) as _, &tracker);
        let state = json!({ "state": "echogen.job.parked", "result_key": "one/result.json", "stage": "sampler",
            "updated": Timestamp::from_second(seconds).unwrap() });
        store.note(&id, serde_json::from_value(state).unwrap());
        drop(store);
        tracker.close();
        tracker.wait().await;
    };
    note(1).await;
    let mut wait = JobWait::start(broker as _, &id, Some(reader())).await.unwrap();
    let early = timeout(Duration::from_secs(60), wait.end(|_| ())).await;
    assert!(early.is_err(), "it was parked before it was published again: {early:?}");
    note(2).await;
    assert_eq!(at_last(wait.end(|_| ())).await.unwrap().kind, EventKind::Parked);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_is_reported_once_and_asked_again() {
    let (broker, job) = (Arc::new(Mute::default()), named("one"));
    let stores = Stores::default();
    stores.end(&job).await;
    let failing = Arc::new(FailFirst::new(MemoryObjectStore::new(), 5));
    let key = ObjectKey::of_result(&job).unwrap();
    let bytes = stores.results.get(&key, 1 << 20).await.unwrap().unwrap();
    let cache = Arc::new(MemoryCache::new(1 << 20));
    let reader = Arc::new(StatusReader::new(cache, Arc::clone(&failing) as _, &job.id, None));
    let mut wait = JobWait::start(broker as _, &job.id, Some(reader)).await.unwrap();
    let mut reports = 0;
    let waiting = at_last(wait.end(|observed| reports += u32::from(matches!(observed, Observed::Unreadable(_)))));
    let mending = async {
        while failing.put(&key, bytes.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let (last, ()) = tokio::join!(waiting, mending);
    assert_eq!((last.unwrap().kind, reports), (EventKind::Failed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_limit_ends_the_wait_with_a_code_of_its_own() {
    let id = JobId("one".to_owned());
    let mut wait = JobWait::start(Arc::new(Mute::default()), &id, None).await.unwrap();
    let failure = within(Some(Duration::from_secs(5)), &id, wait.end(|_| ())).await.unwrap_err();
    assert_eq!(failure.exit, Exit::TimedOut);
    assert!(failure.message.contains("within 5 seconds"), "{}", failure.message);
}

/// A broker by a proxy, and one of the same installation without it.
async fn with_proxy() -> (CutProxy, Arc<AmqpBroker>, AmqpBroker) {
    let server = RabbitMq::shared().await;
    let proxy = CutProxy::start(format!("127.0.0.1:{}", server.amqp_port())).await.unwrap();
    let prefix = RabbitMq::fresh_prefix();
    let connect = |url| AmqpBroker::connect(AmqpConfig { prefix: prefix.clone(), ..AmqpConfig::at(url) });
    let direct = connect(server.amqp_url()).await.unwrap();
    let broker = Arc::new(connect(server.amqp_url_at(proxy.port())).await.unwrap());
    (proxy, broker, direct)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_the_connection_is_cut_is_looked_up() {
    let (proxy, broker, direct) = with_proxy().await;
    let (stores, job) = (Stores::default(), named("one"));
    let mut wait = JobWait::start(broker as _, &job.id, Some(stores.reader(&job.id))).await.unwrap();
    direct.publish_event(event(EventKind::Accepted, &job.id)).await.unwrap();
    let (mut kinds, mut lost) = (Vec::new(), 0);
    let each = |observed: Observed<'_>| match observed {
        Observed::Event(event) => {
            kinds.push(event.kind);
            proxy.cut();
        }
        Observed::Lost => lost += 1,
        Observed::Unreadable(_) => {}
    };
    let ending = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let result = stores.end(&job).await;
        direct.publish_event(Event::of_job(&JobEvent::of_result(&result))).await.unwrap();
    };
    let waiting = timeout(Duration::from_secs(60), wait.end(each));
    let (last, ()) = tokio::join!(waiting, ending);
    assert_eq!(last.expect("it ends").unwrap().kind, EventKind::Failed);
    assert_eq!(kinds, [EventKind::Accepted, EventKind::Failed]);
    assert!(lost <= 1, "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_the_events_after_a_cut_are_received() {
    let (proxy, broker, direct) = with_proxy().await;
    let id = JobId("one.two".to_owned());
    let mut wait = JobWait::start(broker as _, &id, None).await.unwrap();
    let bindings = RabbitMq::shared().await.management_get("/api/bindings/%2f").await.unwrap();
    assert!(bindings.contains(r#""routing_key":"job.*.one.two.#""#), "the broker sends this job's events alone");
    proxy.cut();
    let restored = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.restore();
        // A client that subscribed again receives what is published then; until it has, events are missed.
        loop {
            direct.publish_event(event(EventKind::Completed, &id)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut lost = 0;
    let waiting = wait.end(|observed| lost += u32::from(matches!(observed, Observed::Lost)));
    let last = tokio::select! {
        last = timeout(Duration::from_secs(60), waiting) => last.expect("it ends").unwrap(),
        () = restored => unreachable!("it publishes for ever"),
    };
    assert_eq!((last.kind, lost), (EventKind::Completed, 1));
}
