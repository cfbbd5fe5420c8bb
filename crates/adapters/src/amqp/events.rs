//! Listening to events.

use async_trait::async_trait;
use echogen_ports::{Event, EventStream, Fault};
use futures::{FutureExt, StreamExt};
use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    declare::short,
    error::port_error,
    owed::{open_channel, owed},
};

/// Events that wait in a listener's queue; of more, the oldest are dropped: a listener that sleeps must not fill the
/// broker.
const MAX_WAITING: i64 = 100_000;

/// Events on their way to a listener.
const PREFETCH: u16 = 500;

/// Events from a queue of the listener's own, which the broker deletes with its connection.
pub(super) struct AmqpEvents {
    channel: Channel,
    deliveries: lapin::Consumer,
}

impl AmqpEvents {
    /// Listens, from now on, to events whose topic is `prefix` or goes on from it.
    pub(super) async fn open(connection: &Connection, exchange: &str, prefix: &str) -> Result<Self, Fault> {
        let pattern = if prefix.is_empty() { "#".to_owned() } else { format!("{prefix}.#") };
        let (exchange, pattern) = (short(exchange)?, short(&pattern)?);
        let opened = Self::try_open(connection, exchange, pattern).await;
        opened.map_err(|error| port_error("cannot listen to events", error))
    }

    async fn try_open(
        connection: &Connection,
        exchange: ShortString,
        pattern: ShortString,
    ) -> Result<Self, lapin::Error> {
        let channel = open_channel(connection).await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_WAITING));
        let queue = channel.queue_declare(ShortString::default(), options, arguments).await?.name().clone();
        let options = QueueBindOptions::default();
        channel.queue_bind(queue.clone(), exchange, pattern, options, FieldTable::default()).await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let deliveries = channel.basic_consume(queue, tag, options, FieldTable::default()).await?;
        Ok(Self { channel, deliveries })
    }
}

#[async_trait]
impl EventStream for AmqpEvents {
    async fn next(&mut self) -> Option<Event> {
        let delivery = owed(self.deliveries.next(), || self.channel.status().connected()).await??.ok()?;
        // The ack only makes room for further events; if it cannot be sent, the stream has ended.
        drop(self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).now_or_never());
        let topic = delivery.routing_key.as_str().to_owned();
        Some(Event { topic, body: delivery.data.into(), reply: None })
    }
}
