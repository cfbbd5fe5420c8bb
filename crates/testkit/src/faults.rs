//! Ports that fail on purpose: the first N calls, twice the message, a cut between publish and ack.

use std::{
    collections::VecDeque,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{
    Broker, Cache, Consumer, Delivery, Event, EventStream, Fault, FencingToken, Message, ObjectKey, ObjectStore,
    QueueName, Settle,
};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

/// Fails the first N reading or writing calls (not `consume` and `subscribe`) with a transient fault.
#[derive(Debug)]
pub struct FailFirst<P> {
    inner: P,
    left: AtomicU32,
}

impl<P> FailFirst<P> {
    /// `inner`, whose next `calls` calls fail.
    pub fn new(inner: P, calls: u32) -> Self {
        Self { inner, left: AtomicU32::new(calls) }
    }

    /// The number of calls that will still fail.
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::SeqCst)
    }

    fn call(&self) -> Result<&P, Fault> {
        if take_one(&self.left) { Err(Fault::unavailable("failed on purpose")) } else { Ok(&self.inner) }
    }
}

fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl<P: ObjectStore> ObjectStore for FailFirst<P> {
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        self.call()?.get(key, max_bytes).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault> {
        self.call()?.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        self.call()?.put_if_absent(key, bytes).await
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        self.call()?.exists(key).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault> {
        self.call()?.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault> {
        self.call()?.list(prefix, after, limit).await
    }
}

#[async_trait]
impl<P: Cache> Cache for FailFirst<P> {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        self.call()?.get(key).await
    }

    async fn contains(&self, key: &str) -> Result<bool, Fault> {
        self.call()?.contains(key).await
    }

    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), Fault> {
        self.call()?.put(key, value, ttl).await
    }

    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, Fault> {
        self.call()?.acquire_lease(key, ttl).await
    }

    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, Fault> {
        self.call()?.renew_lease(key, token, ttl).await
    }

    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, Fault> {
        self.call()?.release_lease(key, token).await
    }
}

#[async_trait]
impl<P: Broker> Broker for FailFirst<P> {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.call()?.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.call()?.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.call()?.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        self.inner.consume(queue, prefetch).await
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.call()?.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.inner.subscribe(prefix).await
    }
}

/// Publishes every message twice, as happens when a confirm is lost.
#[derive(Debug)]
pub struct Duplicating<B>(pub B);

#[async_trait]
impl<B: Broker> Broker for Duplicating<B> {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.0.publish(queue, message.clone()).await?;
        self.0.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.0.publish_after(queue, message.clone(), delay).await?;
        self.0.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.0.dead_letter(queue, message.clone(), reason).await?;
        self.0.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        self.0.consume(queue, prefetch).await
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.0.publish_event(event.clone()).await?;
        self.0.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.0.subscribe(prefix).await
    }
}

/// Loses the first N acknowledgements: the message is requeued although its work is done, as when a worker dies between
/// publish and acknowledgement.
#[derive(Debug)]
pub struct LostAcks<B> {
    inner: B,
    left: Arc<AtomicU32>,
}

impl<B> LostAcks<B> {
    /// `inner`, whose next `acks` acks are lost.
    pub fn new(inner: B, acks: u32) -> Self {
        Self { inner, left: Arc::new(AtomicU32::new(acks)) }
    }
}

#[async_trait]
impl<B: Broker> Broker for LostAcks<B> {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.inner.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.inner.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.inner.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        let inner = self.inner.consume(queue, prefetch).await?;
        Ok(Box::new(LosingConsumer { inner, left: Arc::clone(&self.left) }))
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.inner.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.inner.subscribe(prefix).await
    }
}

/// Ignores the prefetch limit.
#[derive(Debug)]
pub struct IgnoresPrefetch<B>(pub B);

#[async_trait]
impl<B: Broker> Broker for IgnoresPrefetch<B> {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.0.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.0.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.0.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, _: u16) -> Result<Box<dyn Consumer>, Fault> {
        self.0.consume(queue, u16::MAX).await
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.0.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.0.subscribe(prefix).await
    }
}

/// Receives messages ahead, as many as the prefetch allows, as clients of real brokers do: prefetched messages are
/// redelivered when the client dies, and count as delivered.
#[derive(Debug)]
pub struct ReceivesAhead<B>(pub B);

#[async_trait]
impl<B: Broker> Broker for ReceivesAhead<B> {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.0.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.0.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.0.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        let inner = self.0.consume(queue, prefetch).await?;
        Ok(Box::new(AheadConsumer { ahead: VecDeque::new(), inner }))
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.0.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.0.subscribe(prefix).await
    }
}

/// A broker whose connections can be cut: all consumers end, and what they have handed out and nobody has settled goes back.
#[derive(Debug)]
pub struct CutConnections<B> {
    inner: B,
    open: std::sync::Mutex<Vec<CutLine>>,
}

#[derive(Clone)]
struct CutLine {
    cut: CancellationToken,
    /// Empty once it is cut.
    consumer: Arc<tokio::sync::Mutex<Option<Box<dyn Consumer>>>>,
}

impl std::fmt::Debug for CutLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CutLine").field("is_cut", &self.cut.is_cancelled()).finish_non_exhaustive()
    }
}

impl<B> CutConnections<B> {
    /// `inner`, whose connections stand until they are cut.
    pub fn new(inner: B) -> Self {
        Self { inner, open: std::sync::Mutex::default() }
    }

