//! The floor: a minimal program that moves messages through durable queues and stores durable products.
//!
//! It does what every durable pipeline must do, as fast as the client library allows: quorum queues, a confirm for
//! every message, acknowledgement after the confirm, a prefetch of 256, pipelined confirms and acknowledgements, and
//! one connection for each hop, as if each were a process of its own. It has no parsing, no retries, no traces and no
//! events. With a [`Payload`] the hop before the last also stores objects, as any program must that produces something
//! from its messages: those that a job of EchoGen stores, after a value was read from Redis, or only those that users
//! see. The last hop is that of the notices.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use echogen_adapters::{RedisCache, RedisConfig, S3Config, S3ObjectStore};
use echogen_ports::{Cache, ObjectKey, ObjectStore};
use futures::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tempfile::TempDir;
use tokio::{select, sync::mpsc, task::JoinSet, time::timeout};

/// How many messages are moved, and through how many queues.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Number of queues that each message goes through.
    pub(crate) hops: usize,
    /// Number of messages of the run under load.
    pub(crate) jobs: usize,
    /// Size of a message in bytes.
    pub(crate) job_bytes: usize,
    /// Number of messages that are sent one at a time through the idle program.
    pub(crate) idle_jobs: usize,
    /// Maximum number of unacknowledged deliveries of a hop.
    pub(crate) prefetch: u16,
    /// What the hop before the last does in addition.
    pub(crate) payload: Option<Payload>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { hops: 5, jobs: 5_000, job_bytes: 600, idle_jobs: 200, prefetch: 256, payload: None }
    }
}

/// The work done for each message besides moving it.
#[derive(Clone, Debug)]
pub(crate) enum Payload {
    /// Reads a value from Redis and writes a file.
    File(Reading, Arc<TempDir>),
    /// Reads a value from Redis and makes the S3 calls that EchoGen must make.
    Objects(Reading, Arc<S3ObjectStore>, Subjects),
    /// Stores what users see: the picture and the result.
    Products(Arc<S3ObjectStore>, Arc<AtomicUsize>),
}

/// Which subjects the jobs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subjects {
    /// Every job has a subject of its own.
    New,
    /// All jobs have one subject whose products exist.
    Known,
}

/// The value in Redis, and a counter of messages.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    cache: Arc<RedisCache>,
    number: Arc<AtomicUsize>,
}

/// Size of the value in Redis in bytes.
const READ: usize = 64 * 1024;

/// Size of the file in bytes.
const WRITTEN: usize = 100 * 1024;

/// Sizes of the objects in bytes: picture, encoded subject, generated picture, result.
const OBJECTS: [usize; 4] = [100, 64 * 1024, 400, 1_500];

impl Reading {
    const KEY: &str = "floor";

    async fn prepare(url: &str) -> anyhow::Result<Self> {
        // Writing files at full speed can delay a Redis server that writes its log to the same disk, so the timeout is
        // long.
        let patient = RedisConfig { response_timeout_seconds: 30.0, ..RedisConfig::at(url) };
        let cache = RedisCache::open(patient)?;
        cache.put(Self::KEY, vec![b'x'; READ].into(), LIMIT).await?;
        Ok(Self { cache: Arc::new(cache), number: Arc::default() })
    }

    /// Reads the value; returns the number of this message.
    async fn read(&self) -> anyhow::Result<usize> {
        ensure!(self.cache.get(Self::KEY).await?.is_some(), "the value is gone from Redis");
        Ok(self.number.fetch_add(1, Ordering::Relaxed))
    }
}

impl Payload {
    /// Creates the payload of files, in a temporary folder that is deleted when this is dropped.
    pub(crate) async fn files(redis: &str) -> anyhow::Result<Self> {
        Ok(Self::File(Reading::prepare(redis).await?, Arc::new(tempfile::tempdir()?)))
    }

    /// Creates the payload of objects.
    pub(crate) async fn objects(redis: &str, s3: S3Config, subjects: Subjects) -> anyhow::Result<Self> {
        Ok(Self::Objects(Reading::prepare(redis).await?, Arc::new(S3ObjectStore::open(s3).await?), subjects))
    }

