//! Tasks that were parked: they are listed, redriven to where they failed, or deleted.
//!
//! Dead letters are received as a consumer receives them: those that are only listed are requeued when the consumer ends.

use std::time::Duration;

use echogen_ports::{Broker, DEAD_LETTER_REASON, Delivery, Message};
use echogen_protocol::{Job, QueueName, StageName, TaskHeaders};

use crate::Failure;

/// Dead letters of each queue that are received at once; the rest come after these have gone.
const AT_ONCE: u16 = 10_000;

/// How long a queue stays silent before it counts as empty.
const SILENCE: Duration = Duration::from_millis(700);

/// What is done with those chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// They stay.
    List,
    /// They go back to the queue where they failed, with their attempts counted from the beginning.
    Redrive,
    /// They are deleted.
    Delete,
}

/// Which dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// All.
    All,
    /// Those of these jobs.
    Jobs(Vec<String>),
}

/// A dead letter.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    /// The queue in which its task failed.
    pub queue: &'a QueueName,
    /// Its headers and body.
    pub message: &'a Message,
    /// The headers that every task has.
    pub headers: TaskHeaders,
}

impl DeadLetter<'_> {
    /// Why it was parked.
    pub fn reason(&self) -> &str {
        self.message.headers.get(DEAD_LETTER_REASON).map_or("the broker's own limit", String::as_str)
    }
}

/// Acts on the dead letters of every queue; returns how many were chosen. `each` is called for each of them, before
/// anything is done with it.
pub async fn act(
    broker: &dyn Broker,
    action: Action,
    chosen: &Chosen,
    mut each: impl FnMut(&DeadLetter<'_>),
) -> Result<u64, Failure> {
    let mut count = 0;
    for queue in StageName::ALL.into_iter().flat_map(StageName::queues) {
        count += act_on(broker, &queue, action, chosen, &mut each).await?;
    }
    Ok(count)
}

async fn act_on(
    broker: &dyn Broker,
    queue: &QueueName,
    action: Action,
    chosen: &Chosen,
    each: &mut impl FnMut(&DeadLetter<'_>),
) -> Result<u64, Failure> {
    let fault = |error| Failure::refused("dead letters cannot be reached", &error);
    let mut consumer = broker.consume(&queue.dead_letters(), AT_ONCE).await.map_err(fault)?;
    // Those that stay are held until the end: requeued at once, they would come again.
    let (mut held, mut count) = (Vec::new(), 0);
    while let Ok(received) = tokio::time::timeout(SILENCE, consumer.receive()).await {
        let Some(delivery) = received.map_err(fault)? else { break };
        let headers = TaskHeaders::from_map(&delivery.message.headers);
        if !chosen.has(&headers, &delivery.message) {
            held.push(delivery);
            continue;
        }
        count += 1;
        each(&DeadLetter { queue, message: &delivery.message, headers });
        match action {
            Action::List => held.push(delivery),
            Action::Redrive => redrive(broker, queue, delivery).await.map_err(fault)?,
            Action::Delete => delivery.ack().await.map_err(fault)?,
        }
        if held.len() >= usize::from(AT_ONCE) {
            break;
        }
    }
    drop(held);
    Ok(count)
}

impl Chosen {
    fn has(&self, headers: &TaskHeaders, message: &Message) -> bool {
        let Self::Jobs(jobs) = self else { return true };
        // Our own messages name their job; a client's job names itself.
        let id = headers.job.clone().or_else(|| Some(Job::parse(&message.body).ok()?.id.to_string()));
        id.is_some_and(|id| jobs.contains(&id))
    }
}

/// Publishes the message as it was first sent: its attempts count from the beginning. It is acknowledged only after that,
/// so that it may be doubled, and is never lost.
async fn redrive(broker: &dyn Broker, queue: &QueueName, delivery: Delivery) -> Result<(), echogen_ports::Fault> {
    let message = &delivery.message;
    let headers = TaskHeaders { failures: 0, last_error: None, ..TaskHeaders::from_map(&message.headers) };
    broker.publish(queue, Message { body: message.body.clone(), headers: headers.to_map() }).await?;
    delivery.ack().await
}
