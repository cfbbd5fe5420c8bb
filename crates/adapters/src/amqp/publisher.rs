//! Publishes on one confirm channel, with any number of confirms in flight.
//!
//! One task owns the channel: callers hand it messages and wait for their own confirm only, and one that goes away
//! takes nothing with it. The order in which that task touches the channel is the order of AMQP's publish numbers.
//!
//! What must stay true: a returned message fails its own publish and no other. RabbitMQ sends a return before the
//! confirm of the same message, but one confirm may cover many messages, and the client library then hands the return
//! to whichever of them it completes first. So each message bears its number, and [`settle`] goes by that. It looks at
//! all confirms that have come before it believes one: whatever carries a return is completed before those that don't.

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

use super::owed::open_channel;

/// Messages that wait to be sent; past it callers wait.
const MAX_WAITING: usize = 1_024;

/// Messages sent and not confirmed.
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
    /// Whether it has to reach a queue.
    pub(super) mandatory: bool,
    pub(super) body: Bytes,
    pub(super) properties: BasicProperties,
}

/// What the broker did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is on disk in its queue, or there is no queue and there need not be one.
    Taken,
    /// Its queue is full, or has lost its nodes.
    Refused,
    /// It had to reach a queue, and there is none.
    Returned,
}

#[derive(Debug)]
struct Request {
    outgoing: Outgoing,
    done: oneshot::Sender<Result<Outcome, lapin::Error>>,
}

/// A publish that has ended.
struct Ended {
    number: u64,
    confirmation: Result<Confirmation, lapin::Error>,
    done: oneshot::Sender<Result<Outcome, lapin::Error>>,
}

impl Publisher {
    /// Opens the channel and starts its task, which ends when the publisher is dropped and all confirms have come.
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

    /// Publishes and waits for the confirm; `None` if the channel's task is gone.
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
            biased;
            Some(first) = in_flight.next(), if !in_flight.is_empty() => {
                let mut ended: Vec<Ended> = vec![first];
                while let Some(Some(next)) = in_flight.next().now_or_never() {
                    ended.push(next);
                }
                settle(ended, &mut returned);
            }
            request = requests.recv(), if open && in_flight.len() < MAX_IN_FLIGHT => match request {
                // Whoever has given up waiting will publish again.
                Some(request) if request.done.is_closed() => {}
                Some(request) => {
                    number += 1;
                    in_flight.push(send(channel.clone(), number, request));
                }
                None => open = false,
            },
        }
    }
}

/// Sends one message and waits for its confirm. Both are done here, so that no confirm is ever dropped half-way: the
/// client library would keep it, and what was returned with it.
async fn send(channel: Channel, number: u64, Request { outgoing, done }: Request) -> Ended {
    let Outgoing { exchange, routing_key, mandatory, body, properties } = outgoing;
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let properties = properties.with_app_id(mark(number));
    let sent = channel.basic_publish(exchange, routing_key, options, &body, properties).await;
    let confirmation = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    Ended { number, confirmation, done }
}

/// Tells each publish its own outcome. `returned` keeps the numbers of those whose confirm is still to come.
fn settle(ended: Vec<Ended>, returned: &mut HashSet<u64>) {
    for Ended { confirmation, .. } in &ended {
        if let Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) = confirmation {
            returned.extend(message.properties.app_id().as_ref().and_then(number_of));
        }
    }
    for Ended { number, confirmation, done } in ended {
        let was_returned = returned.remove(&number);
        let outcome = match confirmation {
            Err(error) => Err(error),
            Ok(_) if was_returned => Ok(Outcome::Returned),
            Ok(Confirmation::Ack(_)) => Ok(Outcome::Taken),
            // The channel is in confirm mode, so "not requested" cannot come; it would be no confirm.
            Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => Ok(Outcome::Refused),
        };
        // Whoever asked may have gone away.
        drop(done.send(outcome));
    }
}

/// A message's number on its channel, as the property that nobody else needs.
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
