//! Declares a topology on the broker. What exists already is left unchanged.
//!
//! A user who may not declare can use what others have declared: then it is only checked that everything exists.

use echogen_ports::Fault;
use lapin::{
    Channel, Connection, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use tracing::debug;

use super::{
    await_or_closed::open_channel,
    error::{is_mismatch, is_not_found, port_error},
    rights::{MissingRights, missing},
    topology::{Argument, Binding, Exchange, ExchangeType, Queue, Topology},
};

/// Something that was not declared.
struct NotDeclared {
    what: &'static str,
    name: String,
    error: lapin::Error,
}

/// Declares the topology. Declaring comes first, because only that finds a queue with other settings.
pub(super) async fn declare(
    connection: &Connection,
    topology: &Topology,
    missing_rights: &MissingRights,
) -> Result<(), Fault> {
    let channel = channel_to_declare(connection).await?;
    match declare_all(&channel, topology).await {
        Ok(()) => {
            let closed = channel.close(200, ShortString::default()).await;
            closed.map_err(|error| port_error("the queues are declared, but the channel does not close", error))
        }
        Err(refused) => match missing(&refused.error, "configure") {
            Some(right) => {
                debug!(right, "the user may not declare the topology; checking that it exists");
                all_exist(connection, topology, &right, missing_rights).await
            }
            None => Err(refused.fault()),
        },
    }
}

/// A channel of its own: a refusal closes it.
async fn channel_to_declare(connection: &Connection) -> Result<Channel, Fault> {
    let opened = open_channel(connection).await;
    opened.map_err(|error| port_error("no channel to declare queues on", error))
}

/// The order must hold: bindings need their exchanges and queues.
async fn declare_all(channel: &Channel, topology: &Topology) -> Result<(), NotDeclared> {
    for exchange in &topology.exchanges {
        declare_exchange(channel, exchange, false).await?;
    }
    for queue in &topology.queues {
        declare_queue(channel, queue, false).await?;
    }
    for binding in &topology.bindings {
        bind(channel, binding).await?;
    }
    Ok(())
}

/// Checks that everything is there, which needs no right. If something is not, `right` is what its declaration lacked.
async fn all_exist(
    connection: &Connection,
    topology: &Topology,
    right: &str,
    missing_rights: &MissingRights,
) -> Result<(), Fault> {
    let channel = channel_to_declare(connection).await?;
    let checked = async {
        for exchange in &topology.exchanges {
            declare_exchange(&channel, exchange, true).await?;
        }
        for queue in &topology.queues {
            declare_queue(&channel, queue, true).await?;
        }
        Ok::<_, NotDeclared>(())
    };
    match checked.await {
        Ok(()) => {
            let closed = channel.close(200, ShortString::default()).await;
            closed.map_err(|error| port_error("a channel does not close", error))
        }
        Err(NotDeclared { what, name, error }) if is_not_found(&error) => {
            missing_rights.add(right.to_owned());
            let advice = format!("grant it, or run `echogen topology --declare` as a user who has it ({what} {name})");
            Err(Fault::refused(format!(
                "the {what} {name} does not exist, and the user of broker.url may not declare it: it lacks {right}; {advice}"
            )))
        }
        Err(other) => Err(other.fault()),
    }
}

/// A channel for reading the depths of queues. Asking for a missing queue closes it; then the next is opened.
pub(super) struct DepthReader<'a> {
    connection: &'a Connection,
    channel: Option<Channel>,
}

impl<'a> DepthReader<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, channel: None }
    }

    /// How many messages are ready in a queue; `None` if there is no such queue.
    pub(super) async fn depth(&mut self, name: &str) -> Result<Option<u32>, Fault> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => {
                let opened = open_channel(self.connection).await;
                opened.map_err(|error| port_error("no channel to read queue depths on", error))?
            }
        };
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(short(name)?, options, FieldTable::default()).await {
            Ok(queue) => {
                self.channel = Some(channel);
                Ok(Some(queue.message_count()))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(port_error(&format!("the depth of {name} cannot be read"), error)),
        }
    }

    pub(super) async fn close(self) -> Result<(), Fault> {
        let Some(channel) = self.channel else { return Ok(()) };
        let closed = channel.close(200, ShortString::default()).await;
        closed.map_err(|error| port_error("a channel does not close", error))
    }
}

/// A name on the broker.
pub(super) fn short(text: &str) -> Result<ShortString, Fault> {
    let too_long = |_| Fault::too_large(format!("a name has {} bytes; AMQP allows 255", text.len()));
    ShortString::try_new(text).map_err(too_long)
}

async fn declare_exchange(channel: &Channel, exchange: &Exchange, passive: bool) -> Result<(), NotDeclared> {
    let kind = match exchange.kind {
        ExchangeType::Direct => ExchangeKind::Direct,
        ExchangeType::Topic => ExchangeKind::Topic,
        ExchangeType::Fanout => ExchangeKind::Fanout,
    };
    let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(exchange.name.as_str().into(), kind, options, FieldTable::default()).await;
    declared.map_err(|error| NotDeclared { what: "exchange", name: exchange.name.clone(), error })
}

async fn declare_queue(channel: &Channel, queue: &Queue, passive: bool) -> Result<(), NotDeclared> {
    let options = QueueDeclareOptions { durable: true, passive, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert((*name).into(), value);
    }
    let declared = channel.queue_declare(queue.name.as_str().into(), options, arguments).await;
    declared.map(drop).map_err(|error| NotDeclared { what: "queue", name: queue.name.clone(), error })
}

async fn bind(channel: &Channel, Binding { exchange, routing_key, queue }: &Binding) -> Result<(), NotDeclared> {
    let (exchange, routing_key) = (exchange.as_str().into(), routing_key.as_str().into());
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(queue.as_str().into(), exchange, routing_key, options, FieldTable::default()).await;
    bound.map_err(|error| NotDeclared { what: "binding of the queue", name: queue.clone(), error })
}

impl NotDeclared {
    fn fault(self) -> Fault {
        let Self { what, name, error } = self;
        if !is_mismatch(&error) {
            return port_error(&format!("the {what} {name} is not declared"), error);
        }
        let advice = format!(
            "RabbitMQ does not change an existing {what}: give the settings back their old values, or empty and delete \
             it and start again, or take another prefix"
        );
        Fault::refused(format!("the {what} {name} exists with other settings ({error}); {advice}")).because(error)
    }
}
