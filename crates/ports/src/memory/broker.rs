//! The in-memory broker: queues in one process, with prefetch, redelivery, delay, dead letters and events.

mod browser;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_protocol::ReplyTo;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until},
};

use super::lock;
use crate::{Broker, Consumer, Delivery, Event, EventStream, Fault, Message, QueueName, Recipient, Settle};

/// Queues and events in memory. A queue is created when it is first named.
#[derive(Clone, Default)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified whenever a message may have become visible.
    arrived: Notify,
}

#[derive(Default)]
struct State {
    queues: HashMap<QueueName, Queue>,
    /// Unsettled deliveries, by tag.
    unsettled: HashMap<u64, Unsettled>,
    last_number: u64,
    listeners: Vec<Listener>,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Entry>,
    /// Delayed messages, by due time; the number distinguishes those due at the same time.
    delayed: BTreeMap<(Instant, u64), Entry>,
}

struct Entry {
    message: Message,
    redeliveries: u32,
}

struct Unsettled {
    queue: QueueName,
    consumer: u64,
    entry: Entry,
}

struct Listener {
    prefix: String,
    events: mpsc::UnboundedSender<Event>,
}

impl MemoryBroker {
    /// A broker without messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of messages waiting in a queue, including delayed ones, without unsettled ones.
    pub fn waiting(&self, queue: &QueueName) -> usize {
        lock(&self.shared.state).queues.get(queue).map_or(0, |queue| queue.ready.len() + queue.delayed.len())
    }

    /// The number of unsettled deliveries of all queues.
    pub fn unsettled(&self) -> usize {
        lock(&self.shared.state).unsettled.len()
    }

    /// The messages parked for a queue, oldest first; they stay parked.
    pub fn dead_letters(&self, queue: &QueueName) -> Vec<Message> {
        let state = lock(&self.shared.state);
        let dead = state.queues.get(&queue.dead_letters());
        dead.map(|queue| queue.ready.iter().map(|entry| entry.message.clone()).collect()).unwrap_or_default()
    }
}

impl std::fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.shared.state);
        f.debug_struct("MemoryBroker").field("queues", &state.queues.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        let mut state = lock(&self.shared.state);
        state.queue(queue).ready.push_back(Entry { message, redeliveries: 0 });
        self.shared.arrived.notify_waiters();
        Ok(())
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        let Some(due) = Instant::now().checked_add(delay) else {
            return Err(Fault::internal(format!("a delay of {delay:?} ends after the end of time; shorten it")));
        };
        let mut state = lock(&self.shared.state);
        let number = state.next_number();
        state.queue(queue).delayed.insert((due, number), Entry { message, redeliveries: 0 });
        self.shared.arrived.notify_waiters();
        Ok(())
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.publish(&queue.dead_letters(), message.parked(queue, reason)).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        let number = lock(&self.shared.state).next_number();
        let room = Arc::new(Semaphore::new(usize::from(prefetch.max(1))));
        Ok(Box::new(MemoryConsumer { shared: Arc::clone(&self.shared), queue: queue.clone(), number, room }))
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        let mut state = lock(&self.shared.state);
        match event.recipient.clone() {
            // Subscribers that are gone are removed.
            Recipient::Subscribers => state
                .listeners
                .retain(|listener| !event.is_under(&listener.prefix) || listener.events.send(event.clone()).is_ok()),
            Recipient::ReplyQueue(reply) => state.reply(event.body, reply)?,
        }
        self.shared.arrived.notify_waiters();
        Ok(())
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        let (events, received) = mpsc::unbounded_channel();
        lock(&self.shared.state).listeners.push(Listener { prefix: prefix.to_owned(), events });
        Ok(Box::new(MemoryEvents(received)))
    }
}

