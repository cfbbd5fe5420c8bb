//! Looking through the in-memory broker's queues.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{MemoryBroker, Shared, lock};
use crate::{Browse, Browsed, Browser, Fault, QueueName};

struct MemoryBrowser {
    shared: Arc<Shared>,
    queue: QueueName,
    number: u64,
    /// How many messages may still be taken.
    left: u64,
}

#[async_trait]
impl Browse for MemoryBroker {
    async fn depth(&self, queue: &QueueName) -> Result<u64, Fault> {
        let mut state = lock(&self.shared.state);
        let queue = state.queue(queue);
        queue.wake(Instant::now());
        Ok(u64::try_from(queue.ready.len()).unwrap_or(u64::MAX))
    }

    async fn browse(&self, queue: &QueueName, count: u64) -> Result<Box<dyn Browser>, Fault> {
        let number = lock(&self.shared.state).next_number();
        Ok(Box::new(MemoryBrowser { shared: Arc::clone(&self.shared), queue: queue.clone(), number, left: count }))
    }
}

#[async_trait]
impl Browser for MemoryBrowser {
    async fn next(&mut self) -> Result<Option<Browsed>, Fault> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        let taken = lock(&self.shared.state).take(&self.queue, self.number);
        // Once the queue was empty, what arrives later is not among the messages that were asked for.
        self.left = if taken.is_ok() { left } else { 0 };
        Ok(taken.ok().map(|(tag, message, _)| Browsed { message, tag }))
    }

    async fn remove(&mut self, tag: u64) -> Result<(), Fault> {
        let removed = lock(&self.shared.state).unsettled.remove(&tag);
        removed.map(drop).ok_or_else(|| Fault::internal("there is no such message to remove"))
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

impl Drop for MemoryBrowser {
    fn drop(&mut self) {
        self.shared.requeue_all(self.number);
    }
}
