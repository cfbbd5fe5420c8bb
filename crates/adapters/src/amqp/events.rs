//! Subscriptions to events.

use async_trait::async_trait;
use echogen_ports::{Event, EventStream, Fault, Recipient};
use futures::{FutureExt, StreamExt};
use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    await_or_closed::{await_or_closed, open_channel},
    declare::short,
    error::port_error,
};

/// Events that wait in a listener's queue. Beyond it the broker drops the oldest, so that a listener that does not read
/// cannot fill the broker.
const MAX_WAITING: i64 = 100_000;

/// Events that are delivered to a listener and not acknowledged.
const PREFETCH: u16 = 500;

/// Events from a queue of the listener's own, which the broker deletes with its connection.
pub(super) struct AmqpEvents {
    channel: Channel,
    deliveries: lapin::Consumer,
}

impl AmqpEvents {
    /// Subscribes to the events, from now on, whose topic is `prefix` or starts with `prefix.`. The broker names the queue
    /// if `queue` is empty.
    pub(super) async fn open(
        connection: &Connection,
        queue: &str,
        exchange: &str,
        prefix: &str,
    ) -> Result<Self, Fault> {
        let pattern = if prefix.is_empty() { "#".to_owned() } else { format!("{prefix}.#") };
        let (queue, exchange, pattern) = (short(queue)?, short(exchange)?, short(&pattern)?);
        let opened = Self::try_open(connection, queue, exchange, pattern).await;
        opened.map_err(|error| port_error("cannot listen to events", error))
    }

    async fn try_open(
        connection: &Connection,
        queue: ShortString,
        exchange: ShortString,
        pattern: ShortString,
    ) -> Result<Self, lapin::Error> {
        let channel = open_channel(connection).await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_WAITING));
        let queue = channel.queue_declare(queue, options, arguments).await?.name().clone();
        // Bound before this function returns, so that no event published after it is missed.
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.clone(), exchange, pattern, options, FieldTable::default()).await?;
        // Before `basic_consume`: the broker delivers as soon as it has that request.
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let deliveries = channel.basic_consume(queue, tag, options, FieldTable::default()).await?;
        Ok(Self { channel, deliveries })
    }
}

#[async_trait]
impl EventStream for AmqpEvents {
    async fn next(&mut self) -> Option<Event> {
        let is_open = || self.channel.status().connected();
        let delivery = await_or_closed(self.deliveries.next(), is_open).await??.ok()?;
        // The ack only frees a place in the prefetch window. If it cannot be sent, the channel has closed and the next call
        // returns `None`.
        drop(self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).now_or_never());
        let topic = delivery.routing_key.as_str().to_owned();
        Some(Event { topic, body: delivery.data.into(), recipient: Recipient::Subscribers })
    }
}
