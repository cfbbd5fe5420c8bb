//! The waits before an event that RabbitMQ rejected is published again.
//!
//! RabbitMQ rejects a message if any of its queues rejects it, even though all others accept it: one is full, or has lost
//! its nodes. These are queues of listeners, not ours, and no job may wait for them for long. An event is published again
//! for about as long as a quorum queue needs to elect another leader. After that the event is lost for the listener whose
//! queue rejects it, and for a time no rejected event is published again.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use echogen_ports::Backoff;
use tokio::time::Instant;
use tracing::{debug, warn};

/// The waits before an event is published again.
const WAITS: Backoff = Backoff::doubling(0.25, 4.0);

/// How often an event is published again: within about 12 to 16 seconds.
const MAX_RETRIES: u32 = 7;

/// How long no rejected event is published again after one was given up.
const PAUSE: Duration = Duration::from_secs(60);

/// The time until which rejected events are not published again.
#[derive(Debug, Default)]
pub(super) struct RejectedEventBackoff(Mutex<Option<Instant>>);

impl RejectedEventBackoff {
    /// The wait before an event that was rejected `times` times is published again; `None` to give it up.
    pub(super) fn wait(&self, times: u32, to: &str) -> Option<Duration> {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some_and(|until| Instant::now() < until) {
            debug!(to, "an event is lost for a listener whose queue is full or unavailable");
            return None;
        }
        let wait = (times <= MAX_RETRIES).then(|| WAITS.wait(times));
        if wait.is_none() {
            *until = Some(Instant::now() + PAUSE);
            warn!(to, "a listener's queue is full or unavailable and gets no events; empty it, or remove its binding");
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
        let backoff = RejectedEventBackoff::default();
        let waits: Vec<Duration> = (1..).map_while(|times| backoff.wait(times, "events")).collect();
        assert_eq!(waits.len(), MAX_RETRIES as usize);
        let total: Duration = waits.iter().sum();
        assert!((7.8..15.8).contains(&total.as_secs_f64()), "{total:?}");
        assert_eq!(backoff.wait(1, "events"), None, "the next is given up at once");
        advance(PAUSE).await;
        assert!(backoff.wait(1, "events").is_some_and(|wait| wait <= Duration::from_millis(250)));
    }
}
