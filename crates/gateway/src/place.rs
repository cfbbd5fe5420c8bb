//! A job's place in the line: how many tasks wait in the queues of its lane and partition.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use echogen_ports::Browse;
use echogen_protocol::{Job, Lane, Partition, QueueName, StageName};

use crate::{Gateway, jobs::PlaceInQueue};

/// The time for which a depth that was read is good enough.
const FRESH: Duration = Duration::from_secs(1);

/// Depths by lane and partition, with the time when they were read.
type Read = HashMap<(Lane, Partition), (Instant, u64)>;

/// Reads depths, at most once a second for each lane and partition.
#[derive(Debug)]
pub(crate) struct Places {
    browse: Arc<dyn Browse>,
    read: Mutex<Read>,
}

impl Places {
    pub(crate) fn new(browse: Arc<dyn Browse>) -> Self {
        Self { browse, read: Mutex::default() }
    }

    async fn waiting(&self, lane: Lane, partition: Partition) -> Option<u64> {
        let read = |read: &Read| {
            read.get(&(lane, partition)).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, waiting)| *waiting)
        };
        if let Some(waiting) = read(&self.read.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Some(waiting);
        }
        let split = StageName::ALL.into_iter().filter(|stage| !stage.lanes().is_empty());
        let queues: Vec<QueueName> = split.map(|stage| QueueName::in_partition(stage, lane, partition)).collect();
        let mut waiting = 0;
        for queue in &queues {
            let depth = self.browse.depth(queue).await;
            waiting += depth.inspect_err(|error| tracing::debug!(%error, "depths not read")).ok()?;
        }
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert((lane, partition), (Instant::now(), waiting));
        Some(waiting)
    }
}

impl Gateway {
    /// The place of a job that waits; `None` if the depths cannot be read. The job itself is among those that wait.
    pub(crate) async fn place(&self, job: &Job) -> Option<PlaceInQueue> {
        let partition = self.partitions.of(job.tenant.as_deref());
        let ahead = self.places.waiting(job.lane, partition).await?.saturating_sub(1);
        let seconds = self.hub.ends_per_second().map(|rate| ahead as f64 / rate);
        Some(PlaceInQueue { ahead, seconds })
    }
}
