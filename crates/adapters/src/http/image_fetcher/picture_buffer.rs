//! The buffer of a picture that is being fetched, and the memory that it may take.
//!
//! A buffer takes memory for what has been sent, not for what may be sent, so that a slow server takes little of it from
//! others. It grows by doubling, and waits while there is no memory. Buffers that have begun could then wait for each other for
//! ever; so one at a time may grow beyond the budget, and what it releases at its end lets the next one go on.

use std::sync::Arc;

use bytes::Bytes;
use echogen_ports::{MemoryBudget, MemoryPermit};
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// The memory that the pictures of a fetcher share. Clones share it too.
#[derive(Clone, Debug)]
pub(super) struct PictureMemory {
    budget: MemoryBudget,
    /// For the one picture that may exceed the budget.
    overdraft: Arc<Semaphore>,
}

/// A buffer within the memory of a fetcher's pictures.
pub(super) struct PictureBuffer {
    bytes: Vec<u8>,
    /// Greatest number of bytes that it is to hold.
    limit: usize,
    memory: PictureMemory,
    permit: MemoryPermit,
    overdraft: Option<OwnedSemaphorePermit>,
}

impl PictureMemory {
    /// A memory of `bytes`, and of one more picture.
    pub(super) fn new(bytes: u64) -> Self {
        Self { budget: MemoryBudget::new(bytes), overdraft: Arc::new(Semaphore::new(1)) }
    }

    #[cfg(test)]
    pub(super) fn free_bytes(&self) -> u64 {
        self.budget.free_bytes()
    }
}

impl PictureBuffer {
    /// Waits for the memory with which a picture of at most `limit` bytes begins.
    pub(super) async fn begin(memory: &PictureMemory, limit: u64) -> Self {
        let (memory, limit) = (memory.clone(), usize::try_from(limit).unwrap_or(usize::MAX));
        let permit = memory.budget.acquire(1).await;
        let capacity = usize::try_from(permit.bytes()).unwrap_or_default().min(limit);
        Self { bytes: Vec::with_capacity(capacity), limit, memory, permit, overdraft: None }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends what has arrived, as soon as there is memory for it.
    pub(super) async fn extend(&mut self, piece: &[u8]) {
        let length = self.bytes.len() + piece.len();
        if length > self.bytes.capacity() {
            self.grow(length).await;
        }
        self.bytes.extend_from_slice(piece);
    }

    async fn grow(&mut self, length: usize) {
        let capacity = length.max((2 * self.bytes.capacity()).min(self.limit));
        let mut grown = None;
        if self.overdraft.is_none() {
            select! {
                // In this order: the budget first. Both are held until the bytes are moved, for they are there twice then.
                biased;
                permit = self.memory.budget.acquire(capacity as u64) => grown = Some(permit),
                overdraft = Arc::clone(&self.memory.overdraft).acquire_owned() => self.overdraft = overdraft.ok(),
            }
        }
        self.bytes.reserve_exact(capacity - self.bytes.len());
        if let Some(permit) = grown {
            self.permit = permit;
        }
    }

    /// The whole picture. Memory that it does not need is released at once, the rest with its last reference.
    pub(super) fn finish(mut self) -> Bytes {
        self.bytes.shrink_to_fit();
        self.permit.shrink_to(self.bytes.len() as u64);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for PictureBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const UNIT: u64 = MemoryBudget::UNIT;

    /// So many units of bytes.
    fn units(count: u64) -> Vec<u8> {
        vec![7; usize::try_from(count * UNIT).unwrap()]
    }

    #[tokio::test]
    async fn a_finished_picture_keeps_what_it_needs_until_the_last_reference_is_gone() {
        let memory = PictureMemory::new(6 * UNIT);
        let mut buffer = PictureBuffer::begin(&memory, 3 * UNIT).await;
        buffer.extend(&units(1)).await;
        buffer.extend(b"12345").await;
        assert_eq!(memory.free_bytes(), 4 * UNIT, "it has doubled");
        let picture = buffer.finish();
        let part = picture.slice(1..2);
        drop(picture);
        assert_eq!((memory.free_bytes(), part.as_ref()), (4 * UNIT, &[7][..]));
        drop(part);
        assert_eq!(memory.free_bytes(), 6 * UNIT);
    }

    #[tokio::test]
    async fn a_picture_takes_memory_for_what_it_has_sent() {
        let memory = PictureMemory::new(4 * UNIT);
        let mut slow = Vec::new();
        for _ in 0..3 {
            slow.push(PictureBuffer::begin(&memory, 1000 * UNIT).await);
        }
        let mut quick = PictureBuffer::begin(&memory, UNIT).await;
        quick.extend(&units(1)).await;
        assert!(PictureBuffer::begin(&memory, UNIT).now_or_never().is_none(), "who has not begun waits for the others");
        drop(quick.finish());
        assert!(PictureBuffer::begin(&memory, UNIT).now_or_never().is_some());
    }

    #[tokio::test]
    async fn pictures_that_have_begun_do_not_wait_for_each_other_for_ever() {
        let memory = PictureMemory::new(2 * UNIT);
        let mut first = PictureBuffer::begin(&memory, 9 * UNIT).await;
        let mut second = PictureBuffer::begin(&memory, 9 * UNIT).await;
        first.extend(&units(9)).await;
        let large = units(2);
        let mut waiting = Box::pin(second.extend(&large));
        assert!(waiting.as_mut().now_or_never().is_none(), "one at a time exceeds the memory");
        let first = first.finish();
        assert!(waiting.as_mut().now_or_never().is_none(), "it is still in use");
        drop(first);
        waiting.await;
        assert_eq!(second.len(), large.len());
        drop(second);
        assert_eq!(memory.free_bytes(), 2 * UNIT);
    }
}
