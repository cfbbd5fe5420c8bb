//! Declares a topology on the broker. What exists already is left unchanged.

use echogen_ports::Fault;
use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    await_or_closed::open_channel,
    error::{is_mismatch, is_not_found, port_error},
    topology::{Argument, Binding, Exchange, ExchangeType, Queue, Topology},
};

/// Declares the topology, on a channel of its own: a refusal closes the channel. The order must hold: bindings need their
/// exchanges and queues.
pub(super) async fn declare(connection: &Connection, topology: &Topology) -> Result<(), Fault> {
    let opened = open_channel(connection).await;
    let channel = opened.map_err(|error| port_error("no channel to declare queues on", error))?;
    for exchange in &topology.exchanges {
        declare_exchange(&channel, exchange).await?;
    }
    for queue in &topology.queues {
        declare_queue(&channel, queue).await?;
    }
    for binding in &topology.bindings {
        bind(&channel, binding).await?;
    }
    let closed = channel.close(200, ShortString::default()).await;
    closed.map_err(|error| port_error("the queues are declared, but the channel does not close", error))
}

/// How many messages are ready in a queue; `None` if there is no such queue. On a channel of its own: asking for a missing
/// queue closes the channel.
pub(super) async fn depth(connection: &Connection, name: &str) -> Result<Option<u32>, Fault> {
    let opened = open_channel(connection).await;
    let channel = opened.map_err(|error| port_error("no channel to read queue depths on", error))?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(short(name)?, options, FieldTable::default()).await {
        Ok(queue) => {
            let closed = channel.close(200, ShortString::default()).await;
            closed.map_err(|error| port_error("a channel does not close", error))?;
            Ok(Some(queue.message_count()))
        }
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(port_error(&format!("the depth of {name} cannot be read"), error)),
    }
}

/// A name on the broker.
pub(super) fn short(text: &str) -> Result<ShortString, Fault> {
    let too_long = |_| Fault::too_large(format!("a name has {} bytes; AMQP allows 255", text.len()));
    ShortString::try_new(text).map_err(too_long)
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange) -> Result<(), Fault> {
    let kind = match exchange.kind {
        ExchangeType::Direct => ExchangeKind::Direct,
        ExchangeType::Topic => ExchangeKind::Topic,
        ExchangeType::Fanout => ExchangeKind::Fanout,
    };
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(short(&exchange.name)?, kind, options, FieldTable::default()).await;
    declared.map_err(|error| refused("exchange", &exchange.name, error))
}

async fn declare_queue(channel: &Channel, queue: &Queue) -> Result<(), Fault> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert(short(name)?, value);
    }
    let declared = channel.queue_declare(short(&queue.name)?, options, arguments).await;
    declared.map(drop).map_err(|error| refused("queue", &queue.name, error))
}

async fn bind(channel: &Channel, Binding { exchange, routing_key, queue }: &Binding) -> Result<(), Fault> {
    let (exchange, routing_key, name) = (short(exchange)?, short(routing_key)?, short(queue)?);
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(name, exchange, routing_key, options, FieldTable::default()).await;
    bound.map_err(|error| port_error(&format!("the queue {queue} is not bound"), error))
}

fn refused(what: &str, name: &str, error: lapin::Error) -> Fault {
    if !is_mismatch(&error) {
        return port_error(&format!("the {what} {name} is not declared"), error);
    }
    let advice = format!(
        "RabbitMQ does not change an existing {what}: give the settings back their old values, or empty and delete it \
         and start again, or take another prefix"
    );
    Fault::refused(format!("the {what} {name} exists with other settings ({error}); {advice}")).because(error)
}
