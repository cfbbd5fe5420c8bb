//! Durable queues of tasks, and the events of a job's way.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_protocol::{Job, JobEvent, QueueName, ReplyTo, StageTask, TaskHeaders};
use jiff::Timestamp;

use crate::Fault;

/// One message as it is published: a JSON body and text headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The body.
    pub body: Bytes,
    /// Attempt counter, trace context and the like.
    pub headers: BTreeMap<String, String>,
}

impl Message {
    /// A task with its headers.
    pub fn of_task<T: StageTask>(task: &T, headers: &TaskHeaders) -> Self {
        Self { body: task.to_json().into(), headers: headers.to_map() }
    }

    /// A new job for its [intake queue](StageTask::queue).
    pub fn of_job(job: &Job, now: Timestamp) -> Self {
        let headers = TaskHeaders { first_seen: Some(now), job: Some(job.id.to_string()), ..TaskHeaders::default() };
        Self::of_task(job, &headers)
    }

    /// The same message as part of a trace, whose position is written like a `traceparent`.
    #[must_use]
    pub fn in_trace(mut self, traceparent: String) -> Self {
        self.headers.insert(TaskHeaders::TRACEPARENT_HEADER.to_owned(), traceparent);
        self
    }
}

/// The header in which a dead letter carries its reason.
pub const DEAD_LETTER_REASON: &str = "echogen-dead-letter-reason";

/// Something that happened to a job, for whoever listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Words joined by dots, such as `job.completed.<id>`.
    pub topic: String,
    /// JSON.
    pub body: Bytes,
    /// Who asked to be told besides the listeners.
    pub reply: Option<ReplyTo>,
}

impl Event {
    /// A job's event under its topic.
    pub fn of_job(event: &JobEvent) -> Self {
        Self { topic: event.topic(), body: serde_json::to_vec(event).unwrap_or_default().into(), reply: None }
    }

    /// The same event, also for the one who asked.
    #[must_use]
    pub fn replying_to(self, reply: Option<ReplyTo>) -> Self {
        Self { reply, ..self }
    }

    /// Reads a job's event; `None` if it is something else.
    pub fn to_job(&self) -> Option<JobEvent> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Whether the topic is `prefix` or goes on from it with further words. The empty prefix covers every topic.
    pub fn is_under(&self, prefix: &str) -> bool {
        let Some(rest) = self.topic.strip_prefix(prefix) else { return false };
        prefix.is_empty() || rest.is_empty() || rest.starts_with('.')
    }
}

/// Queues with acknowledgement. At least once: a message may come twice, never not at all. Messages of one queue come
/// about in the order of publishing; nothing may depend on it.
#[async_trait]
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Publishes to a queue; returns only when the broker has taken the message over (a confirm that is an ack).
    /// After a failure it may have been taken over all the same: the caller publishes again.
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault>;

    /// The same, but consumers see the message only after `delay`, or somewhat later. It is as durable meanwhile.
    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault>;

    /// Parks a message in [`QueueName::dead_letters`] of `queue`, its headers completed by [`DEAD_LETTER_REASON`];
    /// returns only when the broker has taken it over.
    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault>;

    /// Starts to consume. At most `prefetch` deliveries (at least 1) are out and unsettled at any time. Any number of
    /// consumers may share a queue; each message goes to one of them.
    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault>;

    /// Tells whoever listens, and the queue of [`Event::reply`]; not durable for those who don't listen. A reply to a
    /// queue that is gone is lost, and that is no error.
    async fn publish_event(&self, event: Event) -> Result<(), Fault>;

    /// Listens, from now on, to events that are [under](Event::is_under) `prefix`.
    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault>;
}

/// A running consumer of one queue. Dropping it puts back what was not settled; settling such a delivery later is a
/// transient error. So it is kept until the last delivery is settled.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery; `None` when the consumer has ended. Cancel safe.
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault>;

    /// Takes nothing more: what has come and was not received goes back to its queue at once, and what comes from now on goes
    /// to others. What is in hand can still be settled.
    async fn stop(&mut self);
}

/// Settles one delivery.
#[async_trait]
pub trait Settle: Send + Sync {
    /// The work is done and its product stored: the message goes for good.
    async fn ack(self: Box<Self>) -> Result<(), Fault>;

    /// The work was not done: the message goes back to its queue at once.
    async fn requeue(self: Box<Self>) -> Result<(), Fault>;
}

/// One receipt of a message. Dropping it unsettled puts the message back.
pub struct Delivery {
    /// What was published.
    pub message: Message,
    /// How often the broker has handed it out before without its being settled by an ack; 0 the first time. A broker
    /// that knows only whether, not how often, says 1.
    pub redeliveries: u32,
    settle: Box<dyn Settle>,
}

impl Delivery {
    /// For adapters: a message and how to settle it.
    pub fn new(message: Message, redeliveries: u32, settle: Box<dyn Settle>) -> Self {
        Self { message, redeliveries, settle }
    }

    /// Acknowledges; see [`Settle::ack`].
    pub async fn ack(self) -> Result<(), Fault> {
        self.settle.ack().await
    }

    /// Puts it back; see [`Settle::requeue`].
    pub async fn requeue(self) -> Result<(), Fault> {
        self.settle.requeue().await
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("message", &self.message)
            .field("redeliveries", &self.redeliveries)
            .finish_non_exhaustive()
    }
}

/// Events as they come.
#[async_trait]
pub trait EventStream: Send {
    /// Waits for the next event; `None` when the broker is gone. Cancel safe.
    async fn next(&mut self) -> Option<Event>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_words() {
        let event = Event { topic: "job.completed.one".to_owned(), body: Bytes::new(), reply: None };
        for prefix in ["", "job", "job.completed", "job.completed.one"] {
            assert!(event.is_under(prefix), "{prefix}");
        }
        for prefix in ["job.comp", "job.completed.on", "completed", "job.completed.one.two"] {
            assert!(!event.is_under(prefix), "{prefix}");
        }
    }
}
