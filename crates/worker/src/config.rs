//! The settings of a worker.

use std::time::Duration;

use echogen_ports::{Backoff, clamped_seconds};
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
        clamped_seconds(self.task_timeout_seconds)
    }

    /// The time that a finished task waits for room in the next queue.
    pub fn full_queue_timeout(&self) -> Duration {
        clamped_seconds(self.full_queue_seconds)
    }

    /// The time from the beginning of shutdown to putting tasks back.
    pub fn grace(&self) -> Duration {
        clamped_seconds(self.grace_seconds)
    }
}
