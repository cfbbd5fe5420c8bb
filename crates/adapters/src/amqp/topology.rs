//! Exchanges, queues and bindings as data.
//!
//! ```text
//! client ──▶ jobs ──lane and partition──▶ dispatch.<lane>.<partition> ◀──┐
//! stage  ──▶ tasks ──queue's name──▶ <stage>.<lane>.<partition>, notify ──given up──▶ dead ──▶ <queue>.dead
//! stage  ──▶ retry.<wait> ──▶ retry.<wait> ──time is up──▶ tasks (the routing key is still the queue's name)
//! stage  ──▶ events ──topic──▶ listeners
//! stage  ──▶ events.relay ──▶ events.relay ──at once──▶ events (while a listener's queue is stuck)
//! ```
//!
//! A retry tier is a queue for delays up to its own limit; each message carries its exact delay. RabbitMQ expires messages
//! at the head of a queue only, so a message waits for those before it; the limits of the tiers bound the extra delay.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use echogen_ports::Fault;
use echogen_protocol::{Lane, Partition, Partitions, QueueName, StageName};
use serde::Serialize;

use super::config::{AmqpConfig, QueueLimits};

/// The limits of the retry tiers in milliseconds. The workers' own delays are at most five minutes; a server may ask for
/// up to a day.
const TIERS: [u64; 8] = [250, 1_000, 4_000, 16_000, 64_000, 300_000, 3_600_000, 86_400_000];

/// Deliveries of a dead letter before the broker drops it: each listing of dead letters counts as a delivery, and must not
/// remove them. RabbitMQ 4 has a default limit of 20, and RabbitMQ 3 cannot express "no limit".
const DEAD_LETTER_DELIVERY_LIMIT: i64 = 1_000_000_000;

/// Everything that one installation declares on its broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// The exchanges; all are durable.
    pub exchanges: Vec<Exchange>,
    /// The queues; all are durable.
    pub queues: Vec<Queue>,
    /// The bindings from exchanges to queues.
    pub bindings: Vec<Binding>,
    #[serde(skip)]
    names: Names,
    #[serde(skip)]
    partitions: Partitions,
}

/// An exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// How it routes.
    pub kind: ExchangeType,
    /// What it is for.
    pub purpose: &'static str,
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeType {
    /// By equal routing keys.
    Direct,
    /// By patterns of words.
    Topic,
    /// To every queue.
    Fanout,
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its arguments, which RabbitMQ does not let change later.
    pub arguments: BTreeMap<&'static str, Argument>,
    /// What it is for.
    pub purpose: String,
}

/// A queue's argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// A word.
    Text(String),
    /// A number.
    Number(i64),
}

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// From this exchange
    pub exchange: String,
    /// by this routing key
    pub routing_key: String,
    /// to this queue.
    pub queue: String,
}

/// The names of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    prefix: String,
}

/// Where a message is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    /// How long a retry tier holds it; `None` for a direct route.
    pub(super) wait: Option<Duration>,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn with(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A queue's name on the broker: `echogen` is replaced by the installation's prefix. Other names, such as a client's own
    /// queue, are unchanged.
    pub(super) fn queue(&self, queue: &QueueName) -> String {
        queue.as_str().strip_prefix("echogen.").map_or_else(|| queue.as_str().to_owned(), |name| self.with(name))
    }

    pub(super) fn jobs(&self) -> String {
        self.with("jobs")
    }

    /// The route to a queue that a client may take: to a lane and partition by the exchange for jobs.
    pub(super) fn client_route(&self, queue: &QueueName) -> Route {
        match queue.place() {
            Some((StageName::Dispatcher, lane, Partition::ZERO)) => {
                Route { exchange: self.jobs(), routing_key: lane.to_string(), wait: None }
            }
            Some((StageName::Dispatcher, lane, partition)) => {
                Route { exchange: self.jobs(), routing_key: format!("{lane}.{partition}"), wait: None }
            }
            _ => self.route(queue),
        }
    }

    /// A name for a queue of one process, which listens to events.
    pub(super) fn listener(&self) -> String {
        self.with(&format!("events.{}", unique()))
    }

    pub(super) fn events(&self) -> String {
        self.with("events")
    }

    pub(super) fn event_relay(&self) -> String {
        self.with("events.relay")
    }

    /// The direct route to a queue.
    pub(super) fn route(&self, queue: &QueueName) -> Route {
        let routing_key = self.queue(queue);
        let exchange = self.with(if routing_key.ends_with(".dead") { "dead" } else { "tasks" });
        Route { exchange, routing_key, wait: None }
    }

    /// The route to a queue through the smallest tier for this delay.
    pub(super) fn delayed_route(&self, queue: &QueueName, delay: Duration) -> Result<Route, Fault> {
        // Rounded up: a message is never delivered before its delay has passed.
        let milliseconds = delay.as_nanos().div_ceil(1_000_000);
        if milliseconds == 0 {
            return Ok(self.route(queue));
        }
        let tier = TIERS.into_iter().find(|tier| milliseconds <= u128::from(*tier)).ok_or_else(|| {
            Fault::internal(format!("a delay of {delay:?} is longer than a day, the longest a retry may wait"))
        })?;
        let wait = Some(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(tier)));
        Ok(Route { exchange: self.tier(tier), routing_key: self.queue(queue), wait })
    }

    fn tier(&self, milliseconds: u64) -> String {
        self.with(&format!("retry.{milliseconds}ms"))
    }
}

