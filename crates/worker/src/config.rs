//! How patient a worker is.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lanes::LaneWeights;

/// A worker's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Tasks at work at once; also the prefetch, so none waits here that another worker could do.
    /// Each role has its own, so it is no setting of this name.
    #[serde(skip)]
    pub concurrency: u16,
    /// Seconds that one try may take. Prefetch times this has to stay well below the broker's own patience
    /// (RabbitMQ's `consumer_timeout`, 30 minutes).
    pub task_timeout_seconds: f64,
    /// Tries of one task before it is parked among the dead letters.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// Times a task may begin alone and take its worker down before it is parked. Counted in the cache, so only where
    /// the worker has a scoreboard.
    #[schemars(range(min = 1))]
    pub max_crashes: u32,
    /// Times the broker may hand out a task again without its being settled, for whatever reason. A broker counts what
    /// waits in a dying worker's hands as well, so this is the wider bound; RabbitMQ's quorum queues have the same limit,
    /// 20.
    pub max_redeliveries: u32,
    /// Seconds that a finished task waits for room in the next stage's full queue before it is put back. Together with
    /// the task's own time it has to stay below the broker's patience.
    pub full_queue_seconds: f64,
    /// The waits between tries.
    pub backoff: Backoff,
    /// Seconds that tasks at work may go on after shutdown has begun, before they are put back.
    pub grace_seconds: f64,
    /// Jobs begun in turn of each lane while all have some waiting.
    pub lane_weights: LaneWeights,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 4,
            task_timeout_seconds: 600.0,
            max_attempts: 5,
            max_crashes: 5,
            max_redeliveries: 20,
            full_queue_seconds: 900.0,
            backoff: Backoff::default(),
            grace_seconds: 25.0,
            lane_weights: LaneWeights::default(),
        }
    }
}

impl WorkerConfig {
    /// The time one try may take.
    pub fn task_timeout(&self) -> Duration {
        seconds(self.task_timeout_seconds)
    }

    /// The time that a finished task waits for room in the next queue.
    pub fn full_queue_patience(&self) -> Duration {
        seconds(self.full_queue_seconds)
    }

    /// The time from the beginning of shutdown to putting tasks back.
    pub fn grace(&self) -> Duration {
        seconds(self.grace_seconds)
    }
}

/// Exponential waits with full jitter in their upper half: between half of a wait and all of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// Seconds before the second try.
    pub first_seconds: f64,
    /// What each further wait is multiplied by.
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
    /// The wait that the other side asked for, up to a day, or else that of [`Backoff::wait`].
    pub fn wait_asked(&self, asked: Option<Duration>, failures: u32, jitter: f64) -> Duration {
        asked.map_or_else(|| self.wait(failures, jitter), |asked| seconds(asked.as_secs_f64()))
    }

    /// The wait after `failures` failures (1 or more). `jitter`, from 0 to 1, spreads those who failed together; it is
    /// an argument so that a test can fix it.
    pub fn wait(&self, failures: u32, jitter: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let wait = (self.first_seconds * self.factor.powi(exponent)).min(self.max_seconds);
        seconds(wait * (0.5 + 0.5 * jitter.clamp(0.0, 1.0)))
    }
}

const DAY: f64 = 86_400.0;

/// Seconds from a configuration; nonsense (negative, not a number) is no time at all, and a day is the most.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.min(DAY)).unwrap_or_default()
}

/// A number from 0 to 1, different each time; good enough to spread retries, and for nothing else.
pub(crate) fn jitter() -> f64 {
    random_number() as f64 / u64::MAX as f64
}

/// A number that is different each time: a hash under a key that the system drew when the thread began, and that the
/// standard library changes at every use. Good enough for ids that need not be secret.
pub(crate) fn random_number() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_never_pass_it() {
        let backoff = Backoff { first_seconds: 1.0, factor: 4.0, max_seconds: 60.0 };
        let waits: Vec<f64> = (1..=5).map(|failures| backoff.wait(failures, 1.0).as_secs_f64()).collect();
        assert_eq!(waits, [1.0, 4.0, 16.0, 60.0, 60.0]);
        assert_eq!(backoff.wait(1, 0.0).as_secs_f64(), 0.5);
        assert_eq!(backoff.wait(u32::MAX, 1.0).as_secs_f64(), 60.0);
        assert_eq!(backoff.wait(0, 1.0).as_secs_f64(), 1.0);
        assert_eq!(backoff.wait_asked(None, 2, 1.0).as_secs_f64(), 4.0);
        assert_eq!(backoff.wait_asked(Some(Duration::from_secs(90)), 2, 1.0).as_secs_f64(), 90.0);
        assert_eq!(backoff.wait_asked(Some(Duration::MAX), 2, 1.0).as_secs_f64(), DAY);
    }

    #[test]
    fn nonsense_in_a_configuration_is_no_crash() {
        for first_seconds in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            let backoff = Backoff { first_seconds, ..Backoff::default() };
            assert!(backoff.wait(3, f64::NAN) <= Duration::from_secs(86_400));
        }
    }

    #[test]
    fn jitter_stays_within_its_range_and_varies() {
        let numbers: Vec<f64> = (0..100).map(|_| jitter()).collect();
        assert!(numbers.iter().all(|number| (0.0..=1.0).contains(number)));
        assert!(numbers.iter().any(|number| *number != numbers[0]));
    }
}
