//! What became of every job, heard from a queue bound to the event exchange.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

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
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How the ledger hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// By a quorum queue: outages lose no event.
    Durable,
    /// By a queue in memory that dies with its connection: no durable hop is added to what is measured.
    Light,
}

/// All events that end a job, or park it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Of each job, its different ends: the event's id and the moment of the result it tells of.
    ends: HashMap<String, BTreeSet<(String, String)>>,
    kinds: BTreeMap<EventKind, u64>,
    parked: BTreeSet<String>,
    /// The moment at which each job's first end was heard.
    heard: HashMap<String, Instant>,
    told: u64,
}

impl Ledger {
    /// Listens until `end`; what happens to the broker meanwhile is waited out.
    pub fn listen(url: &str, prefix: &str, hearing: Hearing, tasks: &TaskTracker, end: &CancellationToken) -> Self {
        let ledger = Self::default();
        let (url, prefix, written) = (url.to_owned(), prefix.to_owned(), ledger.clone());
        let end = end.clone();
        tasks.spawn(end.clone().run_until_cancelled_owned(async move {
            loop {
                // Whatever fails is tried again: the queue keeps what has not been acknowledged.
                drop(written.follow(&url, &prefix, hearing).await);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }));
        ledger
    }

    async fn follow(&self, url: &str, prefix: &str, hearing: Hearing) -> lapin::Result<()> {
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
        for kind in ["completed", "failed", "cancelled", "expired", "parked"] {
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
        state.told += 1;
        let job = event.subject.to_string();
        if event.kind.ends_job() {
            let moment = event.data.get("finished").map(ToString::to_string).unwrap_or_default();
            if state.ends.entry(job.clone()).or_default().insert((event.id.clone(), moment)) {
                *state.kinds.entry(event.kind).or_default() += 1;
            }
            state.heard.entry(job).or_insert_with(Instant::now);
        } else {
            state.parked.insert(job);
        }
    }

    /// Jobs that have ended.
    pub fn ended(&self) -> usize {
        self.lock().ends.len()
    }

    /// Different ends of all jobs together: as many as [`Ledger::ended`] if none ended twice.
    pub fn ends(&self) -> usize {
        self.lock().ends.values().map(BTreeSet::len).sum()
    }

    /// Different ends of one kind.
    pub fn of_kind(&self, kind: EventKind) -> u64 {
        self.lock().kinds.get(&kind).copied().unwrap_or(0)
    }

    /// Jobs with more than one end.
    pub fn doubled(&self) -> Vec<String> {
        self.lock().ends.iter().filter(|(_, ends)| ends.len() > 1).map(|(job, _)| job.clone()).collect()
    }

    /// Whether a job has ended.
    pub fn has_ended(&self, job: &str) -> bool {
        self.lock().ends.contains_key(job)
    }

    /// Whether a job was parked among the dead letters.
    pub fn is_parked(&self, job: &str) -> bool {
        self.lock().parked.contains(job)
    }

    /// When a job's end was first heard.
    pub fn heard(&self, job: &str) -> Option<Instant> {
        self.lock().heard.get(job).copied()
    }

    /// Tellings, repeated ones included.
    pub fn told(&self) -> u64 {
        self.lock().told
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
