//! The settings of a worker.

use std::time::Duration;

use echogen_ports::{Backoff, clamped_seconds};
use echogen_protocol::{Lane, Partitions, QueueName, StageName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lanes::LaneWeights;

/// A worker's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Tasks at work at once; also the prefetch, so none waits here that another worker could do.
    /// Each role has its own, so it is no setting of this name.
    #[serde(skip)]
    pub concurrency: u16,
    /// The cost of the tasks in hand that have not begun: a worker receives another while they cost less. Each stage has
    /// its own, so it is no setting of this name.
    #[serde(skip)]
    pub max_waiting_cost: u64,
    /// The partitions of tenants. It is a setting of the broker's.
    #[serde(skip)]
    pub partitions: Partitions,
    /// Time limit in seconds for one attempt. It runs while the task is at work: in the sampler it rests until a batch has
    /// begun with the job, and between its batches. It must be well below the broker's delivery timeout (RabbitMQ's
    /// `consumer_timeout`, 30 minutes).
    pub task_timeout_seconds: f64,
    /// Attempts of a task before it is parked in the dead-letter queue.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// Crashes of a worker while it runs the task alone, before the task is parked. They are counted in the cache.
    #[schemars(range(min = 1))]
    pub max_crashes: u32,
    /// Redeliveries of a task without an acknowledgement before it is parked. The broker also counts tasks that a
    /// crashed worker had only prefetched, so this limit is higher than `max_crashes`.
    pub max_redeliveries: u32,
    /// Seconds that a finished task waits while the next stage's queue is full, before it is requeued. Together with
    /// `task_timeout_seconds` it must be below the broker's delivery timeout.
    pub full_queue_seconds: f64,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Seconds that running tasks may continue after shutdown has begun, before they are requeued.
    pub grace_seconds: f64,
    /// Shares of the lanes while all have jobs waiting.
    pub lane_weights: LaneWeights,
    /// The lanes whose queues are consumed, such as those that a pool of workers is for. A lane that no worker of a stage
    /// consumes is worked off by nobody. What belongs to no lane is consumed in any case: tasks that the broker returned, and
    /// those of senders of earlier versions.
    pub lanes: Vec<Lane>,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 4,
            max_waiting_cost: u64::MAX,
            partitions: Partitions::ONE,
            task_timeout_seconds: 600.0,
            max_attempts: 5,
            max_crashes: 5,
            max_redeliveries: 20,
            full_queue_seconds: 900.0,
            backoff: Backoff::default(),
            grace_seconds: 25.0,
            lane_weights: LaneWeights::default(),
            lanes: Lane::ALL.to_vec(),
        }
    }
}

impl WorkerConfig {
    /// The queues of a stage that its worker consumes: those of its lanes, lane by lane, and what belongs to no lane.
    pub fn queues(&self, stage: StageName) -> Vec<QueueName> {
        let mut queues = stage.queues(self.partitions);
        queues.retain(|queue| queue.place().is_none_or(|(_, lane, _)| self.lanes.contains(&lane)));
        queues.into_iter().chain(stage.unsplit()).chain(stage.returned()).collect()
    }

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
