//! Limits that many processes keep together: so many requests a second, so many pictures a day, so many at once.

use std::time::Duration;

use async_trait::async_trait;

use crate::Fault;

/// The longest time in which a whole [`Rate::burst`] may come back.
const LONGEST_REFILL: Duration = Duration::from_secs(30 * 86_400);

/// The most permits in a second: their interval is counted in whole microseconds.
const FASTEST: f64 = 10_000.0;

/// Limits under keys, shared by all who use the same server. What it knows may be lost at any time: then everything is
/// allowed once more. Time is the server's.
///
/// The three kinds are separate: a key may name one of each. Every entry has a time to live.
#[async_trait]
pub trait Quota: Send + Sync + std::fmt::Debug {
    /// Takes `cost` permits of the rate if there are that many, and none otherwise (GCRA: permits come back one by one, no
    /// window ends for all at once). A cost of 0 takes nothing and only looks; one over the burst is never allowed. The rate
    /// may differ from call to call.
    async fn charge(&self, key: &str, rate: Rate, cost: u32) -> Result<Charge, Fault>;

    /// Adds to a counter if it then is at most `limit`, and not at all otherwise. The counter starts again from 0 when `ttl`
    /// has passed since its first addition. Adding 0 only looks, and is allowed up to the limit.
    async fn count(&self, key: &str, add: u64, limit: u64, ttl: Duration) -> Result<Counted, Fault>;

    /// Puts `id` into a set of at most `limit` ids, from which it disappears after `ttl`. An id that is there already stays
    /// there for `ttl` from now, whatever the limit.
    async fn hold(&self, key: &str, id: &str, limit: u64, ttl: Duration) -> Result<Held, Fault>;

    /// Takes `id` out of the set. Idempotent.
    async fn release(&self, key: &str, id: &str) -> Result<(), Fault>;

    /// Returns the number of ids in the set.
    async fn held(&self, key: &str) -> Result<u64, Fault>;

    /// Returns the ids in the set, in the order of their bytes.
    async fn members(&self, key: &str) -> Result<Vec<String>, Fault>;
}

/// How fast permits come back, and how many there can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// The number of permits after a long rest, at least 1.
    pub burst: u32,
    /// Permits that come back in a second: above 0 and at most 10,000.
    pub per_second: f64,
}

impl Rate {
    /// The time between two permits, in microseconds. It is an error if the rate has no sense, or if a whole burst takes more
    /// than 30 days to come back.
    pub fn interval_micros(&self) -> Result<u64, Fault> {
        let Self { burst, per_second } = *self;
        if burst == 0 {
            return Err(Fault::refused("a burst is 0; write at least 1"));
        }
        if !(per_second > 0.0 && per_second <= FASTEST) {
            return Err(Fault::refused(format!(
                "a rate is {per_second} a second; write more than 0, at most {FASTEST}"
            )));
        }
        let seconds = per_second.recip();
        if seconds * f64::from(burst) > LONGEST_REFILL.as_secs_f64() {
            let what = format!("a burst of {burst} at {per_second} a second takes more than 30 days to come back");
            return Err(Fault::refused(format!("{what}; raise the rate or lower the burst")));
        }
        // At least 100 and at most 30 days.
        Ok((seconds * 1e6).round() as u64)
    }

    /// A cost that cannot overflow: all that are over the burst are alike, as none of them is ever allowed.
    pub fn bounded(&self, cost: u32) -> u32 {
        cost.min(self.burst.saturating_add(1))
    }
}

/// The answer of [`Quota::charge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Whether the permits were taken.
    pub allowed: bool,
    /// Permits that are left.
    pub remaining: u32,
    /// When the same charge would be allowed if nobody else took any; zero if it was.
    pub retry_after: Duration,
    /// When the whole burst would be there again.
    pub reset_after: Duration,
}

/// The answer of [`Quota::count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Whether it was added.
    pub allowed: bool,
    /// What the counter is now.
    pub used: u64,
}

/// The answer of [`Quota::hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whether the id is in the set.
    pub allowed: bool,
    /// The number of ids in the set now.
    pub held: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_without_sense_is_refused_and_says_what_to_write() {
        for (burst, per_second, why) in [
            (0, 1.0, "at least 1"),
            (1, 0.0, "more than 0"),
            (1, -1.0, "more than 0"),
            (1, f64::NAN, "more than 0"),
            (1, f64::INFINITY, "at most 10000"),
            (u32::MAX, 1.0, "more than 30 days"),
            (1, f64::MIN_POSITIVE, "more than 30 days"),
        ] {
            let error = Rate { burst, per_second }.interval_micros().unwrap_err();
            assert!(error.is_permanent() && error.to_string().contains(why), "{error}");
        }
        assert_eq!(Rate { burst: 1, per_second: 50.0 }.interval_micros().unwrap(), 20_000);
        assert_eq!(Rate { burst: u32::MAX, per_second: 10_000.0 }.interval_micros().unwrap(), 100);
    }
}
