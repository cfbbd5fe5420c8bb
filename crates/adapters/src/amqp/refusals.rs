//! What is done about an event that RabbitMQ refuses.
//!
//! It refuses a message if any of the queues that it is for refuses it, though all others take it: one is full, or has lost
//! its nodes. Those are queues of listeners, not ours, and no job may wait for them for long. So an event is sent again for
//! a while, as long as a queue takes to find another leader; then it is lost for whom it was refused, and for a time no
//! further one is sent again.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use echogen_ports::Backoff;
use tokio::time::Instant;
use tracing::{debug, warn};

/// The waits before an event is sent again.
const WAITS: Backoff = Backoff::doubling(0.25, 4.0);

/// How often an event is sent again: for some 12 to 16 seconds.
const TIMES: u32 = 7;

/// How long nothing is sent again after one was given up.
const PAUSE: Duration = Duration::from_secs(60);

/// Until when refused events are not sent again.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Option<Instant>>);

impl Refusals {
    /// How long to wait before an event is sent again that was refused `times` times; `None` to give it up.
    pub(super) fn wait(&self, times: u32, to: &str) -> Option<Duration> {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| Instant::now() < until) {
            debug!(to, "an event is lost for a listener whose queue is full or away");
            return None;
        }
        let wait = (times <= TIMES).then(|| WAITS.wait(times));
        if wait.is_none() {
            *until = Some(Instant::now() + PAUSE);
            warn!(to, "a listener's queue is full or away: it gets no events; empty it, or take its binding away");
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_event_is_sent_again_for_a_while_and_after_one_was_given_up_none_is_for_a_time() {
        let refusals = Refusals::default();
        let waits: Vec<Duration> = (1..).map_while(|times| refusals.wait(times, "events")).collect();
        assert_eq!(waits.len(), TIMES as usize);
        let total: Duration = waits.iter().sum();
        assert!((7.8..15.8).contains(&total.as_secs_f64()), "{total:?}");
        assert_eq!(refusals.wait(1, "events"), None, "the next is given up at once");
        advance(PAUSE).await;
        assert!(refusals.wait(1, "events").is_some_and(|wait| wait <= Duration::from_millis(250)));
    }
}
