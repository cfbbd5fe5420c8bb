//! Counters of the sampler's batches.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::CloseReason;

/// How many batches were run, and why each was closed.
#[derive(Debug, Default)]
pub struct BatchCounters {
    by_reason: [AtomicU64; CloseReason::ALL.len()],
    images: AtomicU64,
    failed: AtomicU64,
}

impl BatchCounters {
    /// Returns how many batches were closed for this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        let index = CloseReason::ALL.iter().position(|each| *each == reason);
        index.map_or(0, |index| self.by_reason[index].load(Ordering::Relaxed))
    }

    /// Returns the number of all batches.
    pub fn batches(&self) -> u64 {
        self.by_reason.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Returns the number of pictures started in all batches.
    pub fn images(&self) -> u64 {
        self.images.load(Ordering::Relaxed)
    }

    /// Returns the number of batches with several jobs that failed, so that each job was run again by itself.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self, reason: CloseReason, images: usize) {
        if let Some(index) = CloseReason::ALL.iter().position(|each| *each == reason) {
            self.by_reason[index].fetch_add(1, Ordering::Relaxed);
        }
        self.images.fetch_add(images as u64, Ordering::Relaxed);
    }

    pub(crate) fn note_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}
