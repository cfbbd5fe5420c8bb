//! Durable queues of tasks, and the events of a job's way.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::PortError;

/// The name of a queue, such as `echogen.segment`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(pub String);

/// One message as it is published: a JSON body and text headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The body.
    pub body: Bytes,
    /// Attempt counter, trace context and the like.
    pub headers: BTreeMap<String, String>,
}

/// Something that happened to a job, for whoever listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Such as `job.completed.<id>`.
    pub topic: String,
    /// JSON.
    pub body: Bytes,
}

/// Queues with acknowledgement. At least once: a message may come twice, never not at all.
#[async_trait]
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Publishes to a queue; returns only when the broker has taken the message over (a confirm that is an ack).
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), PortError>;

    /// The same, but the message is seen by consumers only after `delay`.
    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), PortError>;

    /// Parks a message in the dead-letter queue of `queue`, with the reason in its headers.
    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), PortError>;

    /// Starts to consume. At most `prefetch` deliveries are out and unacknowledged at any time.
    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, PortError>;

    /// Tells whoever listens; not durable for those who don't.
    async fn publish_event(&self, event: Event) -> Result<(), PortError>;

    /// Listens to events from now on whose topic begins with `prefix`.
    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, PortError>;
}

/// A running consumer of one queue. Dropping it puts back what was not acknowledged.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery; `None` when the consumer has ended. Cancel safe.
    async fn receive(&mut self) -> Result<Option<Delivery>, PortError>;
}

/// Settles one delivery.
#[async_trait]
pub trait Settle: Send + Sync {
    /// The work is done and its product stored: the message goes for good.
    async fn ack(self: Box<Self>) -> Result<(), PortError>;

    /// The work was not done: the message goes back to its queue at once.
    async fn requeue(self: Box<Self>) -> Result<(), PortError>;
}

/// One receipt of a message. Dropping it unsettled puts the message back.
pub struct Delivery {
    /// What was published.
    pub message: Message,
    /// Whether the broker has handed it out before.
    pub redelivered: bool,
    settle: Box<dyn Settle>,
}

impl Delivery {
    /// For adapters: a message and how to settle it.
    pub fn new(message: Message, redelivered: bool, settle: Box<dyn Settle>) -> Self {
        Self { message, redelivered, settle }
    }

    /// Acknowledges; see [`Settle::ack`].
    pub async fn ack(self) -> Result<(), PortError> {
        self.settle.ack().await
    }

    /// Puts it back; see [`Settle::requeue`].
    pub async fn requeue(self) -> Result<(), PortError> {
        self.settle.requeue().await
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

/// Events as they come.
#[async_trait]
pub trait EventStream: Send {
    /// Waits for the next event; `None` when the broker is gone. Cancel safe.
    async fn next(&mut self) -> Option<Event>;
}
