//! Decides what the networks do next: another step of a batch that has begun, or a new batch. A pure function of what waits and
//! what has begun, without clock, thread or network.
//!
//! A *step* is one scale of a batch, or the decoding of one of its pictures. Between two steps the networks are free, so a
//! batch that comes later waits for one step of another, not for its end. The rules, first to last:
//!
//! 1. What others have passed over for [`PATIENCE`] times the work of its own next step comes first, and of several such the
//!    one that was due first. So whatever else arrives, a batch gets a fifth of the device, and after *n* others at most
//!    one step of each is served before its own.
//! 2. A new batch begins if the memory of the key-value caches allows, and it is to be preferred to all that have begun:
//!    interactive jobs to others, then fewer image tokens left of each picture. Of several the order is that of
//!    [`BatchScheduler`].
//! 3. Of the batches that have begun, interactive ones are stepped first, then those with the fewest tokens left.
//!
//! The key-value caches of all batches together stay within the limit; a single picture is accepted whatever it needs while
//! no other has any. An eighth of the memory is left to interactive jobs, so that a large batch does not keep them from
//! beginning. A new batch that is due and does not fit keeps all others from beginning until it does.

use std::{hash::Hash, time::Instant};

use crate::batch_scheduler::{Batch, BatchScheduler, Group, Limits, Rank, Waiting, WaitingGroup};

/// How often others may do the work of a batch's next step, or all the work of a batch that has not begun, before its turn
/// comes.
pub(crate) const PATIENCE: u64 = 4;

/// The part of the memory that is left to interactive jobs: one in so many.
const INTERACTIVE_SHARE: u64 = 8;

/// What a batch that has begun still needs. Work is counted in image tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Image tokens left of each picture, all scales and the decoding.
    pub(crate) left: u64,
    /// Image tokens of the next step, of all pictures.
    pub(crate) step: u64,
    /// Size of the key-value caches in bytes.
    pub(crate) kv_bytes: u64,
}

/// What the thread must do next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next<S> {
    /// Run the next step of this batch.
    Step(u64),
    /// Begin a batch.
    Begin(Batch<S>),
    /// Wait for more pictures of the same shape, at most until this time.
    WaitUntil(Instant),
    /// No job is waiting, and no batch has begun.
    Nothing,
}

/// A batch that has begun.
#[derive(Debug)]
struct Begun {
    id: u64,
    is_interactive: bool,
    need: Need,
    /// Work of others since its last step.
    passed: u64,
}

impl Begun {
    fn rank(&self) -> Rank {
        Rank::new(self.is_interactive, self.need.left)
    }
}

/// The scheduler, with all jobs that have pictures to be started and all batches that have begun.
#[derive(Debug)]
pub(crate) struct StepScheduler<S> {
    max_kv_bytes: u64,
    waiting: BatchScheduler<S>,
    /// In the order in which they began.
    begun: Vec<Begun>,
}

/// Whose turn it is.
#[derive(Debug)]
enum Turn<S> {
    Step(usize),
    Begin(Group<S>),
}

