//! The rights that a role needs at the broker, by name.
//!
//! RabbitMQ reports a missing right only when it is used, and closes the channel of whoever used it. So before a role
//! consumes, each right is tried in a way that changes nothing: a right to publish by removing a binding that does not exist,
//! for which RabbitMQ asks the same right. The right to read a queue is tried by consuming it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use echogen_ports::Fault;
use lapin::{
    BasicProperties, Channel, Connection,
    options::{
        BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeUnbindOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::{FieldTable, ShortString},
};

use super::{
    await_or_closed::open_channel,
    error::{port_error, refusal},
    topology::Topology,
};

/// A routing key that nobody uses.
const NOBODY: &str = "echogen.rights";

/// The rights that were found missing.
#[derive(Debug, Default)]
pub(super) struct MissingRights(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those that [`check`] finds, or a publish; replaced at each check.
    checked: BTreeSet<String>,
    /// To read queues; each until its queue is consumed.
    reading: BTreeSet<String>,
}

impl MissingRights {
    /// All of them, such as `write on echogen.events`.
    pub(super) fn all(&self) -> Vec<String> {
        let state = self.lock();
        state.checked.union(&state.reading).cloned().collect()
    }

    pub(super) fn replace(&self, missing: BTreeSet<String>) {
        self.lock().checked = missing;
    }

    pub(super) fn add(&self, right: String) {
        self.lock().checked.insert(right);
    }

    /// A queue is consumed, or is not for want of a right.
    pub(super) fn consumed(&self, queue: &str, outcome: Result<(), &lapin::Error>) {
        let right = format!("read on {queue}");
        match outcome {
            Ok(()) => self.lock().reading.remove(&right),
            Err(error) => missing(error, "read").is_some() && self.lock().reading.insert(right),
        };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock can be used: each change under it is complete before any code that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The resource whose use was refused for want of a right; `None` for any other error, such as a refused password.
pub(super) fn refused_resource(error: &lapin::Error) -> Option<String> {
    if !matches!(refusal(error), Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))) {
        return None;
    }
    // "ACCESS_REFUSED - access to queue 'name' in vhost ...", or "configure access to ..." from RabbitMQ 3.11 on.
    let text = error.to_string();
    let (_, resource) = text.split_once("access to ")?;
    resource.split('\'').nth(1).map(str::to_owned)
}

/// The right that was missing, such as `write on echogen.events`, where `asked` is the one that was used.
pub(super) fn missing(error: &lapin::Error, asked: &str) -> Option<String> {
    let resource = refused_resource(error)?;
    let text = error.to_string();
    let named = ["configure", "write", "read"].into_iter().find(|right| text.contains(&format!("{right} access to ")));
    Some(format!("{} on {resource}", named.unwrap_or(asked)))
}

/// What a role needs besides its queues.
pub(super) struct Needs<'a> {
    pub(super) topology: &'a Topology,
    /// The name of a queue of the role's own, which listens to events.
    pub(super) listener: &'a str,
    /// Whether it publishes to clients' reply queues.
    pub(super) replies: bool,
}

/// Tries every right; returns those that are missing.
pub(super) async fn check(connection: &Connection, needs: &Needs<'_>) -> Result<BTreeSet<String>, Fault> {
    let mut lacking = BTreeSet::new();
    let events = needs.topology.names().events();
    note(&mut lacking, listen(connection, needs.listener, &events).await)?;
    if needs.replies {
        note(&mut lacking, reply(connection).await)?;
    }
    if lacking.contains(&format!("read on {events}")) {
        // The other tries need it too, and could say nothing else.
        return Ok(lacking);
    }
    let exchanges = needs.topology.exchanges.iter().map(|exchange| &exchange.name);
    for exchange in exchanges.filter(|exchange| **exchange != needs.topology.names().jobs()) {
        note(&mut lacking, write_to(connection, exchange, &events).await)?;
    }
    Ok(lacking)
}

fn note(lacking: &mut BTreeSet<String>, tried: Tried) -> Result<(), Fault> {
    let Err((error, asked)) = tried else { return Ok(()) };
    match missing(&error, asked) {
        Some(right) => {
            lacking.insert(right);
            Ok(())
        }
        None => Err(port_error("the rights of the user cannot be checked", error)),
    }
}

/// The outcome of one try; an error comes with the right that was used.
type Tried = Result<(), (lapin::Error, &'static str)>;

/// Every try has a channel of its own, because a refusal closes it.
async fn channel(connection: &Connection) -> Result<Channel, (lapin::Error, &'static str)> {
    open_channel(connection).await.map_err(|error| (error, ""))
}

async fn listen(connection: &Connection, listener: &str, events: &str) -> Tried {
    let (listener, events): (ShortString, ShortString) = (listener.into(), events.into());
    let channel = channel(connection).await?;
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(listener.clone(), options, FieldTable::default()).await;
    declared.map_err(|error| (error, "configure"))?;
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(listener.clone(), events.clone(), NOBODY.into(), options, FieldTable::default());
    if let Err(error) = bound.await {
        let is_exchange = refused_resource(&error).is_some_and(|resource| resource == events.as_str());
        return Err((error, if is_exchange { "read" } else { "write" }));
    }
    let read = channel.basic_get(listener.clone(), BasicGetOptions::default()).await;
    read.map_err(|error| (error, "read"))?;
    channel.queue_delete(listener, QueueDeleteOptions::default()).await.map_err(|error| (error, "configure"))?;
    close(channel).await
}

/// Removes a binding that does not exist, from an exchange that may be read.
async fn write_to(connection: &Connection, exchange: &str, readable: &str) -> Tried {
    let (destination, source) = (exchange.into(), readable.into());
    let channel = channel(connection).await?;
    let options = ExchangeUnbindOptions::default();
    let removed = channel.exchange_unbind(destination, source, NOBODY.into(), options, FieldTable::default()).await;
    removed.map_err(|error| (error, "write"))?;
    close(channel).await
}

/// Publishes to a queue that does not exist: RabbitMQ drops the message.
async fn reply(connection: &Connection) -> Tried {
    let channel = channel(connection).await?;
    let selected = channel.confirm_select(ConfirmSelectOptions::default()).await;
    selected.map_err(|error| (error, ""))?;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = channel.basic_publish(ShortString::default(), NOBODY.into(), options, b"", properties).await;
    sent.map_err(|error| (error, "write"))?.await.map_err(|error| (error, "write"))?;
    close(channel).await
}

async fn close(channel: Channel) -> Tried {
    channel.close(200, ShortString::default()).await.map_err(|error| (error, ""))
}