    /// Creates the payload of what users see.
    pub(crate) async fn products(s3: S3Config) -> anyhow::Result<Self> {
        Ok(Self::Products(Arc::new(S3ObjectStore::open(s3).await?), Arc::default()))
    }

    async fn handle(&self) -> anyhow::Result<()> {
        match self {
            Self::File(reading, folder) => {
                let number = reading.read().await?;
                tokio::fs::write(folder.path().join(number.to_string()), vec![b'x'; WRITTEN]).await?;
            }
            Self::Objects(reading, store, subjects) => call_store(store, *subjects, reading.read().await?).await?,
            Self::Products(store, number) => store_products(store, number.fetch_add(1, Ordering::Relaxed)).await?,
        }
        Ok(())
    }
}

/// Makes the calls that a job needs (`tests/it/store_calls.rs` counts them): for a new subject it stores the subject's
/// picture and the encoded subject; it reads a result that is absent, and stores the picture and the result.
async fn call_store(store: &S3ObjectStore, subjects: Subjects, number: usize) -> anyhow::Result<()> {
    let [image, subject, ..] = objects();
    let key = |name: &str| key(number, name);
    if subjects == Subjects::New {
        ensure!(store.put_if_absent(&key("image")?, image).await?, "the object is there already");
        store.put(&key("subject")?, subject).await?;
    }
    ensure!(store.get(&key("result")?, 1_000).await?.is_none(), "an object came from nowhere");
    store_products(store, number).await
}

/// Stores the picture, then the result.
async fn store_products(store: &S3ObjectStore, number: usize) -> anyhow::Result<()> {
    let [.., picture, result] = objects();
    ensure!(store.put_if_absent(&key(number, "picture")?, picture).await?, "the object is there already");
    ensure!(store.put_if_absent(&key(number, "result")?, result).await?, "the object is there already");
    Ok(())
}

fn objects() -> [Bytes; OBJECTS.len()] {
    OBJECTS.map(|size| Bytes::from(vec![b'x'; size]))
}

fn key(number: usize, name: &str) -> anyhow::Result<ObjectKey> {
    Ok(ObjectKey::new(format!("floor/{}/{number}-{name}", std::process::id()))?)
}

/// The measured results.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Throughput from the first publish to the last arrival.
    pub(crate) jobs_per_second: f64,
    /// Latencies of single messages from before the publish to the arrival, sorted.
    pub(crate) idle: Vec<Duration>,
}

impl Report {
    /// Returns the `part` quantile (0 to 1) of the idle latency in milliseconds.
    pub(crate) fn idle_milliseconds(&self, part: f64) -> f64 {
        let last = self.idle.len().saturating_sub(1);
        let index = (part * last as f64).round() as usize;
        self.idle.get(index.min(last)).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1_000.0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|part| self.idle_milliseconds(part));
        write!(f, "{:.0} jobs/s; idle p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms", self.jobs_per_second)
    }
}

/// Timeout of a whole run.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the program on the broker at `url`, in queues of its own that it deletes at the end.
pub(crate) async fn run(url: &str, plan: &Plan) -> anyhow::Result<Report> {
    let queues: Vec<String> = (0..plan.hops).map(|hop| format!("floor-{}-{hop}", std::process::id())).collect();
    let connection = connect(url).await?;
    let source = confirm_channel(&connection).await?;
    for queue in &queues {
        declare(&source, queue).await?;
    }
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut hops = JoinSet::new();
    for (hop, queue) in queues.iter().enumerate() {
        let next = queues.get(hop + 1).cloned();
        let payload = plan.payload.clone().filter(|_| hop + 2 == plan.hops);
        let mut hop = Hop::open(url, queue, next, plan.prefetch, arrived.clone()).await?;
        hop.payload = payload;
        hops.spawn(hop.run());
    }
    let first = queues.first().context("a plan has at least one hop")?;
    let measuring = timeout(LIMIT, measure(plan, &source, first, &mut arrivals));
    let report = select! {
        // The measurement has ended, or it has reached the timeout.
        report = measuring => report.context("the floor is stuck")??,
        // A hop should run until it is shut down, so an earlier end is an error.
        Some(ended) = hops.join_next() => anyhow::bail!("a hop has ended: {:?}", ended?),
    };
    hops.shutdown().await;
    for queue in &queues {
        source.queue_delete(short(queue)?, QueueDeleteOptions::default()).await?;
    }
    Ok(report)
}

