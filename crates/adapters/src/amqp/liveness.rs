//! Whether the broker still hands out messages: what "alive" means for a worker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use echogen_ports::QueueName;
use lapin::ChannelStatus;

/// The state of the consumers of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consuming {
    /// The queue.
    pub queue: QueueName,
    /// Whether at least one consumer of it gets messages.
    pub consuming: bool,
    /// Since when, as far as anybody has looked.
    pub since: Instant,
}

/// All consumers of a broker handle, by queue. A queue stays listed once somebody has begun to consume it.
#[derive(Debug, Default)]
pub(super) struct Liveness(Mutex<BTreeMap<QueueName, Consumers>>);

#[derive(Debug)]
struct Consumers {
    active: Vec<Pulse>,
    consuming: bool,
    since: Instant,
}

/// A consumer's sign of life.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    channel: ChannelStatus,
    /// Set when the consumer is dropped or the broker has cancelled it.
    ended: Arc<AtomicBool>,
}

impl Pulse {
    pub(super) fn new(channel: ChannelStatus) -> Self {
        Self { channel, ended: Arc::new(AtomicBool::new(false)) }
    }

    /// Whether deliveries come and can be settled. A lost connection shows here before anybody receives.
    pub(super) fn beats(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && self.channel.connected()
    }

    /// Returns whether it has not been ended before.
    pub(super) fn end(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }
}

impl Liveness {
    /// Lists a queue that somebody wants to consume.
    pub(super) fn wanted(&self, queue: &QueueName) {
        let mut queues = self.lock();
        queues.entry(queue.clone()).or_insert_with(Consumers::none);
    }

    /// Adds a consumer that runs.
    pub(super) fn add(&self, queue: &QueueName, pulse: Pulse) {
        let mut queues = self.lock();
        let consumers = queues.entry(queue.clone()).or_insert_with(Consumers::none);
        consumers.active.push(pulse);
        consumers.look();
    }

    /// Looks at all of them.
    pub(super) fn look(&self) -> Vec<Consuming> {
        let mut queues = self.lock();
        let look = |(queue, consumers): (&QueueName, &mut Consumers)| {
            consumers.look();
            Consuming { queue: queue.clone(), consuming: consumers.consuming, since: consumers.since }
        };
        queues.iter_mut().map(look).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<QueueName, Consumers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Consumers {
    fn none() -> Self {
        Self { active: Vec::new(), consuming: false, since: Instant::now() }
    }

    fn look(&mut self) {
        self.active.retain(Pulse::beats);
        let consuming = !self.active.is_empty();
        if consuming != self.consuming {
            (self.consuming, self.since) = (consuming, Instant::now());
        }
    }
}
