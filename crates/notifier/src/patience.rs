//! The circuit breaker of each server that callbacks are sent to.
//!
//! ```text
//!          failed               the open time has passed: one trial call
//!  closed ────────▶ open ────────────────────────────────────────────────▶ half-open
//!     ▲               ▲  failed: open for twice as long as before             │  │
//!     │               └───────────────────────────────────────────────────────┘  │
//!     └────────────────────────────── answered ──────────────────────────────────┘
//! ```

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long the circuit of a server stays open after its first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The maximum time for which a circuit stays open.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Timeout of a trial call: while it is pending, other calls are rejected; afterwards another trial is allowed.
const TRIAL: Duration = Duration::from_secs(30);

/// Maximum number of servers with an open circuit that are remembered. Beyond it, the one whose time ends first is
/// forgotten.
const REMEMBERED: usize = 4_096;

/// The servers that failed, and until when calls to them are rejected.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    servers: Mutex<HashMap<String, Away>>,
}

#[derive(Clone, Copy, Debug)]
struct Away {
    /// How long the circuit is open this time.
    pause: Duration,
    /// The end of the open time, or of the trial's timeout.
    until: Instant,
    /// Whether a trial call is in progress (the circuit is half-open).
    is_tried: bool,
}

impl Patience {
    /// Returns whether the server may be called now; if not, returns the remaining time. After the open time the first
    /// caller may make a trial call, and the others must wait for at most the trial's timeout.
    pub(crate) fn may_call(&self, host: &str) -> Result<(), Duration> {
        let mut servers = self.lock();
        let Some(away) = servers.get_mut(host) else { return Ok(()) };
        let now = Instant::now();
        let left = away.until.saturating_duration_since(now);
        if !left.is_zero() {
            return Err(left);
        }
        *away = Away { until: now + TRIAL, is_tried: true, ..*away };
        Ok(())
    }

    /// Records that the server has answered, whatever the answer: the circuit is closed.
    pub(crate) fn answered(&self, host: &str) {
        self.lock().remove(host);
    }

    /// Records that the server did not answer.
    pub(crate) fn failed(&self, host: &str) {
        let now = Instant::now();
        let mut servers = self.lock();
        if let Some(away) = servers.get_mut(host) {
            // Calls that were in progress at the same time fail together, and count as one failure. So only a failed
            // trial extends the open time.
            if away.is_tried {
                let pause = (away.pause * 2).min(LONGEST_PAUSE);
                *away = Away { pause, until: now + pause, is_tried: false };
            }
            return;
        }
        if servers.len() >= REMEMBERED
            && let Some(soonest) = servers.iter().min_by_key(|(_, away)| away.until).map(|(host, _)| host.clone())
        {
            servers.remove(&soonest);
        }
        servers.insert(host.to_owned(), Away { pause: FIRST_PAUSE, until: now + FIRST_PAUSE, is_tried: false });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Away>> {
        // A poisoned lock can be used: each change under it is complete before any code that could panic.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_is_left_alone_and_then_tried_by_one() {
        let patience = Patience::default();
        assert_eq!(patience.may_call("slow"), Ok(()));
        patience.failed("slow");
        assert_eq!(patience.may_call("slow"), Err(SECOND));
        assert_eq!(patience.may_call("other"), Ok(()), "the others are called as ever");
        advance(SECOND).await;
        assert_eq!(patience.may_call("slow"), Ok(()), "the pause is over");
        assert_eq!(patience.may_call("slow"), Err(TRIAL), "and one may try");
        patience.answered("slow");
        assert_eq!([patience.may_call("slow"), patience.may_call("slow")], [Ok(()), Ok(())], "it is there again");
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_trial_doubles_the_pause_up_to_a_minute() {
        let patience = Patience::default();
        patience.failed("slow");
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            // Another call that was in progress at the same time as the trial.
            patience.failed("slow");
            advance(SECOND * seconds - MOMENT).await;
            assert_eq!(patience.may_call("slow"), Err(MOMENT), "{seconds} s are not over");
            advance(MOMENT).await;
            assert_eq!(patience.may_call("slow"), Ok(()), "{seconds} s are over");
            patience.failed("slow");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_nobody_ends_makes_room_for_another() {
        let patience = Patience::default();
        patience.failed("slow");
        advance(SECOND).await;
        assert_eq!(patience.may_call("slow"), Ok(()));
        advance(TRIAL - MOMENT).await;
        assert_eq!(patience.may_call("slow"), Err(MOMENT));
        advance(MOMENT).await;
        assert_eq!(patience.may_call("slow"), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let patience = Patience::default();
        for host in 0..REMEMBERED + 10 {
            patience.failed(&host.to_string());
        }
        assert_eq!(patience.lock().len(), REMEMBERED);
        assert!(patience.may_call(&(REMEMBERED + 9).to_string()).is_err(), "the last one is remembered");
    }
}
