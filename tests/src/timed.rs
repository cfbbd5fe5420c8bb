//! Ports that measure their calls: how long each took, and how much of that this process was busy with it.
//!
//! A call's busy time is that of its polls: building the request, handing it to the client library, reading the answer.
//! The rest is waiting, for the server and for other tasks of the process.

use std::{
    collections::{BTreeMap, HashMap},
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{
    Broker, Cache, Consumer, Delivery, Event, EventStream, Fault, FencingToken, Message, ObjectKey, ObjectStore, Settle,
};
use echogen_protocol::{
    EncodeTask, Job, NotifyTask, Partitions, QueueName, SampleTask, SegmentTask, StageName, StageTask, TaskHeaders,
};

/// What was measured of one stage and step.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The time of each call.
    pub calls: Vec<Duration>,
    /// The busy time of all calls.
    pub busy: Duration,
}

/// The record of all measurements, by stage and step. Clones are the same record.
#[derive(Clone, Debug, Default)]
pub struct Stopwatch(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    steps: BTreeMap<(StageName, &'static str), Measured>,
    /// When a message for a queue and job began to be published.
    published: HashMap<(String, String), Instant>,
}

impl Stopwatch {
    /// Returns what was measured since the last call of this function.
    pub fn take(&self) -> BTreeMap<(StageName, &'static str), Measured> {
        std::mem::take(&mut self.lock().steps)
    }

    /// Notes that a message begins to be published.
    pub fn publishes(&self, queue: &QueueName, message: &Message) {
        self.lock().published.insert(address(queue, message), Instant::now());
    }

    fn note(&self, stage: StageName, step: &'static str, total: Duration, busy: Duration) {
        let mut state = self.lock();
        let measured = state.steps.entry((stage, step)).or_default();
        measured.calls.push(total);
        measured.busy += busy;
    }

    async fn time<T>(&self, stage: StageName, step: &'static str, call: impl Future<Output = T>) -> T {
        let (began, mut busy, mut call) = (Instant::now(), Duration::ZERO, pin!(call));
        let answer = poll_fn(|context| {
            let polled = Instant::now();
            let poll = call.as_mut().poll(context);
            busy += polled.elapsed();
            poll
        });
        let answer = answer.await;
        self.note(stage, step, began.elapsed(), busy);
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(queue: &QueueName, message: &Message) -> (String, String) {
    (queue.to_string(), TaskHeaders::from_map(&message.headers).job.unwrap_or_default())
}

/// A port whose calls are measured for a stage.
#[derive(Debug)]
pub struct Timed<P> {
    inner: P,
    stage: StageName,
    stopwatch: Stopwatch,
}

impl<P> Timed<P> {
    /// Wraps the port of a stage.
    pub fn new(inner: P, stage: StageName, stopwatch: &Stopwatch) -> Self {
        Self { inner, stage, stopwatch: stopwatch.clone() }
    }

    async fn time<T>(&self, step: &'static str, call: impl Future<Output = T>) -> T {
        self.stopwatch.time(self.stage, step, call).await
    }
}

#[async_trait]
impl<P: ObjectStore> ObjectStore for Timed<P> {
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        self.time("store: get", self.inner.get(key, max_bytes)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault> {
        self.time("store: put", self.inner.put(key, bytes)).await
    }

    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        self.time("store: put if absent", self.inner.put_if_absent(key, bytes)).await
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        self.time("store: exists", self.inner.exists(key)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault> {
        self.time("store: delete", self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault> {
        self.time("store: list", self.inner.list(prefix, after, limit)).await
    }
}

/// The steps that run in the background: no task waits for them.
pub const BACKGROUND: [&str; 2] = ["background: event", "background: job status"];

#[async_trait]
impl<P: Cache> Cache for Timed<P> {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        self.time("cache: get", self.inner.get(key)).await
    }

    async fn contains(&self, key: &str) -> Result<bool, Fault> {
        self.time("cache: contains", self.inner.contains(key)).await
    }

    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), Fault> {
        let step = if key.starts_with("job-status/") { BACKGROUND[1] } else { "cache: put" };
        self.time(step, self.inner.put(key, value, ttl)).await
    }

    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, Fault> {
        self.time("cache: lease", self.inner.acquire_lease(key, ttl)).await
    }

    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, Fault> {
        self.time("cache: lease", self.inner.renew_lease(key, token, ttl)).await
    }

    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, Fault> {
        self.time("cache: lease", self.inner.release_lease(key, token)).await
    }
}

#[async_trait]
impl<P: Broker> Broker for Timed<P> {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.stopwatch.publishes(queue, &message);
        self.time("publish and confirm", self.inner.publish(queue, message)).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.inner.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.inner.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        let inner = self.inner.consume(queue, prefetch).await?;
        let stage = StageName::ALL
            .into_iter()
            .find(|stage| stage.queues(Partitions::default()).contains(queue))
            .unwrap_or(self.stage);
        Ok(Box::new(TimedConsumer { inner, queue: queue.clone(), stage, stopwatch: self.stopwatch.clone() }))
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        let is_end = event.topic.starts_with("job.completed");
        let (stage, step) =
            if is_end { (StageName::Notifier, "publish and confirm") } else { (self.stage, BACKGROUND[0]) };
        self.stopwatch.time(stage, step, self.inner.publish_event(event)).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.inner.subscribe(prefix).await
    }
}

struct TimedConsumer {
    inner: Box<dyn Consumer>,
    queue: QueueName,
    stage: StageName,
    stopwatch: Stopwatch,
}

#[async_trait]
impl Consumer for TimedConsumer {
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault> {
        let Some(mut delivery) = self.inner.receive().await? else { return Ok(None) };
        let (message, redeliveries) = (std::mem::take(&mut delivery.message), delivery.redeliveries);
        let published = self.stopwatch.lock().published.remove(&address(&self.queue, &message));
        if let Some(published) = published {
            self.stopwatch.note(self.stage, RECEIVE, published.elapsed(), Duration::ZERO);
        }
        // Parsed here once more, to be measured alone.
        let parsing = Instant::now();
        std::hint::black_box(is_readable(self.stage, &message.body));
        self.stopwatch.note(self.stage, PARSE, parsing.elapsed(), parsing.elapsed());
        let (stage, stopwatch) = (self.stage, self.stopwatch.clone());
        let settle = TimedSettle { inner: delivery, received: Instant::now(), stage, stopwatch };
        Ok(Some(Delivery::new(message, redeliveries, Box::new(settle))))
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }

    async fn stop(&mut self) {
        self.inner.stop().await;
    }
}

/// From the beginning of a publication to the receipt.
pub const RECEIVE: &str = "receive";

/// Parsing and validating the body.
pub const PARSE: &str = "parse";

/// From the receipt to the acknowledgement: the steps between, and the stage's own work.
pub const TASK: &str = "task";

fn is_readable(stage: StageName, body: &[u8]) -> bool {
    match stage {
        StageName::Dispatcher => Job::parse(body).is_ok(),
        StageName::Segmenter => SegmentTask::parse(body).is_ok(),
        StageName::Encoder => EncodeTask::parse(body).is_ok(),
        StageName::Sampler => SampleTask::parse(body).is_ok(),
        StageName::Notifier => NotifyTask::parse(body).is_ok(),
    }
}

struct TimedSettle {
    inner: Delivery,
    received: Instant,
    stage: StageName,
    stopwatch: Stopwatch,
}

#[async_trait]
impl Settle for TimedSettle {
    async fn ack(self: Box<Self>) -> Result<(), Fault> {
        let Self { inner, received, stage, stopwatch } = *self;
        stopwatch.note(stage, TASK, received.elapsed(), Duration::ZERO);
        stopwatch.time(stage, "ack", inner.ack()).await
    }

    async fn requeue(self: Box<Self>) -> Result<(), Fault> {
        self.inner.requeue().await
    }
}
