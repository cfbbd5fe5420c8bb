//! A circuit breaker for each server: a server that did not answer is not called for a while.
//!
//! ```text
//!           failed                   the pause is over: one call is allowed
//!  closed ─────────▶ open ──────────────────────────────────────▶ half-open
//!     ▲               ▲      twice the previous pause                │ │
//!     │               └──────────────────── failed ──────────────────┘ │
//!     └──────────────────────────────────── answered ──────────────────┘
//! ```

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How long a circuit is open after the first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest time for which a circuit is open.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a half-open circuit waits for the outcome of its trial call; after that another trial call is allowed.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Circuits that are kept; beyond it the one that ends its pause first is dropped.
const MAX_CIRCUITS: usize = 4_096;

/// The circuits that are not closed, by server. A closed circuit has no entry.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreaker {
    circuits: Mutex<HashMap<String, Circuit>>,
}

/// A circuit that is open or half-open.
#[derive(Clone, Copy, Debug)]
struct Circuit {
    /// How long it is open this time.
    pause: Duration,
    /// The end of the pause, or of the trial call's time.
    until: Instant,
    /// Whether a trial call was allowed and has not ended.
    is_half_open: bool,
}

impl CircuitBreaker {
    /// Whether the server may be called now; if not, the rest of the pause. After the pause the first caller makes the trial
    /// call, and for the others [`TRIAL_TIMEOUT`] is a further pause.
    pub(crate) fn may_call(&self, host: &str) -> Result<(), Duration> {
        let mut circuits = self.lock();
        let Some(circuit) = circuits.get_mut(host) else { return Ok(()) };
        let now = Instant::now();
        let left = circuit.until.saturating_duration_since(now);
        if !left.is_zero() {
            return Err(left);
        }
        *circuit = Circuit { until: now + TRIAL_TIMEOUT, is_half_open: true, ..*circuit };
        Ok(())
    }

    /// The server answered, with whatever status: closes its circuit.
    pub(crate) fn answered(&self, host: &str) {
        self.lock().remove(host);
    }

    /// The server did not answer: opens its circuit.
    pub(crate) fn failed(&self, host: &str) {
        let now = Instant::now();
        let mut circuits = self.lock();
        if let Some(circuit) = circuits.get_mut(host) {
            // Only the trial call doubles the pause: of calls that were in flight together, the first failure counts.
            if circuit.is_half_open {
                let pause = (circuit.pause * 2).min(LONGEST_PAUSE);
                *circuit = Circuit { pause, until: now + pause, is_half_open: false };
            }
            return;
        }
        if circuits.len() >= MAX_CIRCUITS
            && let Some(first) = circuits.iter().min_by_key(|(_, circuit)| circuit.until).map(|(host, _)| host.clone())
        {
            circuits.remove(&first);
        }
        circuits.insert(host.to_owned(), Circuit { pause: FIRST_PAUSE, until: now + FIRST_PAUSE, is_half_open: false });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Circuit>> {
        // A poisoned lock can be used: each change under it is complete before any code that could panic.
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_failure_opens_the_circuit_and_one_trial_call_follows() {
        let breaker = CircuitBreaker::default();
        assert_eq!(breaker.may_call("slow"), Ok(()));
        breaker.failed("slow");
        assert_eq!(breaker.may_call("slow"), Err(SECOND));
        assert_eq!(breaker.may_call("other"), Ok(()), "the others are called as ever");
        advance(SECOND).await;
        assert_eq!(breaker.may_call("slow"), Ok(()), "the pause is over");
        assert_eq!(breaker.may_call("slow"), Err(TRIAL_TIMEOUT), "and one may try");
        breaker.answered("slow");
        assert_eq!([breaker.may_call("slow"), breaker.may_call("slow")], [Ok(()), Ok(())], "it is there again");
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_trial_doubles_the_pause_up_to_a_minute() {
        let breaker = CircuitBreaker::default();
        breaker.failed("slow");
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            // A call that was in flight together with the one that failed first.
            breaker.failed("slow");
            advance(SECOND * seconds - MOMENT).await;
            assert_eq!(breaker.may_call("slow"), Err(MOMENT), "{seconds} s are not over");
            advance(MOMENT).await;
            assert_eq!(breaker.may_call("slow"), Ok(()), "{seconds} s are over");
            breaker.failed("slow");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_call_without_an_outcome_is_followed_by_another() {
        let breaker = CircuitBreaker::default();
        breaker.failed("slow");
        advance(SECOND).await;
        assert_eq!(breaker.may_call("slow"), Ok(()));
        advance(TRIAL_TIMEOUT - MOMENT).await;
        assert_eq!(breaker.may_call("slow"), Err(MOMENT));
        advance(MOMENT).await;
        assert_eq!(breaker.may_call("slow"), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let breaker = CircuitBreaker::default();
        for host in 0..MAX_CIRCUITS + 10 {
            breaker.failed(&host.to_string());
        }
        assert_eq!(breaker.lock().len(), MAX_CIRCUITS);
        assert!(breaker.may_call(&(MAX_CIRCUITS + 9).to_string()).is_err(), "the last one is remembered");
    }
}