/// A text that no other process has: its number alone is used again on other machines.
fn unique() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{time:x}-{:x}-{:x}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

impl Topology {
    /// What an installation with these settings declares.
    pub fn of(config: &AmqpConfig) -> Self {
        let names = Names::new(&config.prefix);
        let (exchanges, queues, bindings) = (Vec::new(), Vec::new(), Vec::new());
        let mut topology = Self { exchanges, queues, bindings, names, partitions: config.partitions() };
        topology.add_exchange(
            "jobs",
            ExchangeType::Direct,
            "clients put jobs here; the routing key is LANE or LANE.PARTITION",
        );
        topology.add_exchange("tasks", ExchangeType::Direct, "what is for a stage; the routing key is its queue");
        topology.add_exchange("events", ExchangeType::Topic, "what happens to jobs: job.<kind>.<job id>");
        topology.add_exchange("dead", ExchangeType::Direct, "what nobody could make anything of");
        for stage in StageName::ALL {
            topology.add_stage(config, stage);
        }
        for tier in TIERS {
            topology.add_tier(config, tier);
        }
        topology.add_event_relay(config);
        topology
    }

    /// Whether a queue of this name on the broker is one of the installation's.
    pub fn has_queue(&self, name: &str) -> bool {
        self.queues.iter().any(|queue| queue.name == name)
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    pub(super) fn partitions(&self) -> Partitions {
        self.partitions
    }

    /// The queues of a stage. Those of a stage that faces clients have the limits of the intake, so that the end of a job
    /// does not wait for a slow server of a client.
    fn add_stage(&mut self, config: &AmqpConfig, stage: StageName) {
        let limits = if stage.faces_clients() { config.intake() } else { config.stage() };
        let purpose = format!("{}, for the {stage}", stage.takes());
        let returned = stage.returned().map(|queue| self.names.queue(&queue));
        for queue in stage.queues(config.partitions()) {
            self.add_work_queue(config, &queue, limits, purpose.clone(), returned.as_deref());
            self.bind_for_clients(&queue);
        }
        if let Some(queue) = stage.unsplit() {
            self.add_work_queue(config, &queue, limits, "tasks of earlier versions".to_owned(), returned.as_deref());
        }
        for queue in stage.dead_lettered() {
            self.add_dead_letters(config, &queue);
        }
        if let Some(queue) = &returned {
            self.add_returned(config, stage, queue);
        }
    }

    /// Clients publish with a lane and a partition as the routing key; they know no queue's name. A lane alone is its
    /// partition 0.
    fn bind_for_clients(&mut self, queue: &QueueName) {
        let Some((StageName::Dispatcher, lane, partition)) = queue.place() else { return };
        let (jobs, name) = (self.names.jobs(), self.names.queue(queue));
        if partition == Partition::ZERO {
            self.bind(&jobs, lane.as_str(), &name);
        }
        self.bind(&jobs, &format!("{lane}.{partition}"), &name);
    }

    fn add_exchange(&mut self, name: &str, kind: ExchangeType, purpose: &'static str) {
        self.exchanges.push(Exchange { name: self.names.with(name), kind, purpose });
    }

    fn bind(&mut self, exchange: &str, routing_key: &str, queue: &str) {
        let (exchange, routing_key, queue) = (exchange.to_owned(), routing_key.to_owned(), queue.to_owned());
        self.bindings.push(Binding { exchange, routing_key, queue });
    }

    /// A queue of a stage. What the broker itself takes out of it goes to the queue `returned`, or to its dead letters.
    fn add_work_queue(
        &mut self,
        config: &AmqpConfig,
        queue: &QueueName,
        limits: QueueLimits,
        purpose: String,
        returned: Option<&str>,
    ) {
        let (name, dead_letters) = (self.names.queue(queue), self.names.queue(&queue.dead_letters()));
        let (tasks, dead) = (self.names.with("tasks"), self.names.with("dead"));
        let (exchange, routing_key) = returned.map_or((&dead, &dead_letters[..]), |returned| (&tasks, returned));
        let mut arguments = arguments(config, limits);
        arguments.insert("x-dead-letter-exchange", Argument::Text(exchange.clone()));
        arguments.insert("x-dead-letter-routing-key", Argument::Text(routing_key.to_owned()));
        if config.quorum {
            arguments.insert("x-delivery-limit", Argument::Number(config.delivery_limit.into()));
            arguments.insert("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned()));
        }
        self.queues.push(Queue { name: name.clone(), arguments, purpose });
        self.bind(&tasks, &name, &name);
    }

    /// The dead letters of a queue, and of those that share them.
    fn add_dead_letters(&mut self, config: &AmqpConfig, queue: &QueueName) {
        let name = self.names.queue(&queue.dead_letters());
        let mut arguments = arguments(config, config.dead_letters());
        if config.quorum {
            arguments.insert("x-delivery-limit", Argument::Number(DEAD_LETTER_DELIVERY_LIMIT));
        }
        self.queues.push(Queue { name: name.clone(), arguments, purpose: "dead letters".to_owned() });
        self.bind(&self.names.with("dead"), &name, &name);
    }

    /// A queue of returned messages. One that cannot be received even there is parked among the dead letters of a lane.
    fn add_returned(&mut self, config: &AmqpConfig, stage: StageName, name: &str) {
        let parked = QueueName::of(stage, Lane::Standard).dead_letters();
        let mut arguments = arguments(config, config.intake());
        arguments.insert("x-dead-letter-exchange", Argument::Text(self.names.with("dead")));
        arguments.insert("x-dead-letter-routing-key", Argument::Text(self.names.queue(&parked)));
        if config.quorum {
            arguments.insert("x-delivery-limit", Argument::Number(config.delivery_limit.into()));
            arguments.insert("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned()));
        }
        let purpose = "messages that expired or were delivered too often".to_owned();
        self.queues.push(Queue { name: name.to_owned(), arguments, purpose });
        self.bind(&self.names.with("tasks"), name, name);
    }

    fn add_tier(&mut self, config: &AmqpConfig, milliseconds: u64) {
        let name = self.names.tier(milliseconds);
        self.exchanges.push(Exchange {
            name: name.clone(),
            kind: ExchangeType::Fanout,
            purpose: "tries again later; the routing key is the queue to return to",
        });
        let mut arguments = arguments(config, config.stage());
        arguments.insert("x-message-ttl", Argument::Number(i64::try_from(milliseconds).unwrap_or(i64::MAX)));
        // No `x-dead-letter-routing-key`: an expired message keeps its routing key, which is the name of its queue.
        arguments.insert("x-dead-letter-exchange", Argument::Text(self.names.with("tasks")));
        if config.quorum {
            arguments.insert("x-delivery-limit", Argument::Number(config.delivery_limit.into()));
            arguments.insert("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned()));
        }
        self.queues.push(Queue { name: name.clone(), arguments, purpose: "waits for its next try".to_owned() });
        self.bind(&name, "", &name);
    }

    /// The relay of events; see [`event_route`](super::event_route). What expires in it is routed on at most once, so that
    /// it waits for no subscriber's queue.
    fn add_event_relay(&mut self, config: &AmqpConfig) {
        let name = self.names.event_relay();
        self.add_exchange("events.relay", ExchangeType::Fanout, "events while a subscriber's queue is stuck");
        let mut arguments = arguments(config, config.stage());
        arguments.insert("x-message-ttl", Argument::Number(0));
        if config.quorum {
            arguments.insert("x-delivery-limit", Argument::Number(config.delivery_limit.into()));
        }
        // No `x-dead-letter-routing-key`: an event keeps its topic.
        arguments.insert("x-dead-letter-exchange", Argument::Text(self.names.events()));
        let purpose = "routes events on without waiting for subscribers".to_owned();
        self.queues.push(Queue { name: name.clone(), arguments, purpose });
        self.bind(&name, "", &name);
    }
}

/// The arguments of every queue: its type, its limits, and that publishing beyond them is rejected.
fn arguments(config: &AmqpConfig, limits: QueueLimits) -> BTreeMap<&'static str, Argument> {
    let bytes = i64::try_from(limits.max_bytes).unwrap_or(i64::MAX);
    let mut arguments = BTreeMap::from([
        ("x-max-length", Argument::Number(limits.max_messages.into())),
        ("x-max-length-bytes", Argument::Number(bytes)),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ]);
    if config.quorum {
        arguments.insert("x-queue-type", Argument::Text("quorum".to_owned()));
    }
    if let (true, Some(size)) = (config.quorum, config.initial_group_size) {
        arguments.insert("x-quorum-initial-group-size", Argument::Number(size.into()));
    }
    arguments
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Display for ExchangeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Fanout => "fanout",
        })
    }
}

impl fmt::Display for Topology {
    /// Writes tables for operators.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.queues.iter().map(|queue| queue.name.len()).max().unwrap_or(0);
        writeln!(f, "exchanges (durable)")?;
        for Exchange { name, kind, purpose } in &self.exchanges {
            writeln!(f, "  {name:width$}  {kind:6}  {purpose}")?;
        }
        writeln!(f, "\nqueues (durable)")?;
        for Queue { name, arguments, purpose } in &self.queues {
            writeln!(f, "  {name:width$}  {purpose}")?;
            let arguments: Vec<String> = arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
            writeln!(f, "  {:width$}    {}", "", arguments.join(" "))?;
        }
        writeln!(f, "\nbindings (exchange, routing key, queue)")?;
        let key = self.bindings.iter().map(|binding| binding.routing_key.len()).max().unwrap_or(0);
        for Binding { exchange, routing_key, queue } in &self.bindings {
            writeln!(f, "  {exchange:width$}  {routing_key:key$}  {queue}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
