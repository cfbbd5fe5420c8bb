//! A circuit breaker for each server and reply queue: one that did not answer is not called for a while, and is never
//! called more than a few times at once.
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

/// Calls to one server at once. A server that hangs holds no more of the notifier than this until its circuit opens.
const MAX_IN_FLIGHT: u32 = 8;

/// The wait of a caller that finds so many calls under way.
const BUSY_WAIT: Duration = Duration::from_millis(500);

/// Circuits that are kept; beyond it the one that ends its pause first is dropped.
const MAX_CIRCUITS: usize = 4_096;

/// The circuits that are not closed or have calls under way, by server. All others have no entry.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreaker {
    circuits: Mutex<HashMap<String, Circuit>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Circuit {
    /// Calls under way.
    in_flight: u32,
    /// `None` while it is closed.
    open: Option<Open>,
}

/// The state of a circuit that is open or half-open.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// How long it is open this time.
    pause: Duration,
    /// The end of the pause, or of the trial call's time.
    until: Instant,
    /// Whether a trial call was allowed and has not ended.
    is_half_open: bool,
}

/// A call that is allowed. Dropping it without an outcome says nothing about the server.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    breaker: &'a CircuitBreaker,
    server: &'a str,
}

impl CircuitBreaker {
    /// Whether the server may be called now; if not, how long to wait. After the pause the first caller makes the trial
    /// call, and for the others [`TRIAL_TIMEOUT`] is a further pause.
    pub(crate) fn may_call<'a>(&'a self, server: &'a str) -> Result<Call<'a>, Duration> {
        let mut circuits = self.lock();
        let circuit = circuits.entry(server.to_owned()).or_default();
        let now = Instant::now();
        if let Some(open) = &mut circuit.open {
            let left = open.until.saturating_duration_since(now);
            if !left.is_zero() {
                return Err(left);
            }
            *open = Open { until: now + TRIAL_TIMEOUT, is_half_open: true, ..*open };
        } else if circuit.in_flight >= MAX_IN_FLIGHT {
            return Err(BUSY_WAIT);
        }
        circuit.in_flight += 1;
        Ok(Call { breaker: self, server })
    }

    fn change(&self, server: &str, change: impl FnOnce(&mut Circuit)) {
        let mut circuits = self.lock();
        let Some(circuit) = circuits.get_mut(server) else { return };
        change(circuit);
        if circuit.in_flight == 0 && circuit.open.is_none() {
            circuits.remove(server);
        }
        if circuits.len() > MAX_CIRCUITS {
            let idle = circuits.iter().filter(|(_, circuit)| circuit.in_flight == 0);
            let first = idle.min_by_key(|(_, circuit)| circuit.open.map(|open| open.until));
            if let Some(server) = first.map(|(server, _)| server.clone()) {
                circuits.remove(&server);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Circuit>> {
        // A poisoned lock can be used: each change under it is complete before any code that could panic.
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call<'_> {
    /// The server answered, with whatever status: closes its circuit.
    pub(crate) fn answered(self) {
        self.breaker.change(self.server, |circuit| circuit.open = None);
    }

    /// The server did not answer: opens its circuit.
    pub(crate) fn failed(self) {
        let now = Instant::now();
        self.breaker.change(self.server, |circuit| match &mut circuit.open {
            None => circuit.open = Some(Open { pause: FIRST_PAUSE, until: now + FIRST_PAUSE, is_half_open: false }),
            // Only the trial call doubles the pause: of calls that were in flight together, the first failure counts.
            Some(open) if open.is_half_open => {
                let pause = (open.pause * 2).min(LONGEST_PAUSE);
                *open = Open { pause, until: now + pause, is_half_open: false };
            }
            Some(_) => {}
        });
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.breaker.change(self.server, |circuit| circuit.in_flight = circuit.in_flight.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_millis(1);

    impl CircuitBreaker {
        /// The wait of a caller; `None` if the call is allowed. The call has no outcome.
        fn wait(&self, server: &str) -> Option<Duration> {
            self.may_call(server).err()
        }

        fn fail(&self, server: &str) {
            self.may_call(server).unwrap().failed();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_opens_the_circuit_and_one_trial_call_follows() {
        let breaker = CircuitBreaker::default();
        breaker.fail("slow");
        assert_eq!(breaker.wait("slow"), Some(SECOND));
        assert_eq!(breaker.wait("other"), None, "the others are called as ever");
        advance(SECOND).await;
        let trial = breaker.may_call("slow").expect("the pause is over");
        assert_eq!(breaker.wait("slow"), Some(TRIAL_TIMEOUT), "and one may try");
        trial.answered();
        assert_eq!([breaker.wait("slow"), breaker.wait("slow")], [None, None], "it is there again");
        assert!(breaker.lock().is_empty(), "a closed circuit takes no memory");
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_trial_doubles_the_pause_up_to_a_minute() {
        let breaker = CircuitBreaker::default();
        let (first, second) = (breaker.may_call("slow").unwrap(), breaker.may_call("slow").unwrap());
        first.failed();
        // It was in flight together with the one that failed first.
        second.failed();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            advance(SECOND * seconds - MOMENT).await;
            assert_eq!(breaker.wait("slow"), Some(MOMENT), "{seconds} s are not over");
            advance(MOMENT).await;
            breaker.fail("slow");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_call_without_an_outcome_is_followed_by_another() {
        let breaker = CircuitBreaker::default();
        breaker.fail("slow");
        advance(SECOND).await;
        assert_eq!(breaker.wait("slow"), None);
        advance(TRIAL_TIMEOUT - MOMENT).await;
        assert_eq!(breaker.wait("slow"), Some(MOMENT));
        advance(MOMENT).await;
        assert_eq!(breaker.wait("slow"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_holds_a_few_calls_and_no_more() {
        let breaker = CircuitBreaker::default();
        let calls: Vec<Call<'_>> = (0..MAX_IN_FLIGHT).map(|_| breaker.may_call("hanging").unwrap()).collect();
        assert_eq!(breaker.wait("hanging"), Some(BUSY_WAIT));
        assert_eq!(breaker.wait("other"), None);
        drop(calls);
        assert_eq!(breaker.wait("hanging"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let breaker = CircuitBreaker::default();
        for server in 0..MAX_CIRCUITS + 10 {
            breaker.fail(&server.to_string());
        }
        assert!(breaker.lock().len() <= MAX_CIRCUITS);
        assert!(breaker.wait(&(MAX_CIRCUITS + 9).to_string()).is_some(), "the last one is remembered");
    }
}