impl Shared {
    /// Requeues everything that a consumer has not settled.
    fn requeue_all(&self, consumer: u64) {
        let mut state = lock(&self.state);
        let mut mine: Vec<u64> =
            state.unsettled.iter().filter(|(_, out)| out.consumer == consumer).map(|(tag, _)| *tag).collect();
        // Latest first, each to the front: this restores the queue's order.
        mine.sort_unstable_by(|a, b| b.cmp(a));
        for tag in mine {
            state.requeue(tag);
        }
        self.arrived.notify_waiters();
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn queue(&mut self, name: &QueueName) -> &mut Queue {
        self.queues.entry(name.clone()).or_default()
    }

    /// Puts an event into a reply queue, if that queue has ever been named.
    fn reply(&mut self, body: Bytes, reply: ReplyTo) -> Result<(), Fault> {
        let ReplyTo { queue, correlation_id } = reply;
        let missing = || Fault::not_found(format!("there is no reply queue {queue}"));
        let queue = self.queues.get_mut(&QueueName(queue.clone())).ok_or_else(missing)?;
        let headers = correlation_id.map(|id| (ReplyTo::CORRELATION_HEADER.to_owned(), id)).into_iter().collect();
        queue.ready.push_back(Entry { message: Message { body, headers }, redeliveries: 0 });
        Ok(())
    }

    /// Delivers the next message of a queue, or returns when the next delayed one is due.
    fn take(&mut self, name: &QueueName, consumer: u64) -> Result<(u64, Message, u32), Option<Instant>> {
        let queue = self.queue(name);
        queue.wake(Instant::now());
        let Some(entry) = queue.ready.pop_front() else {
            return Err(queue.delayed.first_key_value().map(|((due, _), _)| *due));
        };
        let tag = self.next_number();
        let (message, redeliveries) = (entry.message.clone(), entry.redeliveries);
        self.unsettled.insert(tag, Unsettled { queue: name.clone(), consumer, entry });
        Ok((tag, message, redeliveries))
    }

    fn requeue(&mut self, tag: u64) -> bool {
        let Some(Unsettled { queue, mut entry, .. }) = self.unsettled.remove(&tag) else { return false };
        entry.redeliveries += 1;
        self.queue(&queue).ready.push_front(entry);
        true
    }
}

impl Queue {
    fn wake(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            self.ready.push_back(first.remove());
        }
    }
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    queue: QueueName,
    number: u64,
    /// One permit for each delivery that may be unsettled.
    room: Arc<Semaphore>,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault> {
        let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else { return Ok(None) };
        loop {
            // The wait begins before the queue is checked, so that a message in between is not missed.
            let arrived = self.shared.arrived.notified();
            let taken = lock(&self.shared.state).take(&self.queue, self.number);
            match taken {
                Ok((tag, message, redeliveries)) => {
                    let settle =
                        MemorySettle { shared: Arc::clone(&self.shared), tag, settled: false, _permit: permit };
                    return Ok(Some(Delivery::new(message, redeliveries, Box::new(settle))));
                }
                Err(None) => arrived.await,
                Err(Some(due)) => tokio::select! {
                    () = arrived => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    async fn cancel(&mut self) {
        self.room.close();
    }

    async fn stop(&mut self) {
        self.room.close();
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.shared.requeue_all(self.number);
    }
}

struct MemorySettle {
    shared: Arc<Shared>,
    tag: u64,
    settled: bool,
    _permit: OwnedSemaphorePermit,
}

impl MemorySettle {
    fn gone() -> Fault {
        Fault::unavailable("the consumer of this delivery has ended; the message is back in its queue")
    }
}

#[async_trait]
impl Settle for MemorySettle {
    async fn ack(mut self: Box<Self>) -> Result<(), Fault> {
        self.settled = true;
        lock(&self.shared.state).unsettled.remove(&self.tag).map(drop).ok_or_else(Self::gone)
    }

    async fn requeue(mut self: Box<Self>) -> Result<(), Fault> {
        self.settled = true;
        let was_out = lock(&self.shared.state).requeue(self.tag);
        self.shared.arrived.notify_waiters();
        if was_out { Ok(()) } else { Err(Self::gone()) }
    }
}

impl Drop for MemorySettle {
    fn drop(&mut self) {
        if !self.settled {
            lock(&self.shared.state).requeue(self.tag);
            self.shared.arrived.notify_waiters();
        }
    }
}

struct MemoryEvents(mpsc::UnboundedReceiver<Event>);

#[async_trait]
impl EventStream for MemoryEvents {
    async fn next(&mut self) -> Option<Event> {
        self.0.recv().await
    }
}

#[cfg(test)]
mod tests {
    use echogen_protocol::{Lane, StageName};
    use tokio::time::timeout;

    use super::*;
    use crate::DEAD_LETTER_REASON;

    #[tokio::test(start_paused = true)]
    async fn the_counters_tell_where_messages_are() {
        let (broker, queue) = (MemoryBroker::new(), QueueName::of(StageName::Sampler, Lane::Standard));
        broker.publish(&queue, Message::default()).await.unwrap();
        broker.publish_after(&queue, Message::default(), Duration::from_secs(1)).await.unwrap();
        assert_eq!((broker.waiting(&queue), broker.unsettled()), (2, 0));
        let mut consumer = broker.consume(&queue, 1).await.unwrap();
        let delivery = consumer.receive().await.unwrap().unwrap();
        assert_eq!((broker.waiting(&queue), broker.unsettled()), (1, 1));
        delivery.ack().await.unwrap();
        assert_eq!((broker.waiting(&queue), broker.unsettled()), (1, 0));
        broker.dead_letter(&queue, Message::default(), "poison").await.unwrap();
        assert_eq!(broker.dead_letters(&queue)[0].headers[DEAD_LETTER_REASON], "poison");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_reaches_the_queue_that_asked_and_no_other() {
        let broker = MemoryBroker::new();
        let asker = QueueName("answers".to_owned());
        let told = |queue: &str| {
            let reply = ReplyTo { queue: queue.to_owned(), correlation_id: Some("7".to_owned()) };
            let recipient = Recipient::ReplyQueue(reply);
            Event { topic: "job.completed.one".to_owned(), body: "{}".into(), recipient }
        };
        let mut subscriber = broker.subscribe("job").await.unwrap();
        let missing = broker.publish_event(told("answers")).await.unwrap_err();
        assert_eq!(missing.kind(), crate::FaultKind::NotFound, "nobody has named the queue yet");
        let mut consumer = broker.consume(&asker, 1).await.unwrap();
        assert!(timeout(Duration::ZERO, consumer.receive()).await.is_err(), "nothing has come yet");
        broker.publish_event(told("answers")).await.unwrap();
        broker.publish_event(told("elsewhere")).await.unwrap_err();
        let answer = consumer.receive().await.unwrap().unwrap();
        assert_eq!(answer.message.headers[ReplyTo::CORRELATION_HEADER], "7");
        assert!(timeout(Duration::ZERO, subscriber.next()).await.is_err(), "a reply is for nobody else");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_past_the_end_of_time_is_an_error() {
        let error = MemoryBroker::new()
            .publish_after(&QueueName::of(StageName::Sampler, Lane::Standard), Message::default(), Duration::MAX)
            .await;
        assert!(error.unwrap_err().is_permanent());
    }
}
