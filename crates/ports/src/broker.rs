//! Durable queues of tasks, and events of jobs.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_protocol::{
    Job, JobEvent, QueueName, ReplyTo, StageTask, TaskHeaders,
    json::{self, Bounds},
};
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

    /// The same message as a dead letter of `queue`, parked now.
    #[must_use]
    pub fn parked(mut self, queue: &QueueName, reason: &str) -> Self {
        self.headers.insert(DEAD_LETTER_QUEUE.to_owned(), queue.to_string());
        self.headers.insert(DEAD_LETTER_REASON.to_owned(), reason.to_owned());
        self.headers.insert(DEAD_LETTER_TIME.to_owned(), Timestamp::now().to_string());
        self
    }
}

/// The header with the queue of a dead letter, without the installation's prefix: several queues share one for their dead
/// letters.
pub const DEAD_LETTER_QUEUE: &str = "echogen-dead-letter-queue";

/// The header with the reason of a dead letter.
pub const DEAD_LETTER_REASON: &str = "echogen-dead-letter-reason";

/// The header with the time at which a dead letter was parked.
pub const DEAD_LETTER_TIME: &str = "echogen-dead-letter-time";

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Words joined by dots, such as `job.completed.<id>`.
    pub topic: String,
    /// JSON.
    pub body: Bytes,
    /// Who receives it.
    pub recipient: Recipient,
}

/// Who receives an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Everybody who is subscribed to its topic.
    Subscribers,
    /// The client's reply queue alone.
    ReplyQueue(ReplyTo),
}

impl Event {
    /// A job's event under its topic, for all subscribers.
    pub fn of_job(event: &JobEvent) -> Self {
        let body = serde_json::to_vec(event).unwrap_or_default().into();
        Self { topic: event.topic(), body, recipient: Recipient::Subscribers }
    }

    /// The same event, for a reply queue.
    #[must_use]
    pub fn replying_to(self, reply: ReplyTo) -> Self {
        Self { recipient: Recipient::ReplyQueue(reply), ..self }
    }

    /// Reads a job's event; `None` if it is something else.
    pub fn to_job(&self) -> Option<JobEvent> {
        json::read(&self.body, &Bounds::MESSAGE).ok()
    }

    /// Whether the topic is `prefix` or continues it with further words. A word `*` of the prefix stands for any one word.
    /// The empty prefix covers every topic.
    pub fn is_under(&self, prefix: &str) -> bool {
        let mut words = self.topic.split('.');
        prefix.is_empty()
            || prefix.split('.').all(|asked| words.next().is_some_and(|word| asked == "*" || asked == word))
    }
}

/// Queues with acknowledgement. At least once: a message may be delivered twice, but is never lost. Messages of a queue
/// are delivered roughly in the order of publishing; nothing may depend on it.
#[async_trait]
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Publishes to a queue; returns only when the broker has confirmed the message (ack). After an error it may have
    /// been accepted nevertheless: the caller publishes again.
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault>;

    /// The same, but consumers receive the message only after `delay`, or somewhat later. It is durable meanwhile.
    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault>;

    /// Parks a message in [`QueueName::dead_letters`] of `queue`, with the headers of [`Message::parked`] added; returns only
    /// when the broker has confirmed it.
    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault>;

    /// Starts to consume. At most `prefetch` deliveries (at least 1) are unsettled at any time. Any number of consumers
    /// may share a queue; each message is delivered to one of them. Cancel safe: an attempt that is dropped leaves no consumer.
    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault>;

    /// Publishes an event to its recipient. Who is not subscribed does not receive it later.
    ///
    /// An error says that not every recipient has it: those that do receive it again when the caller publishes it again,
    /// and know it by its id. Queues of subscribers and reply queues are the clients' own: one that takes nothing delays
    /// this call for a second or so and never the calls after it. A reply to a queue that does not exist is
    /// [not found](crate::FaultKind::NotFound).
    async fn publish_event(&self, event: Event) -> Result<(), Fault>;

    /// Subscribes, from now on, to events that are [under](Event::is_under) `prefix`.
    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault>;
}

/// A running consumer of one queue. Dropping it requeues unsettled deliveries; settling one of them later is a
/// transient error. So it must be kept until the last delivery is settled.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for the next delivery; `None` when the consumer has ended. Cancel safe.
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault>;

    /// Takes no more messages, and keeps those that have come: they are still received, and after the last of them
    /// [`receive`](Self::receive) returns `None`. Later messages are delivered to other consumers.
    async fn cancel(&mut self);

    /// Stops consuming: prefetched messages that were not received are requeued at once, and later ones are delivered
    /// to other consumers. Received deliveries can still be settled.
    async fn stop(&mut self);
}

/// Settles one delivery.
#[async_trait]
pub trait Settle: Send + Sync {
    /// The work is done and its product stored: the message is removed.
    async fn ack(self: Box<Self>) -> Result<(), Fault>;

    /// The work was not done: the message is requeued at once.
    async fn requeue(self: Box<Self>) -> Result<(), Fault>;
}

/// One receipt of a message. Dropping it unsettled requeues the message.
pub struct Delivery {
    /// What was published.
    pub message: Message,
    /// How often the broker has delivered it before without an acknowledgement; 0 the first time. A broker that knows
    /// only whether it did reports 1.
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

    /// Requeues; see [`Settle::requeue`].
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
    /// Waits for the next event; `None` when the subscription has ended. Cancel safe.
    async fn next(&mut self) -> Option<Event>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_words() {
        let event =
            Event { topic: "job.completed.one".to_owned(), body: Bytes::new(), recipient: Recipient::Subscribers };
        for prefix in ["", "job", "job.completed", "job.completed.one", "*", "job.*", "job.*.one", "*.*.*"] {
            assert!(event.is_under(prefix), "{prefix}");
        }
        for prefix in ["job.comp", "job.completed.on", "completed", "job.completed.one.two", "job.*.two", "*.*.*.*"] {
            assert!(!event.is_under(prefix), "{prefix}");
        }
        let dotted = Event { topic: "job.completed.one.two".to_owned(), ..event };
        assert!(dotted.is_under("job.*.one.two") && dotted.is_under("job.*.one") && !dotted.is_under("job.*.two"));
    }
}
