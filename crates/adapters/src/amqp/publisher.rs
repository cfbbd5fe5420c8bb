//! Publishes on one confirm channel, with many confirms in flight.
//!
//! One task owns the channel. Callers send it messages and each waits for its own confirm; a caller that stops waiting
//! affects no other. The order in which the task publishes is the order of AMQP's publish numbers.
//!
//! What must stay true: a returned message fails its own publish and no other. RabbitMQ sends the return before the
//! confirm of the same message, but one confirm may cover many messages, and lapin then attaches the return to whichever of
//! them it completes first. Therefore each message carries its number as a property, and [`complete`] matches returns by
//! that number. It reads the returns of all confirms that have arrived before it reports any outcome: lapin completes the
//! confirm that carries a return before those that do not.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, ChannelStatus, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    select,
    sync::{mpsc, oneshot},
};
use tokio_util::task::TaskTracker;

use super::await_or_closed::open_channel;

/// Messages that wait to be published; beyond it callers wait.
const MAX_WAITING: usize = 1_024;

/// Messages that are published and not confirmed.
const MAX_IN_FLIGHT: usize = 8_192;

/// A confirm channel.
#[derive(Debug)]
pub(super) struct Publisher {
    requests: mpsc::Sender<Request>,
    status: ChannelStatus,
}

/// One message to publish.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    /// Whether it must be routed to a queue.
    pub(super) mandatory: bool,
    pub(super) body: Bytes,
    pub(super) properties: BasicProperties,
}

/// The broker's answer to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is on disk in its queues, or it was routed to none and is not mandatory.
    Confirmed,
    /// A queue is full, or has lost its nodes.
    Rejected,
    /// It is mandatory and no queue is bound.
    Returned,
}

#[derive(Debug)]
struct Request {
    outgoing: Outgoing,
    done: oneshot::Sender<Result<Outcome, lapin::Error>>,
}

/// A publish whose confirm has arrived, or that has failed.
struct Completed {
    number: u64,
    confirmation: Result<Confirmation, lapin::Error>,
    done: oneshot::Sender<Result<Outcome, lapin::Error>>,
}

impl Publisher {
    /// Opens the channel and starts its task, which ends when the publisher is dropped and all confirms have arrived.
    pub(super) async fn open(connection: &Connection, tasks: &TaskTracker) -> Result<Self, lapin::Error> {
        let channel = open_channel(connection).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let (requests, received) = mpsc::channel(MAX_WAITING);
        let status = channel.status().clone();
        tasks.spawn(run(channel, received));
        Ok(Self { requests, status })
    }

    pub(super) fn is_open(&self) -> bool {
        self.status.connected()
    }

    /// Publishes and waits for the confirm; `None` if the channel's task has ended.
    pub(super) async fn publish(&self, outgoing: Outgoing) -> Option<Result<Outcome, lapin::Error>> {
        let (done, outcome) = oneshot::channel();
        self.requests.send(Request { outgoing, done }).await.ok()?;
        outcome.await.ok()
    }
}

async fn run(channel: Channel, mut requests: mpsc::Receiver<Request>) {
    let mut in_flight = FuturesUnordered::new();
    let mut returned = HashSet::new();
    let (mut number, mut open) = (0, true);
    while open || !in_flight.is_empty() {
        select! {
            // Confirms before requests: a steady flow of requests must not delay the outcomes of earlier publishes.
            biased;
            // At least one confirm has arrived, or a publish has failed. All that have are completed together, because a
            // return may be attached to the confirm of another message.
            Some(first) = in_flight.next(), if !in_flight.is_empty() => {
                let mut completed: Vec<Completed> = vec![first];
                while let Some(Some(next)) = in_flight.next().now_or_never() {
                    completed.push(next);
                }
                complete(completed, &mut returned);
            }
            // A caller's message, or `None` when the publisher was dropped. At the limit no request is read, so that
            // callers wait in the channel; after the drop only the confirms in flight are awaited.
            request = requests.recv(), if open && in_flight.len() < MAX_IN_FLIGHT => match request {
                // Its caller has stopped waiting and publishes again; publishing this one too would only duplicate it.
                Some(request) if request.done.is_closed() => {}
                // The number is assigned here, in the order of the requests, and travels with the message.
                Some(request) => {
                    number += 1;
                    in_flight.push(send(channel.clone(), number, request));
                }
                None => open = false,
            },
        }
    }
}

/// Publishes one message and waits for its confirm. One future does both, so that no confirm is dropped before it arrives:
/// lapin would keep it, together with the return that is attached to it.
async fn send(channel: Channel, number: u64, Request { outgoing, done }: Request) -> Completed {
    let Outgoing { exchange, routing_key, mandatory, body, properties } = outgoing;
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let properties = properties.with_app_id(mark(number));
    let sent = channel.basic_publish(exchange, routing_key, options, &body, properties).await;
    let confirmation = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Completed { number, confirmation, done }
}

/// Reports to each publish its own outcome. `returned` keeps the numbers of returned messages whose confirm has not
/// arrived yet.
fn complete(completed: Vec<Completed>, returned: &mut HashSet<u64>) {
    // The order must hold: all returns are read before the first outcome is reported.
    for Completed { confirmation, .. } in &completed {
        if let Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) = confirmation {
            returned.extend(message.properties.app_id().as_ref().and_then(number_of));
        }
    }
    for Completed { number, confirmation, done } in completed {
        let was_returned = returned.remove(&number);
        let outcome = match confirmation {
            Err(error) => Err(error),
            Ok(_) if was_returned => Ok(Outcome::Returned),
            Ok(Confirmation::Ack(_)) => Ok(Outcome::Confirmed),
            // The channel is in confirm mode, so `NotRequested` does not occur; it would not be a confirm.
            Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => Ok(Outcome::Rejected),
        };
        // The caller may have stopped waiting.
        drop(done.send(outcome));
    }
}

/// A message's number on its channel, as the property `app-id`, which has no other use here.
fn mark(number: u64) -> ShortString {
    ShortString::try_new(format!("echogen/{number}")).unwrap_or_default()
}

fn number_of(mark: &ShortString) -> Option<u64> {
    mark.as_str().strip_prefix("echogen/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_its_number() {
        assert_eq!(number_of(&mark(17)), Some(17));
        assert_eq!(number_of(&mark(u64::MAX)), Some(u64::MAX));
        assert_eq!(number_of(&"another program".into()), None);
    }
}
