//! Lists, redrives or deletes dead letters.
//!
//! A run handles the letters that are in the queues when it begins: their number is read first, and no more are taken. A task
//! that is parked again meanwhile is behind them and is left for the next run, so a run always ends. Letters are read one at a
//! time, and those that stay are back in their queue when the run ends.

mod chosen;
mod letter;
mod reasons;

use std::time::Duration;

use echogen_ports::{Backoff, Browse, Browsed, Browser, Fault, FaultKind, Message};
use echogen_protocol::{QueueName, TaskHeaders};
use futures::future::try_join_all;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::{
    chosen::{Chosen, queues_named},
    letter::DeadLetter,
    reasons::{ReasonCount, ReasonCounts},
};

/// Maximum number of attempts to publish one letter, with increasing delays between them, to wait for a full queue or a
/// restarting broker.
const TRIES: u32 = 10;

/// The delays between the attempts.
const WAITS: Backoff = Backoff::doubling(0.2, 12.8);

/// What to do with the chosen dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave them in the queue.
    List,
    /// Publish them to the queue where they failed, with their attempts counted from the beginning.
    Redrive,
    /// Delete them.
    Delete,
}

/// What a run reports as it goes on.
#[derive(Debug)]
pub enum Progress<'a> {
    /// The number of letters in the queues at its beginning.
    Total(u64),
    /// A letter was read that is not chosen.
    Passed,
    /// The action was applied to a chosen letter.
    Done(&'a DeadLetter),
    /// A letter is refused by its queue, because it is too large, and stays parked.
    Refused(&'a DeadLetter, &'a Fault),
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Letters to which the action was applied.
    pub done: u64,
    /// Letters that were read.
    pub read: u64,
    /// Chosen letters that are refused by their queue.
    pub refused: u64,
    /// Whether the run was stopped before its end.
    pub stopped: bool,
}

/// Why a run ended early, and what was done before.
#[derive(Debug)]
pub struct Interrupted {
    /// Why.
    pub fault: Fault,
    /// What was done before.
    pub outcome: Outcome,
}

impl Action {
    /// Describes what was done to letters, as in "3 redriven".
    pub fn done(self) -> &'static str {
        match self {
            Self::List => "parked",
            Self::Redrive => "redriven",
            Self::Delete => "deleted",
        }
    }
}

/// Applies the action to the chosen dead letters, queue by queue and the oldest first, until the end or until `stop`. `each` is
/// called for every letter that is read.
pub async fn act(
    broker: &dyn Browse,
    action: Action,
    chosen: &Chosen,
    stop: &CancellationToken,
    each: impl FnMut(Progress<'_>) + Send,
) -> Result<Outcome, Interrupted> {
    let now = Timestamp::now();
    let mut run = Run { broker, action, chosen, stop, now, each, outcome: Outcome::default() };
    let ended = run.queues().await;
    let outcome = Outcome { stopped: stop.is_cancelled(), ..run.outcome };
    match ended {
        // Whoever stops the run does not wait for a broker that cannot be reached.
        Err(fault) if !outcome.stopped => Err(Interrupted { fault, outcome }),
        _ => Ok(outcome),
    }
}

struct Run<'a, F> {
    broker: &'a dyn Browse,
    action: Action,
    chosen: &'a Chosen,
    stop: &'a CancellationToken,
    now: Timestamp,
    each: F,
    outcome: Outcome,
}

impl<F: FnMut(Progress<'_>) + Send> Run<'_, F> {
    async fn queues(&mut self) -> Result<(), Fault> {
        let broker = self.broker;
        let depth = |queue: QueueName| async move {
            let depth = broker.depth(&queue.dead_letters()).await?;
            Ok::<_, Fault>((queue, depth))
        };
        // All before the first letter is moved: one that comes back in another queue is not taken again.
        let depths = try_join_all(self.chosen.queues().into_iter().map(depth)).await?;
        (self.each)(Progress::Total(depths.iter().map(|(_, depth)| depth).sum()));
        for (queue, depth) in depths {
            if depth > 0 && !self.is_over() {
                let mut browser = self.broker.browse(&queue.dead_letters(), depth).await?;
                let ended = self.letters(&queue, &mut *browser).await;
                // Also after an error: the letters that stay are returned in their order.
                let closed = browser.close().await;
                ended.and(closed)?;
            }
        }
        Ok(())
    }

    /// Whether no more letters are to be read.
    fn is_over(&self) -> bool {
        let handled = self.outcome.done + self.outcome.refused;
        self.stop.is_cancelled() || self.chosen.limit.is_some_and(|limit| handled >= limit)
    }

    async fn letters(&mut self, queue: &QueueName, browser: &mut dyn Browser) -> Result<(), Fault> {
        while !self.is_over() {
            let Some(next) = self.stop.run_until_cancelled(browser.next()).await else { break };
            let Some(Browsed { message, tag }) = next? else { break };
            self.outcome.read += 1;
            let letter = DeadLetter::new(queue, message);
            if self.chosen.has(&letter, self.now) {
                self.handle(&letter, tag, browser).await?;
            } else {
                (self.each)(Progress::Passed);
            }
        }
        Ok(())
    }

    async fn handle(&mut self, letter: &DeadLetter, tag: u64, browser: &mut dyn Browser) -> Result<(), Fault> {
        if self.action == Action::Redrive {
            match self.publish(letter, browser).await {
                Err(fault) if fault.kind() == FaultKind::TooLarge => {
                    self.outcome.refused += 1;
                    (self.each)(Progress::Refused(letter, &fault));
                    return Ok(());
                }
                published => published?,
            }
        }
        // A letter is removed only after the confirm: a crash in between loses none.
        if self.action != Action::List {
            browser.remove(tag).await?;
        }
        // Before the next letter is published, so that a crash duplicates one at most.
        if self.action == Action::Redrive {
            browser.flush().await?;
        }
        self.outcome.done += 1;
        (self.each)(Progress::Done(letter));
        Ok(())
    }

    /// Publishes the task as it was first published, so that its attempts count from the beginning.
    async fn publish(&self, letter: &DeadLetter, browser: &mut dyn Browser) -> Result<(), Fault> {
        let headers =
            TaskHeaders { failures: 0, last_error: None, stage: None, redeliveries: 0, ..letter.headers.clone() };
        let message = Message { body: letter.message.body.clone(), headers: headers.to_map() };
        for failures in 1.. {
            match self.broker.publish(&letter.queue, message.clone()).await {
                Err(fault) if !fault.is_permanent() && failures < TRIES => {
                    let wait: Duration = WAITS.wait_asked(fault.retry_after(), failures);
                    warn!(queue = %letter.queue, %fault, ?wait, "a letter was not redriven, retrying");
                    // A letter whose browser has lost its connection is back in its queue: published now, it would be doubled.
                    browser.flush().await?;
                    if self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                        return Err(fault);
                    }
                }
                ended => return ended,
            }
        }
        Ok(())
    }
}
