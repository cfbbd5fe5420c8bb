//! Decides which pictures are sampled in one batch: a pure function of the waiting jobs, without clock, thread or
//! network.
//!
//! Pictures of one shape are batched together, up to the limits. Shapes are served round robin. Of the jobs of one shape the
//! oldest has half of the places, so that it ends; the others go to the jobs with the fewest pictures left, so that as many
//! as possible end soon: a job of which some pictures are made is of no use to anybody yet. A picture that must not share a
//! batch counts as a shape of its own.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// The limits of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of pictures.
    pub(crate) max_images: usize,
    /// Maximum size of the key-value caches in bytes.
    pub(crate) max_kv_bytes: u64,
    /// How long the oldest job may wait for others of its shape while the networks are idle.
    pub(crate) max_wait: Duration,
}

/// Why no further picture was added to a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The batch has the maximum number of pictures.
    Full,
    /// The oldest job has waited for the maximum time.
    Waited,
    /// The key-value caches of another picture would exceed the limit.
    Memory,
    /// Pictures of another shape are waiting.
    Shape,
    /// The job must not share a batch with others.
    Alone,
    /// No more jobs will arrive.
    Shutdown,
}

impl CloseReason {
    /// All reasons.
    pub const ALL: [Self; 6] = [Self::Full, Self::Waited, Self::Memory, Self::Shape, Self::Alone, Self::Shutdown];

    /// Returns the name, for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Waited => "waited",
            Self::Memory => "memory",
            Self::Shape => "shape",
            Self::Alone => "alone",
            Self::Shutdown => "shutdown",
        }
    }
}

/// A job with pictures that are not started yet.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// Identifies the job in the scheduler.
    pub(crate) ticket: u64,
    /// Number of pictures that are not started yet.
    pub(crate) images: usize,
    /// Size of each picture's key-value caches in bytes.
    pub(crate) kv_bytes: u64,
    /// Maximum number of pictures of this shape in one batch, independent of the configured limits.
    pub(crate) max_images: usize,
    /// When the job arrived.
    pub(crate) arrived: Instant,
    /// Whether the job must not share a batch.
    pub(crate) alone: bool,
}

/// Pictures to be sampled in one batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch<S> {
    /// Their shape.
    pub(crate) shape: S,
    /// The jobs' tickets, and the number of pictures of each.
    pub(crate) parts: Vec<(u64, usize)>,
    /// Why the batch is not larger.
    pub(crate) reason: CloseReason,
}

/// What the thread must do next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next<S> {
    /// Sample this batch.
    Run(Batch<S>),
    /// Wait for more pictures of the same shape, at most until this time.
    WaitUntil(Instant),
    /// No job is waiting.
    Nothing,
}

/// The key by which jobs are grouped: jobs of one group may share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Group<S> {
    Of(S),
    Alone(S, u64),
}

/// The scheduler, with all jobs that have pictures to be started.
#[derive(Debug)]
pub(crate) struct BatchScheduler<S> {
    limits: Limits,
    groups: HashMap<Group<S>, VecDeque<Waiting>>,
    /// The groups with waiting jobs, in the order in which they are served.
    round_robin: VecDeque<Group<S>>,
    closing: bool,
}