    /// Cuts the connections of all consumers that there are. Those who consume from now on have new ones.
    pub async fn cut(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for line in open {
            line.cut.cancel();
            line.consumer.lock().await.take();
        }
    }
}

#[async_trait]
impl<B: Broker> Broker for CutConnections<B> {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.inner.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.inner.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.inner.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        let consumer = self.inner.consume(queue, prefetch).await?;
        let line =
            CutLine { cut: CancellationToken::new(), consumer: Arc::new(tokio::sync::Mutex::new(Some(consumer))) };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        Ok(Box::new(line))
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.inner.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.inner.subscribe(prefix).await
    }
}

#[async_trait]
impl Consumer for CutLine {
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault> {
        let received = async {
            match &mut *self.consumer.lock().await {
                Some(consumer) => consumer.receive().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(Fault::unavailable("the connection was cut on purpose")),
            received = received => received,
        }
    }

    async fn cancel(&mut self) {
        if let Some(consumer) = &mut *self.consumer.lock().await {
            consumer.cancel().await;
        }
    }

    async fn stop(&mut self) {
        if let Some(consumer) = &mut *self.consumer.lock().await {
            consumer.stop().await;
        }
    }
}

struct AheadConsumer {
    ahead: VecDeque<Delivery>,
    inner: Box<dyn Consumer>,
}

#[async_trait]
impl Consumer for AheadConsumer {
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault> {
        while let Some(received) = self.inner.receive().now_or_never() {
            let Some(delivery) = received? else { break };
            self.ahead.push_back(delivery);
        }
        match self.ahead.pop_front() {
            Some(delivery) => Ok(Some(delivery)),
            None => self.inner.receive().await,
        }
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }

    async fn stop(&mut self) {
        self.inner.stop().await;
        self.ahead.clear();
    }
}

struct LosingConsumer {
    inner: Box<dyn Consumer>,
    left: Arc<AtomicU32>,
}

#[async_trait]
impl Consumer for LosingConsumer {
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault> {
        let Some(delivery) = self.inner.receive().await? else { return Ok(None) };
        let (message, redeliveries) = (delivery.message.clone(), delivery.redeliveries);
        let settle = LosingSettle { delivery, left: Arc::clone(&self.left) };
        Ok(Some(Delivery::new(message, redeliveries, Box::new(settle))))
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }

    async fn stop(&mut self) {
        self.inner.stop().await;
    }
}

struct LosingSettle {
    delivery: Delivery,
    left: Arc<AtomicU32>,
}

#[async_trait]
impl Settle for LosingSettle {
    async fn ack(self: Box<Self>) -> Result<(), Fault> {
        if take_one(&self.left) {
            self.delivery.requeue().await?;
            return Err(Fault::unavailable("ack lost on purpose"));
        }
        self.delivery.ack().await
    }

    async fn requeue(self: Box<Self>) -> Result<(), Fault> {
        self.delivery.requeue().await
    }
}

#[cfg(test)]
mod tests {
    use echogen_ports::{MemoryBroker, MemoryObjectStore};
    use echogen_protocol::{Lane, StageName};

    use super::*;

    #[tokio::test]
    async fn the_first_calls_fail_and_change_nothing() {
        let store = FailFirst::new(MemoryObjectStore::new(), 2);
        let key = ObjectKey::new("a").unwrap();
        assert!(!store.put(&key, "1".into()).await.unwrap_err().is_permanent());
        assert!(store.exists(&key).await.is_err());
        assert_eq!(store.left(), 0);
        assert!(!store.exists(&key).await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_ack_brings_the_message_again() {
        let broker = LostAcks::new(MemoryBroker::new(), 1);
        let queue = QueueName::of(StageName::Sampler, Lane::Standard);
        broker.publish(&queue, Message::default()).await.unwrap();
        let mut consumer = broker.consume(&queue, 1).await.unwrap();
        assert!(consumer.receive().await.unwrap().unwrap().ack().await.is_err());
        let again = consumer.receive().await.unwrap().unwrap();
        assert_eq!(again.redeliveries, 1);
        again.ack().await.unwrap();
        assert_eq!((broker.inner.waiting(&queue), broker.inner.unsettled()), (0, 0));
    }

    #[tokio::test]
    async fn what_is_taken_ahead_comes_back_and_counts() {
        let (inner, queue) = (MemoryBroker::new(), QueueName::of(StageName::Sampler, Lane::Standard));
        let broker = ReceivesAhead(inner.clone());
        for _ in 0..5 {
            broker.publish(&queue, Message::default()).await.unwrap();
        }
        let mut consumer = broker.consume(&queue, 3).await.unwrap();
        consumer.receive().await.unwrap().unwrap().ack().await.unwrap();
        assert_eq!((inner.unsettled(), inner.waiting(&queue)), (2, 2), "two more are in hand");
        drop(consumer);
        let mut consumer = broker.consume(&queue, 9).await.unwrap();
        let mut redeliveries = Vec::new();
        for _ in 0..4 {
            let delivery = consumer.receive().await.unwrap().unwrap();
            redeliveries.push(delivery.redeliveries);
            delivery.ack().await.unwrap();
        }
        assert_eq!(redeliveries, [1, 1, 0, 0]);
    }

    #[tokio::test]
    async fn duplicates_come_twice() {
        let broker = Duplicating(MemoryBroker::new());
        broker.publish(&QueueName::of(StageName::Sampler, Lane::Standard), Message::default()).await.unwrap();
        assert_eq!(broker.0.waiting(&QueueName::of(StageName::Sampler, Lane::Standard)), 2);
    }
}
