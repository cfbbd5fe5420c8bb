//! Decides which pictures are sampled in one batch: a pure function of the waiting jobs, without clock, thread or
//! network. When a batch begins is for [`StepScheduler`](crate::step_scheduler::StepScheduler) to say.
//!
//! Pictures of one shape are batched together, up to the limits; interactive jobs only with each other. Interactive groups come
//! first, then shapes are served round robin. Of the jobs of one shape the oldest has half of the places, so that it ends; the
//! others go to the jobs with the fewest pictures left, so that as many as possible end soon: a job of which some pictures
//! are made is of no use to anybody yet. A picture that must not share a batch counts as a shape of its own.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// The limits of batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of pictures of a batch.
    pub(crate) max_images: usize,
    /// Maximum size in bytes of the key-value caches of all batches together.
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
    /// Pictures of another shape or lane are waiting.
    Shape,
    /// The job must not share a batch with others.
    Alone,
    /// Its turn has come beside a batch that began earlier.
    Turn,
    /// No more jobs will arrive.
    Shutdown,
}

impl CloseReason {
    /// All reasons.
    pub const ALL: [Self; 7] =
        [Self::Full, Self::Waited, Self::Memory, Self::Shape, Self::Alone, Self::Turn, Self::Shutdown];

    /// Returns the name, for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Waited => "waited",
            Self::Memory => "memory",
            Self::Shape => "shape",
            Self::Alone => "alone",
            Self::Turn => "turn",
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
    /// Image tokens of each picture, all scales and the decoding; the same for all of a shape.
    pub(crate) tokens: u64,
    /// Whether it is to be preferred to jobs that are not.
    pub(crate) is_interactive: bool,
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
    /// Whether they are of interactive jobs.
    pub(crate) is_interactive: bool,
    /// The jobs' tickets, and the number of pictures of each.
    pub(crate) parts: Vec<(u64, usize)>,
    /// Why the batch is not larger.
    pub(crate) reason: CloseReason,
}

/// The order in which work is preferred: the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    is_other_than_interactive: bool,
    left: u64,
}

impl Rank {
    /// The rank of pictures with that many image tokens left of each.
    pub(crate) fn new(is_interactive: bool, left: u64) -> Self {
        Self { is_other_than_interactive: !is_interactive, left }
    }
}

/// The key by which jobs are grouped: jobs of one group may share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group<S> {
    shape: S,
    pub(crate) is_interactive: bool,
    /// The job, if it must not share a batch.
    alone: Option<u64>,
}

/// The jobs of a group that wait.
#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Waiting>,
    /// Work of other groups' batches since the group's last batch.
    passed: u64,
}

/// A group with waiting jobs, as its next batch is judged.
#[derive(Debug)]
pub(crate) struct WaitingGroup<'a, S> {
    pub(crate) group: &'a Group<S>,
    /// Work of other groups' batches since the group's last batch.
    pub(crate) passed: u64,
    /// Image tokens of its next batch, all pictures, memory permitting.
    pub(crate) work: u64,
    /// Size of the key-value caches of the first picture in bytes.
    pub(crate) kv_bytes: u64,
    tokens: u64,
}

impl<S> WaitingGroup<'_, S> {
    pub(crate) fn rank(&self) -> Rank {
        Rank::new(self.group.is_interactive, self.tokens)
    }
}