async fn measure(
    plan: &Plan,
    source: &Channel,
    first: &str,
    arrivals: &mut mpsc::UnboundedReceiver<Instant>,
) -> anyhow::Result<Report> {
    let body = vec![b'x'; plan.job_bytes];
    let begin = Instant::now();
    let mut publishes: FuturesUnordered<_> = (0..plan.jobs).map(|_| publish(source, first, &body)).collect();
    let (mut confirmed, mut came, mut last) = (0, 0, begin);
    while came < plan.jobs || confirmed < plan.jobs {
        select! {
            // The broker has confirmed a message.
            Some(published) = publishes.next() => { published?; confirmed += 1; }
            // A message has gone through all hops.
            Some(arrival) = arrivals.recv() => { came += 1; last = arrival; }
        }
    }
    let jobs_per_second = plan.jobs as f64 / (last - begin).as_secs_f64();
    let mut idle = Vec::new();
    for _ in 0..plan.idle_jobs {
        let begin = Instant::now();
        publish(source, first, &body).await?;
        idle.push(arrivals.recv().await.context("the last hop goes on")? - begin);
    }
    idle.sort();
    Ok(Report { jobs_per_second, idle })
}

/// One hop: consumes from a queue, publishes to the next one, then acknowledges.
struct Hop {
    deliveries: lapin::Consumer,
    sink: Channel,
    next: Option<String>,
    payload: Option<Payload>,
    arrived: mpsc::UnboundedSender<Instant>,
    _connection: Connection,
}

impl Hop {
    async fn open(
        url: &str,
        queue: &str,
        next: Option<String>,
        prefetch: u16,
        arrived: mpsc::UnboundedSender<Instant>,
    ) -> anyhow::Result<Self> {
        let connection = connect(url).await?;
        let (sink, source) = (confirm_channel(&connection).await?, connection.create_channel().await?);
        source.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let deliveries = source.basic_consume(short(queue)?, tag, options, FieldTable::default()).await?;
        Ok(Self { deliveries, sink, next, payload: None, arrived, _connection: connection })
    }

    async fn run(self) -> anyhow::Result<()> {
        let mut deliveries = self.deliveries.clone();
        let mut at_work = FuturesUnordered::new();
        loop {
            select! {
                // A delivery was published, confirmed and acknowledged. Its slot is free.
                Some(done) = at_work.next() => done?,
                // The next delivery. The prefetch limits how many are in progress.
                delivery = deliveries.next() => {
                    let delivery = delivery.context("the consumer goes on")??;
                    at_work.push(self.pass_on(delivery));
                }
            }
        }
    }

    async fn pass_on(&self, delivery: lapin::message::Delivery) -> anyhow::Result<()> {
        if let Some(payload) = &self.payload {
            payload.handle().await?;
        }
        match &self.next {
            Some(next) => publish(&self.sink, next, &delivery.data).await?,
            None => self.arrived.send(Instant::now())?,
        }
        ensure!(delivery.ack(BasicAckOptions::default()).await?, "an acknowledgement was not sent");
        Ok(())
    }
}

async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> anyhow::Result<()> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(2);
    let confirm = channel.basic_publish(ShortString::default(), short(queue)?, options, body, properties).await?;
    ensure!(confirm.await? == Confirmation::Ack(None), "a message was not taken");
    Ok(())
}

async fn connect(url: &str) -> anyhow::Result<Connection> {
    Ok(Connection::connect(url, ConnectionProperties::default()).await?)
}

async fn confirm_channel(connection: &Connection) -> anyhow::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

async fn declare(channel: &Channel, queue: &str) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(short(queue)?, options, arguments).await?;
    Ok(())
}

fn short(name: &str) -> anyhow::Result<ShortString> {
    Ok(ShortString::try_new(name)?)
}
