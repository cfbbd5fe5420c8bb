//! Which pictures are sampled side by side: a pure function of what waits, without clock, thread or network.
//!
//! Pictures of one shape are batched together, up to the limits. Shapes are served round robin, and so are jobs of one
//! shape where one does not fit whole: a large job cannot starve others. A picture that must be alone is a shape of its
//! own.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

/// Bounds of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Pictures.
    pub(crate) max_images: usize,
    /// Bytes of key-value caches.
    pub(crate) max_kv_bytes: u64,
    /// How long the oldest may wait for others of its shape while the networks are idle.
    pub(crate) max_wait: Duration,
}

/// Why no further picture was taken into a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// It has as many pictures as are allowed.
    Full,
    /// The oldest has waited long enough.
    Waited,
    /// The key-value caches of the next would not fit.
    Memory,
    /// Pictures of another shape are waiting.
    Shape,
    /// It must not share its work with others.
    Alone,
    /// Nothing more will come.
    Shutdown,
}

impl CloseReason {
    /// All reasons.
    pub const ALL: [Self; 6] = [Self::Full, Self::Waited, Self::Memory, Self::Shape, Self::Alone, Self::Shutdown];

    /// The name, for metrics and logs.
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

/// A job whose pictures wait.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// Names the job.
    pub(crate) ticket: u64,
    /// Pictures still to be begun.
    pub(crate) images: usize,
    /// Key-value caches of each.
    pub(crate) kv_bytes: u64,
    /// Pictures of this shape that may be sampled side by side, whatever the limits say.
    pub(crate) max_images: usize,
    /// When it came.
    pub(crate) arrived: Instant,
    /// Whether it must not share its work.
    pub(crate) alone: bool,
}

/// Pictures to be sampled side by side.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch<S> {
    /// Their shape.
    pub(crate) shape: S,
    /// The jobs, and how many pictures of each.
    pub(crate) parts: Vec<(u64, usize)>,
    /// Why it is not larger.
    pub(crate) reason: CloseReason,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next<S> {
    /// Sample these.
    Run(Batch<S>),
    /// Wait for others of the same shape, at most until then.
    WaitUntil(Instant),
    /// Nothing waits.
    Nothing,
}

/// Jobs that may share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Group<S> {
    Of(S),
    Alone(S, u64),
}

/// All jobs whose pictures wait.
#[derive(Debug)]
pub(crate) struct BatchScheduler<S> {
    limits: Limits,
    groups: HashMap<Group<S>, VecDeque<Waiting>>,
    /// The groups that have something waiting, in the order in which they are served.
    round_robin: VecDeque<Group<S>>,
    closing: bool,
}

impl<S: Clone + Eq + Hash> BatchScheduler<S> {
    /// Nothing waits.
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

    /// Takes a job out, wherever it waits.
    pub(crate) fn remove(&mut self, ticket: u64) {
        for waiting in self.groups.values_mut() {
            waiting.retain(|job| job.ticket != ticket);
        }
        self.groups.retain(|_, waiting| !waiting.is_empty());
        self.round_robin.retain(|group| self.groups.contains_key(group));
    }

    /// Nothing more will come, so nothing waits for others of its shape.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Returns what is to be done now that the networks are free.
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

    /// How many pictures of each job fit, in the order of their coming, and which limit was met.
    fn plan(&self, waiting: &VecDeque<Waiting>) -> (Vec<(u64, usize)>, Option<CloseReason>) {
        let (mut parts, mut images, mut kv_bytes) = (Vec::new(), 0, 0);
        for job in waiting {
            let places = self.limits.max_images.min(job.max_images).saturating_sub(images);
            let memory = self.limits.max_kv_bytes.saturating_sub(kv_bytes) / job.kv_bytes.max(1);
            let memory = usize::try_from(memory).unwrap_or(usize::MAX);
            // The first picture is admitted always, or it would wait for ever.
            let fits = places.min(memory).max(usize::from(images == 0));
            let taken = job.images.min(fits);
            if taken > 0 {
                parts.push((job.ticket, taken));
                images += taken;
                kv_bytes += taken as u64 * job.kv_bytes;
            }
            if taken < job.images {
                return (parts, Some(if memory < places { CloseReason::Memory } else { CloseReason::Full }));
            }
            if taken == places {
                return (parts, Some(CloseReason::Full));
            }
        }
        (parts, None)
    }

    /// Takes the planned pictures of the first group, which then goes behind the others.
    fn take(&mut self, parts: Vec<(u64, usize)>, reason: CloseReason) -> Batch<S> {
        // `next` has seen the group and its jobs.
        let group = self.round_robin.pop_front().expect("`next` has seen a group");
        let waiting = self.groups.get_mut(&group).expect("a group in the round has jobs");
        for (_, taken) in &parts {
            let Some(mut job) = waiting.pop_front() else { break };
            job.images -= taken;
            if job.images > 0 {
                // What did not fit goes behind the others of its shape.
                waiting.push_back(job);
            }
        }
        if waiting.is_empty() {
            self.groups.remove(&group);
        } else {
            self.round_robin.push_back(group.clone());
        }
        let (Group::Of(shape) | Group::Alone(shape, _)) = group;
        Batch { shape, parts, reason }
    }
}

#[cfg(test)]
mod tests;
