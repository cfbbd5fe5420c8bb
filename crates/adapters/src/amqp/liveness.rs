//! Whether the broker still delivers messages: the condition under which a worker counts as alive.

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
pub struct QueueConsumption {
    /// The queue.
    pub queue: QueueName,
    /// Whether at least one consumer receives its messages.
    pub consuming: bool,
    /// Since when there is one, as precisely as it was checked; without one, the last attempt to have one.
    pub since: Instant,
}

/// The consumers of a broker handle, by queue. A queue stays registered after its first attempt to consume it.
#[derive(Debug, Default)]
pub(super) struct ConsumerRegistry(Mutex<BTreeMap<QueueName, QueueConsumers>>);

#[derive(Debug)]
struct QueueConsumers {
    live: Vec<Liveness>,
    consuming: bool,
    since: Instant,
}

/// Whether one consumer is live; clones share its state.
#[derive(Clone, Debug)]
pub(super) struct Liveness {
    channel: ChannelStatus,
    /// Set when the consumer is dropped or the broker has cancelled it.
    ended: Arc<AtomicBool>,
}

impl Liveness {
    pub(super) fn new(channel: ChannelStatus) -> Self {
        Self { channel, ended: Arc::new(AtomicBool::new(false)) }
    }

    /// Whether deliveries arrive and can be settled. False as soon as the connection is lost, also while no caller is in
    /// `receive`.
    pub(super) fn is_live(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && self.channel.connected()
    }

    /// Marks the consumer as ended, for good.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl ConsumerRegistry {
    /// Registers an attempt to consume a queue, so that a failed one shows as "not consuming".
    pub(super) fn add_queue(&self, queue: &QueueName) {
        let mut queues = self.lock();
        let consumers = queues.entry(queue.clone()).or_insert_with(QueueConsumers::none);
        consumers.update();
        if !consumers.consuming {
            consumers.since = Instant::now();
        }
    }

    /// Registers a consumer that has started.
    pub(super) fn add_consumer(&self, queue: &QueueName, liveness: Liveness) {
        let mut queues = self.lock();
        let consumers = queues.entry(queue.clone()).or_insert_with(QueueConsumers::none);
        consumers.live.push(liveness);
        consumers.update();
    }

    /// Checks all consumers and returns the state of every queue.
    pub(super) fn consumption(&self) -> Vec<QueueConsumption> {
        let mut queues = self.lock();
        let state = |(queue, consumers): (&QueueName, &mut QueueConsumers)| {
            consumers.update();
            QueueConsumption { queue: queue.clone(), consuming: consumers.consuming, since: consumers.since }
        };
        queues.iter_mut().map(state).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<QueueName, QueueConsumers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueConsumers {
    fn none() -> Self {
        Self { live: Vec::new(), consuming: false, since: Instant::now() }
    }

    /// Removes the consumers that have ended.
    fn update(&mut self) {
        self.live.retain(Liveness::is_live);
        let consuming = !self.live.is_empty();
        if consuming != self.consuming {
            (self.consuming, self.since) = (consuming, Instant::now());
        }
    }
}
