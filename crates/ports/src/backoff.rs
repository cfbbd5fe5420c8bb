//! Waits between attempts.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{MAX_SECONDS, clamped_seconds};

/// Exponential waits with jitter in their upper half: between half of a wait and all of it, so that callers that failed
/// together do not retry together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// Seconds before the second attempt.
    pub first_seconds: f64,
    /// Factor from one wait to the next.
    #[schemars(range(min = 1.0))]
    pub factor: f64,
    /// The longest wait in seconds.
    pub max_seconds: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first_seconds: 1.0, factor: 4.0, max_seconds: 300.0 }
    }
}

impl Backoff {
    /// Waits that double from `first_seconds` to `max_seconds`.
    pub const fn doubling(first_seconds: f64, max_seconds: f64) -> Self {
        Self { first_seconds, factor: 2.0, max_seconds }
    }

    /// The wait after `failures` failures (1 or more).
    pub fn wait(&self, failures: u32) -> Duration {
        self.part(failures, 0.5 + 0.5 * random_number() as f64 / u64::MAX as f64)
    }

    /// The wait that the other side asked for, up to a day, or else that of [`Backoff::wait`].
    pub fn wait_asked(&self, asked: Option<Duration>, failures: u32) -> Duration {
        asked.map_or_else(|| self.wait(failures), |asked| asked.min(clamped_seconds(MAX_SECONDS)))
    }

    /// The longest that [`Backoff::wait`] can be.
    pub fn longest(&self, failures: u32) -> Duration {
        self.part(failures, 1.0)
    }

    fn part(&self, failures: u32, part: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        clamped_seconds((self.first_seconds * self.factor.powi(exponent)).min(self.max_seconds) * part)
    }
}

/// A number that is different each time: a hash under a key that is random per thread and that the standard library
/// changes at every use. Good enough to spread retries and for ids that need not be secret.
pub fn random_number() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_never_pass_it() {
        let backoff = Backoff { first_seconds: 1.0, factor: 4.0, max_seconds: 60.0 };
        let longest: Vec<f64> = (1..=5).map(|failures| backoff.longest(failures).as_secs_f64()).collect();
        assert_eq!(longest, [1.0, 4.0, 16.0, 60.0, 60.0]);
        for failures in [0, 1, 3, 40, u32::MAX] {
            let (wait, longest) = (backoff.wait(failures), backoff.longest(failures));
            assert!(wait >= longest / 2 && wait <= longest, "{failures}: {wait:?}");
        }
        assert_eq!(backoff.longest(u32::MAX).as_secs_f64(), 60.0);
        assert_eq!(backoff.longest(0).as_secs_f64(), 1.0);
        assert!(backoff.wait_asked(None, 2) <= Duration::from_secs(4));
        assert_eq!(backoff.wait_asked(Some(Duration::from_secs(90)), 2).as_secs_f64(), 90.0);
        assert_eq!(backoff.wait_asked(Some(Duration::MAX), 2).as_secs_f64(), MAX_SECONDS);
    }

    #[test]
    fn those_who_failed_together_wait_differently() {
        let waits: std::collections::BTreeSet<Duration> = (0..100).map(|_| Backoff::default().wait(1)).collect();
        assert!(waits.len() > 50, "{waits:?}");
    }

    #[test]
    fn nonsense_is_bounded() {
        for first_seconds in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            assert!(Backoff { first_seconds, ..Backoff::default() }.wait(3) <= clamped_seconds(MAX_SECONDS));
        }
    }
}