impl<S: Clone + Eq + Hash> BatchScheduler<S> {
    /// Creates a scheduler without jobs.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, groups: HashMap::new(), round_robin: VecDeque::new(), closing: false }
    }

    /// Adds a job.
    pub(crate) fn push(&mut self, shape: S, job: Waiting) {
        if job.images == 0 {
            return;
        }
        let group = if job.alone { Group::Alone(shape, job.ticket) } else { Group::Of(shape) };
        let waiting = self.groups.entry(group.clone()).or_default();
        if waiting.is_empty() {
            self.round_robin.push_back(group);
        }
        waiting.push_back(job);
    }

    /// Removes a job from whichever group it is in.
    pub(crate) fn remove(&mut self, ticket: u64) {
        for waiting in self.groups.values_mut() {
            waiting.retain(|job| job.ticket != ticket);
        }
        self.groups.retain(|_, waiting| !waiting.is_empty());
        self.round_robin.retain(|group| self.groups.contains_key(group));
    }

    /// Records that no more jobs will arrive: from now on no job waits for others of its shape.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Returns what to do next. To be called when the networks are free.
    pub(crate) fn next(&mut self, now: Instant) -> Next<S> {
        let Some(group) = self.round_robin.front() else { return Next::Nothing };
        let Some(waiting) = self.groups.get(group) else { return Next::Nothing };
        let (parts, limit) = self.plan(waiting);
        let oldest = waiting.iter().map(|job| job.arrived).min().unwrap_or(now);
        let wait_until = oldest.checked_add(self.limits.max_wait).unwrap_or(now);
        let reason = match (group, limit) {
            (Group::Alone(..), _) => CloseReason::Alone,
            (_, Some(limit)) => limit,
            _ if self.closing => CloseReason::Shutdown,
            _ if self.round_robin.len() > 1 => CloseReason::Shape,
            _ if wait_until <= now => CloseReason::Waited,
            _ => return Next::WaitUntil(wait_until),
        };
        Next::Run(self.take(parts, reason))
    }

    /// Returns how many pictures of each job fit, and which limit was reached.
    fn plan(&self, waiting: &VecDeque<Waiting>) -> (Vec<(u64, usize)>, Option<CloseReason>) {
        let mut room = Room { images: 0, kv_bytes: 0, limits: self.limits, limit: None };
        let mut order: Vec<usize> = (0..waiting.len()).collect();
        // The sort is stable: of equals the oldest is first.
        order.sort_by_key(|index| waiting[*index].images);
        let mut taken = vec![0; waiting.len()];
        if let (Some(oldest), true) = (waiting.front(), waiting.len() > 1) {
            let half = self.limits.max_images.min(oldest.max_images).div_ceil(2);
            taken[0] = room.take(oldest, oldest.images.min(half));
        }
        for index in order {
            let job = &waiting[index];
            taken[index] += room.take(job, job.images - taken[index]);
        }
        let parts = waiting.iter().zip(taken).filter(|(_, taken)| *taken > 0);
        (parts.map(|(job, taken)| (job.ticket, taken)).collect(), room.limit)
    }

    /// Removes the planned pictures from the first group, which then moves to the end of the round robin.
    fn take(&mut self, parts: Vec<(u64, usize)>, reason: CloseReason) -> Batch<S> {
        // `next` calls this only after it has found the group and its jobs.
        let group = self.round_robin.pop_front().expect("`next` has seen a group");
        let waiting = self.groups.get_mut(&group).expect("a group in the round has jobs");
        for (ticket, taken) in &parts {
            for job in waiting.iter_mut().filter(|job| job.ticket == *ticket) {
                job.images -= taken;
            }
        }
        waiting.retain(|job| job.images > 0);
        if waiting.is_empty() {
            self.groups.remove(&group);
        } else {
            self.round_robin.push_back(group.clone());
        }
        let (Group::Of(shape) | Group::Alone(shape, _)) = group;
        Batch { shape, parts, reason }
    }
}

/// The room that is left in a batch.
struct Room {
    images: usize,
    kv_bytes: u64,
    limits: Limits,
    /// The first limit that was reached.
    limit: Option<CloseReason>,
}

impl Room {
    /// Takes as many of `wanted` pictures of a job as fit. The first picture of a batch is always admitted; otherwise one
    /// that exceeds a limit by itself would never be sampled.
    fn take(&mut self, job: &Waiting, wanted: usize) -> usize {
        let places = self.limits.max_images.min(job.max_images).saturating_sub(self.images);
        let memory = self.limits.max_kv_bytes.saturating_sub(self.kv_bytes) / job.kv_bytes.max(1);
        let memory = usize::try_from(memory).unwrap_or(usize::MAX);
        let taken = wanted.min(places.min(memory).max(usize::from(self.images == 0)));
        self.images += taken;
        self.kv_bytes += taken as u64 * job.kv_bytes;
        if taken < wanted {
            self.limit.get_or_insert(if memory < places { CloseReason::Memory } else { CloseReason::Full });
        } else if taken > 0 && taken == places {
            self.limit.get_or_insert(CloseReason::Full);
        }
        taken
    }
}

#[cfg(test)]
mod tests;
