//! Records how every job ended, from the events of a queue that is bound to the event exchange.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use echogen_protocol::{EventKind, JobEvent};
use futures::StreamExt;
use lapin::{
    Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use tokio::{sync::Notify, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long it may take until the ledger listens.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Which kind of queue the ledger consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// A quorum queue: outages lose no event.
    Durable,
    /// An in-memory queue that is deleted with its connection, so that the measurement contains no additional durable
    /// hop.
    Light,
    /// The same, and it hears of what happens on the way too: that sampling begins, that a try failed.
    Steps,
}

/// All events that end a job or park it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// For each job, its distinct ends: the event's id and the time of the result that it refers to.
    ends: HashMap<String, BTreeSet<(String, String)>>,
    kinds: BTreeMap<EventKind, u64>,
    parked: BTreeSet<String>,
    completed: BTreeSet<String>,
    /// The time at which each job's first end was received.
    heard: HashMap<String, Instant>,
    /// The time at which the beginning of each job's sampling was received.
    begun: HashMap<String, Instant>,
    retries: u64,
    told: u64,
}

impl Ledger {
    /// Consumes events until `end`; returns when it listens. Broker outages are waited out.
    ///
    /// It listens before anything is sent: RabbitMQ 4.0 forgets a quorum queue, with all that is in it, that was declared
    /// less than half a second before the node is killed.
    pub async fn listen(
        url: &str,
        prefix: &str,
        hearing: Hearing,
        tasks: &TaskTracker,
        end: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let ledger = Self::default();
        let (url, prefix, written) = (url.to_owned(), prefix.to_owned(), ledger.clone());
        let end = end.clone();
        let listening = Arc::new(Notify::new());
        let listens = listening.clone();
        tasks.spawn(end.clone().run_until_cancelled_owned(async move {
            loop {
                // After any failure, consume again: the queue keeps every event that has not been acknowledged.
                drop(written.follow(&url, &prefix, hearing, &listens).await);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }));
        timeout(START_LIMIT, listening.notified()).await.context("the ledger does not listen")?;
        Ok(ledger)
    }

    async fn follow(&self, url: &str, prefix: &str, hearing: Hearing, listens: &Notify) -> lapin::Result<()> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let (queue, exchange) = (format!("{prefix}.ledger"), format!("{prefix}.events"));
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let topic = lapin::ExchangeKind::Topic;
        channel.exchange_declare(exchange.as_str().into(), topic, durable, FieldTable::default()).await?;
        let is_durable = hearing == Hearing::Durable;
        let options =
            QueueDeclareOptions { durable: is_durable, exclusive: !is_durable, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        if is_durable {
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        }
        channel.queue_declare(queue.as_str().into(), options, arguments).await?;
        let on_the_way: &[&str] = if hearing == Hearing::Steps { &["sampling", "retrying"] } else { &[] };
        for kind in ["completed", "failed", "cancelled", "expired", "parked"].iter().chain(on_the_way) {
            let key = format!("job.{kind}.#");
            let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
            channel
                .queue_bind(queue.as_str().into(), exchange.as_str().into(), key.as_str().into(), bind, none)
                .await?;
        }
        channel.basic_qos(512, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: !is_durable, ..BasicConsumeOptions::default() };
        let none = FieldTable::default();
        let mut consumer = channel.basic_consume(queue.as_str().into(), "ledger".into(), options, none).await?;
        listens.notify_one();
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery?;
            if let Ok(event) = serde_json::from_slice::<JobEvent>(&delivery.data) {
                self.note(&event);
            }
            if is_durable {
                delivery.ack(BasicAckOptions::default()).await?;
            }
        }
        Ok(())
    }

    fn note(&self, event: &JobEvent) {
        let mut state = self.lock();
        let job = event.subject.to_string();
        match event.kind {
            EventKind::Sampling => {
                state.begun.entry(job).or_insert_with(Instant::now);
                return;
            }
            EventKind::Retrying => {
                state.retries += 1;
                return;
            }
            _ => state.told += 1,
        }
        if event.kind.ends_job() {
            let moment = event.data.get("finished").map(ToString::to_string).unwrap_or_default();
            if state.ends.entry(job.clone()).or_default().insert((event.id.clone(), moment)) {
                *state.kinds.entry(event.kind).or_default() += 1;
            }
            if event.kind == EventKind::Completed {
                state.completed.insert(job.clone());
            }
            state.heard.entry(job).or_insert_with(Instant::now);
        } else {
            state.parked.insert(job);
        }
    }

    /// Returns the number of jobs that have ended.
    pub fn ended(&self) -> usize {
        self.lock().ends.len()
    }

    /// Returns the number of distinct ends of all jobs: equal to [`Ledger::ended`] if no job ended twice.
    pub fn ends(&self) -> usize {
        self.lock().ends.values().map(BTreeSet::len).sum()
    }

    /// Returns the number of distinct ends of one kind.
    pub fn of_kind(&self, kind: EventKind) -> u64 {
        self.lock().kinds.get(&kind).copied().unwrap_or(0)
    }

    /// Returns the jobs with more than one end.
    pub fn doubled(&self) -> Vec<String> {
        self.lock().ends.iter().filter(|(_, ends)| ends.len() > 1).map(|(job, _)| job.clone()).collect()
    }

    /// Returns whether a job has ended.
    pub fn has_ended(&self, job: &str) -> bool {
        self.lock().ends.contains_key(job)
    }

    /// Returns whether a job was completed.
    pub fn is_completed(&self, job: &str) -> bool {
        self.lock().completed.contains(job)
    }

    /// Returns whether a job was parked among the dead letters.
    pub fn is_parked(&self, job: &str) -> bool {
        self.lock().parked.contains(job)
    }

    /// Returns when a job's end was first received.
    pub fn heard(&self, job: &str) -> Option<Instant> {
        self.lock().heard.get(job).copied()
    }

    /// Returns when the beginning of a job's sampling was received.
    pub fn begun(&self, job: &str) -> Option<Instant> {
        self.lock().begun.get(job).copied()
    }

    /// Returns the number of tries that failed and were followed by another.
    pub fn retries(&self) -> u64 {
        self.lock().retries
    }

    /// Returns the number of jobs that were parked among the dead letters.
    pub fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    /// Returns the number of events received of ends and parked jobs, repeated ones included.
    pub fn told(&self) -> u64 {
        self.lock().told
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
