//! Which servers are left alone because they did not answer.
//!
//! ```text
//!            failed                    the pause is over: one may try
//!  answers ─────────▶ left alone ──────────────────────────────────────▶ tried
//!     ▲                  ▲  twice as long as last time                     │ │
//!     │                  └──────────────────── failed ─────────────────────┘ │
//!     └──────────────────────────────────────── answered ────────────────────┘
//! ```

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a server is left alone after its first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest time for which one is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long the others wait for the answer to the one that tries; after that another may.
const TRIAL: Duration = Duration::from_secs(30);

/// Servers that are remembered; past it the one that may be called soonest is forgotten.
const REMEMBERED: usize = 4_096;

/// Servers that failed, and until when nobody calls them.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    servers: Mutex<HashMap<String, Away>>,
}

#[derive(Clone, Copy, Debug)]
struct Away {
    /// How long it is left alone this time.
    pause: Duration,
    /// The end of the pause, or of the trial.
    until: Instant,
    /// Whether somebody tries.
    is_tried: bool,
}

impl Patience {
    /// Whether the server may be called now. When its pause is over, the first who asks may, and the others wait for what
    /// comes of it.
    pub(crate) fn may_call(&self, host: &str) -> bool {
        let mut servers = self.lock();
        let Some(away) = servers.get_mut(host) else { return true };
        let now = Instant::now();
        let may = away.until <= now;
        if may {
            *away = Away { until: now + TRIAL, is_tried: true, ..*away };
        }
        may
    }

    /// The server answered: it is there.
    pub(crate) fn answered(&self, host: &str) {
        self.lock().remove(host);
    }

    /// The server did not answer, or asked for patience.
    pub(crate) fn failed(&self, host: &str) {
        let now = Instant::now();
        let mut servers = self.lock();
        if let Some(away) = servers.get_mut(host) {
            // Calls that were under way together fail together, and count once.
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
        // Each change under this lock is complete before anything can panic.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_is_left_alone_and_then_tried_by_one() {
        let patience = Patience::default();
        assert!(patience.may_call("slow"));
        patience.failed("slow");
        assert!(!patience.may_call("slow"));
        assert!(patience.may_call("other"), "the others are called as ever");
        advance(SECOND).await;
        assert!(patience.may_call("slow"), "the pause is over");
        assert!(!patience.may_call("slow"), "and one may try");
        patience.answered("slow");
        assert!(patience.may_call("slow") && patience.may_call("slow"), "it is there again");
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_trial_doubles_the_pause_up_to_a_minute() {
        let patience = Patience::default();
        patience.failed("slow");
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            // What was under way together with the one that tried.
            patience.failed("slow");
            advance(SECOND * seconds - Duration::from_millis(1)).await;
            assert!(!patience.may_call("slow"), "{seconds} s are not over");
            advance(Duration::from_millis(1)).await;
            assert!(patience.may_call("slow"), "{seconds} s are over");
            patience.failed("slow");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_nobody_ends_makes_room_for_another() {
        let patience = Patience::default();
        patience.failed("slow");
        advance(SECOND).await;
        assert!(patience.may_call("slow"));
        advance(TRIAL - Duration::from_millis(1)).await;
        assert!(!patience.may_call("slow"));
        advance(Duration::from_millis(1)).await;
        assert!(patience.may_call("slow"));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let patience = Patience::default();
        for host in 0..REMEMBERED + 10 {
            patience.failed(&host.to_string());
        }
        assert_eq!(patience.lock().len(), REMEMBERED);
        assert!(!patience.may_call(&(REMEMBERED + 9).to_string()), "the last one is remembered");
    }
}