impl<S: Clone + Eq + Hash> StepScheduler<S> {
    /// Creates a scheduler without jobs.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { max_kv_bytes: limits.max_kv_bytes, waiting: BatchScheduler::new(limits), begun: Vec::new() }
    }

    /// Adds a job.
    pub(crate) fn push(&mut self, shape: S, job: Waiting) {
        self.waiting.push(shape, job);
    }

    /// Removes a job's pictures that are not started.
    pub(crate) fn remove(&mut self, ticket: u64) {
        self.waiting.remove(ticket);
    }

    /// Records that no more jobs will arrive: from now on no job waits for others of its shape.
    pub(crate) fn close(&mut self) {
        self.waiting.close();
    }

    /// Records that a batch has begun, under a number of the caller's.
    pub(crate) fn began(&mut self, id: u64, is_interactive: bool, need: Need) {
        self.begun.push(Begun { id, is_interactive, need, passed: 0 });
    }

    /// Records what a batch needs after a step, or after pictures were removed from it.
    pub(crate) fn update(&mut self, id: u64, need: Need) {
        if let Some(begun) = self.begun.iter_mut().find(|begun| begun.id == id) {
            begun.need = need;
        }
    }

    /// Records that a batch has ended.
    pub(crate) fn ended(&mut self, id: u64) {
        self.begun.retain(|begun| begun.id != id);
    }

    /// Returns the number of batches that have begun.
    pub(crate) fn alive(&self) -> usize {
        self.begun.len()
    }

    /// Returns the size of all key-value caches in bytes.
    pub(crate) fn kv_bytes(&self) -> u64 {
        self.begun.iter().map(|begun| begun.need.kv_bytes).fold(0, u64::saturating_add)
    }

    /// Returns what to do next, and counts it as done. To be called when the networks are free.
    pub(crate) fn next(&mut self, now: Instant) -> Next<S> {
        match self.turn() {
            None => Next::Nothing,
            Some(Turn::Step(index)) => {
                let Begun { id, need, .. } = self.begun[index];
                self.begun.iter_mut().for_each(|begun| begun.passed = begun.passed.saturating_add(need.step));
                self.begun[index].passed = 0;
                self.waiting.pass_over(need.step);
                Next::Step(id)
            }
            Some(Turn::Begin(group)) => {
                let free = self.free(group.is_interactive);
                match self.waiting.take(&group, free, self.begun.is_empty(), now) {
                    Ok(batch) => Next::Begin(batch),
                    Err(moment) => Next::WaitUntil(moment),
                }
            }
        }
    }

    fn turn(&self) -> Option<Turn<S>> {
        let due_step = self
            .begun
            .iter()
            .enumerate()
            .filter_map(|(index, begun)| Some((overdue(begun.passed, begun.need.step)?, Turn::Step(index))));
        let due_groups = self.waiting.groups().filter_map(|group| Some((overdue(group.passed, group.work)?, group)));
        // Of those that wait the one that was due first begins next, and no other before it.
        let first_due = due_groups.max_by_key(|(since, _)| *since);
        let is_reserved = first_due.as_ref().is_some_and(|(_, group)| !self.fits(group));
        let due_begin = first_due.filter(|_| !is_reserved);
        let due = due_step.chain(due_begin.map(|(since, group)| (since, Turn::Begin(group.group.clone()))));
        if let Some((_, turn)) = due.max_by_key(|(since, _)| *since) {
            return Some(turn);
        }
        let best = self.begun.iter().enumerate().min_by_key(|(_, begun)| begun.rank());
        let is_preferred = |group: &WaitingGroup<'_, S>| best.is_none_or(|(_, best)| group.rank() < best.rank());
        let new = self.waiting.groups().find(|group| !is_reserved && self.fits(group) && is_preferred(group));
        new.map(|new| Turn::Begin(new.group.clone())).or(best.map(|(index, _)| Turn::Step(index)))
    }

    /// Whether at least one picture of a group may begin.
    fn fits(&self, group: &WaitingGroup<'_, S>) -> bool {
        self.kv_bytes() == 0 || group.kv_bytes <= self.free(group.group.is_interactive)
    }

    /// The memory that a new batch may take.
    fn free(&self, is_interactive: bool) -> u64 {
        let others = if is_interactive { 0 } else { self.max_kv_bytes / INTERACTIVE_SHARE };
        (self.max_kv_bytes - others).saturating_sub(self.kv_bytes())
    }
}

/// Returns the work of others since a turn was due; `None` if it is not.
fn overdue(passed: u64, work: u64) -> Option<u64> {
    // What nobody has passed over is not due, even if its step is no work.
    passed.checked_sub(work.saturating_mul(PATIENCE).max(1))
}

#[cfg(test)]
mod tests;
