//! An allocator that counts: how many bytes a piece of work had allocated at most.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The allocator of a test binary that measures.
pub(crate) struct Counting;

pub(crate) static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator is an unsafe trait; this one passes everything on to the system's")]
// SAFETY: both calls are passed on unchanged. Enlarging is the trait's own: a new block, a copy, and the old one freed, so
// that the peak has both, as in the worst case.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's block, which came from `alloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Returns the greatest number of bytes that were allocated during `work`, beyond those before it. A binary that
/// measures has one test: what another one allocates meanwhile would count.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = work();
    (done, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}