/// The scheduler, with all jobs that have pictures to be started.
#[derive(Debug)]
pub(crate) struct BatchScheduler<S> {
    limits: Limits,
    groups: HashMap<Group<S>, Jobs>,
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
        let group = Group { shape, is_interactive: job.is_interactive, alone: job.alone.then_some(job.ticket) };
        let jobs = self.groups.entry(group.clone()).or_default();
        if jobs.waiting.is_empty() {
            self.round_robin.push_back(group);
        }
        jobs.waiting.push_back(job);
    }

    /// Removes a job from whichever group it is in.
    pub(crate) fn remove(&mut self, ticket: u64) {
        for jobs in self.groups.values_mut() {
            jobs.waiting.retain(|job| job.ticket != ticket);
        }
        self.groups.retain(|_, jobs| !jobs.waiting.is_empty());
        self.round_robin.retain(|group| self.groups.contains_key(group));
    }

    /// Records that no more jobs will arrive: from now on no job waits for others of its shape.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Records work that was done while all groups waited.
    pub(crate) fn pass_over(&mut self, work: u64) {
        self.groups.values_mut().for_each(|jobs| jobs.passed = jobs.passed.saturating_add(work));
    }

    /// Returns the groups with waiting jobs, in the order in which they are served.
    pub(crate) fn groups(&self) -> impl Iterator<Item = WaitingGroup<'_, S>> {
        let (interactive, others): (Vec<_>, Vec<_>) = self.round_robin.iter().partition(|group| group.is_interactive);
        interactive.into_iter().chain(others).filter_map(|group| {
            let Jobs { waiting, passed } = self.groups.get(group)?;
            let oldest = waiting.front()?;
            let most = self.limits.max_images.min(oldest.max_images).max(1);
            // Each job has a picture at least, so no more than so many jobs need be looked at.
            let images: usize = waiting.iter().take(most).map(|job| job.images).sum();
            let work = oldest.tokens.saturating_mul(images.min(most) as u64);
            Some(WaitingGroup { group, passed: *passed, work, kv_bytes: oldest.kv_bytes, tokens: oldest.tokens })
        })
    }

    /// Removes a batch of the group's pictures within so many bytes of free memory; one picture is admitted in any case. If
    /// the networks are idle and others of the shape may still arrive, returns until when to wait for them.
    pub(crate) fn take(
        &mut self,
        group: &Group<S>,
        free_kv_bytes: u64,
        is_idle: bool,
        now: Instant,
    ) -> Result<Batch<S>, Instant> {
        let Some(jobs) = self.groups.get(group) else { return Err(now) };
        let (parts, limit) = self.plan(&jobs.waiting, free_kv_bytes);
        let oldest = jobs.waiting.iter().map(|job| job.arrived).min().unwrap_or(now);
        let wait_until = oldest.checked_add(self.limits.max_wait).unwrap_or(now);
        let reason = match (group.alone, limit) {
            (Some(_), _) => CloseReason::Alone,
            (None, Some(limit)) => limit,
            _ if self.closing => CloseReason::Shutdown,
            _ if self.round_robin.len() > 1 => CloseReason::Shape,
            _ if wait_until <= now => CloseReason::Waited,
            _ if !is_idle => CloseReason::Turn,
            _ => return Err(wait_until),
        };
        self.remove_parts(group, &parts);
        Ok(Batch { shape: group.shape.clone(), is_interactive: group.is_interactive, parts, reason })
    }

    /// Returns how many pictures of each job fit, and which limit was reached.
    fn plan(&self, waiting: &VecDeque<Waiting>, free_kv_bytes: u64) -> (Vec<(u64, usize)>, Option<CloseReason>) {
        let limits = Limits { max_kv_bytes: free_kv_bytes, ..self.limits };
        let mut room = Room { images: 0, kv_bytes: 0, limits, limit: None };
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

    /// Removes the planned pictures from a group, which then moves to the end of the round robin.
    fn remove_parts(&mut self, group: &Group<S>, parts: &[(u64, usize)]) {
        self.round_robin.retain(|other| other != group);
        let Some(jobs) = self.groups.get_mut(group) else { return };
        jobs.passed = 0;
        for (ticket, taken) in parts {
            for job in jobs.waiting.iter_mut().filter(|job| job.ticket == *ticket) {
                job.images -= taken;
            }
        }
        jobs.waiting.retain(|job| job.images > 0);
        if jobs.waiting.is_empty() {
            self.groups.remove(group);
        } else {
            self.round_robin.push_back(group.clone());
        }
    }
}

/// The room that is left in a batch.
struct Room {
    images: usize,
    kv_bytes: u64,
    /// With the memory that is free now.
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
        self.kv_bytes = self.kv_bytes.saturating_add((taken as u64).saturating_mul(job.kv_bytes));
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
