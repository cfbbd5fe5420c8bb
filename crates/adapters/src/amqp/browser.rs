//! Looking through a queue by `basic.get`.
//!
//! Unlike a consumer, `basic.get` says when the queue is empty, and never takes more messages than were asked for. Several
//! requests are in flight, so that a slow connection costs one round trip for many messages. What is not removed stays
//! unacknowledged on the channel; only its delivery tag is kept.

use std::time::Duration;

use async_trait::async_trait;
use echogen_ports::{Browsed, Browser, Fault};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use lapin::{
    Channel, Connection,
    message::BasicGetMessage,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::timeout;

use super::{
    await_or_closed::{await_or_closed, close_now, open_channel},
    declare::short,
    error::port_error,
    headers,
};

/// Requests in flight.
const MAX_REQUESTS: usize = 32;

/// Bytes of the messages that the requests in flight may bring, if they are no larger than those before.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Messages that are returned at once. RabbitMQ processes up to 32 commands of a channel in their order; it collects further
/// ones and sends them on without one.
const RETURNED_AT_ONCE: usize = 32;

/// The time for one step of returning messages. The end of the channel returns those that took longer.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

type Request = BoxFuture<'static, lapin::Result<Option<BasicGetMessage>>>;

/// A browser of one queue, with a channel of its own.
pub(super) struct AmqpBrowser {
    queue: ShortString,
    channel: Channel,
    requests: FuturesOrdered<Request>,
    /// How many messages may still be requested.
    left: u64,
    /// How many requests may be in flight: it doubles with every answer, up to the limits.
    window: usize,
    /// Size of the largest message so far, in bytes.
    largest: usize,
    /// The delivery tags of messages that were taken and not removed, in ascending order.
    held: Vec<u64>,
    /// Whether the queue was empty once.
    has_ended: bool,
    is_closed: bool,
}

impl AmqpBrowser {
    /// Opens a browser for at most `count` messages.
    pub(super) async fn open(connection: &Connection, queue: &str, count: u64) -> Result<Self, Fault> {
        let opened = open_channel(connection).await;
        let channel = opened.map_err(|error| port_error(&format!("no channel to read {queue} on"), error))?;
        Ok(Self {
            queue: short(queue)?,
            channel,
            requests: FuturesOrdered::new(),
            left: count,
            window: 1,
            largest: 1,
            held: Vec::new(),
            has_ended: false,
            is_closed: false,
        })
    }

    fn request(&mut self) {
        let window = self.window.min(MAX_BYTES / self.largest).clamp(1, MAX_REQUESTS);
        while self.left > 0 && self.requests.len() < window {
            self.left -= 1;
            let (channel, queue) = (self.channel.clone(), self.queue.clone());
            self.requests.push_back(async move { channel.basic_get(queue, BasicGetOptions::default()).await }.boxed());
        }
    }

    /// The answer to the oldest request in flight; `None` if there is none.
    async fn answer(&mut self) -> Result<Option<BasicGetMessage>, Fault> {
        let status = self.channel.status().clone();
        let answer = await_or_closed(self.requests.next(), || status.connected()).await;
        let answer =
            answer.ok_or_else(|| Fault::unavailable(format!("the connection that read {} is lost", self.queue)))?;
        let message = answer.transpose().map_err(|error| port_error(&format!("{} is not read", self.queue), error))?;
        let message = message.flatten();
        self.held.extend(message.as_ref().map(|message| message.delivery.delivery_tag));
        Ok(message)
    }

    /// Returns what is held, the oldest first.
    async fn return_held(&mut self) -> Result<(), lapin::Error> {
        let (held, channel, queue) = (std::mem::take(&mut self.held), &self.channel, &self.queue);
        // Acknowledgements are commands too, and nothing shows when they are processed. The first message to return may overtake
        // collected ones; the second is sent after all of them, so that once it is back none is left.
        let (first, others) = held.split_at(held.len().min(2));
        for tags in first.chunks(1).chain(others.chunks(RETURNED_AT_ONCE)) {
            let before = ready(channel, queue).await?;
            for tag in tags {
                let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                channel.basic_nack(*tag, options).await?;
            }
            // The next ones follow only when these are back; otherwise their order would be lost.
            let returned = u32::try_from(tags.len()).unwrap_or(u32::MAX);
            let back = async {
                while ready(channel, queue).await? < before.saturating_add(returned) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok::<(), lapin::Error>(())
            };
            timeout(RETURN_TIMEOUT, back).await.unwrap_or(Ok(()))?;
        }
        Ok(())
    }
}

/// How many messages are ready in a queue.
async fn ready(channel: &Channel, queue: &ShortString) -> Result<u32, lapin::Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
    Ok(queue.message_count())
}

#[async_trait]
impl Browser for AmqpBrowser {
    async fn next(&mut self) -> Result<Option<Browsed>, Fault> {
        if self.has_ended {
            return Ok(None);
        }
        self.request();
        let Some(BasicGetMessage { delivery, .. }) = self.answer().await? else {
            // What later requests bring has arrived after the queue was empty, and goes back.
            self.has_ended = true;
            return Ok(None);
        };
        self.window = (2 * self.window).min(MAX_REQUESTS);
        self.largest = self.largest.max(delivery.data.len());
        let tag = delivery.delivery_tag;
        let (message, _) = headers::message(delivery.data, &delivery.properties, delivery.redelivered);
        Ok(Some(Browsed { message, tag }))
    }

    async fn remove(&mut self, tag: u64) -> Result<(), Fault> {
        let place = self.held.binary_search(&tag).map_err(|_| Fault::internal("there is no such message to remove"))?;
        self.held.remove(place);
        let acknowledged = self.channel.basic_ack(tag, BasicAckOptions::default()).await;
        acknowledged.map_err(|error| port_error(&format!("a message of {} is not removed", self.queue), error))
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        // Acknowledgements have no answer. The broker processes the requests of a channel in order, so the answer to this one,
        // which changes nothing for `basic.get`, follows them.
        let status = self.channel.status().clone();
        let answer = self.channel.basic_qos(0, BasicQosOptions::default());
        let answer = await_or_closed(answer, || status.connected()).await;
        let answer =
            answer.ok_or_else(|| Fault::unavailable(format!("the connection that read {} is lost", self.queue)))?;
        answer.map_err(|error| port_error(&format!("a message of {} may not be removed", self.queue), error))
    }

    async fn close(mut self: Box<Self>) -> Result<(), Fault> {
        while !self.requests.is_empty() {
            self.answer().await?;
        }
        if let Err(error) = self.return_held().await {
            return Err(port_error(&format!("messages of {} return when its connection ends", self.queue), error));
        }
        self.is_closed = true;
        match timeout(RETURN_TIMEOUT, self.channel.close(200, ShortString::default())).await {
            Ok(closed) => closed.map_err(|error| port_error("a channel does not close", error)),
            Err(_) => Err(Fault::timed_out(format!("RabbitMQ did not close a channel within {RETURN_TIMEOUT:?}"))),
        }
    }
}

impl Drop for AmqpBrowser {
    /// Closes the channel, upon which the broker requeues what was not removed.
    fn drop(&mut self) {
        if !self.is_closed {
            close_now(&self.channel, &self.queue);
        }
    }
}
