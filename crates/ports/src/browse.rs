//! Looking through a queue without working on it: for the commands of operators.

use async_trait::async_trait;

use crate::{Broker, Fault, Message, QueueName};

/// A broker whose queues can be looked through.
#[async_trait]
pub trait Browse: Broker {
    /// Returns how many messages are ready in a queue: neither delayed nor delivered to somebody. A queue that does not
    /// exist has none.
    async fn depth(&self, queue: &QueueName) -> Result<u64, Fault>;

    /// Opens a queue to take at most `count` messages, the oldest first.
    async fn browse(&self, queue: &QueueName, count: u64) -> Result<Box<dyn Browser>, Fault>;
}

/// Takes messages out of a queue, one after the other. What is not removed stays in the queue: nobody else receives it
/// meanwhile, and it is back when the browser ends. Memory does not grow with the messages' size.
#[async_trait]
pub trait Browser: Send {
    /// Takes the next message; `None` after the given number of messages, or when none is ready. It never waits for a message
    /// to arrive. Cancel safe.
    async fn next(&mut self) -> Result<Option<Browsed>, Fault>;

    /// Removes a message from the queue for good. If the connection is lost before the next [`Browser::flush`], it may come
    /// back.
    async fn remove(&mut self, tag: u64) -> Result<(), Fault>;

    /// Waits until the broker has processed every removal.
    async fn flush(&mut self) -> Result<(), Fault>;

    /// Returns every message that was not removed to the queue, in the queue's order. Dropping the browser returns them as
    /// well, in any order.
    async fn close(self: Box<Self>) -> Result<(), Fault>;
}

/// A message that a [`Browser`] has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browsed {
    /// What was published.
    pub message: Message,
    /// What names it to [`Browser::remove`].
    pub tag: u64,
}
