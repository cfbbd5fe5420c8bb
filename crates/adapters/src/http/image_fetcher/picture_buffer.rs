//! The buffer of a picture that is being fetched, and its memory permit.

use bytes::Bytes;
use echogen_ports::{MemoryBudget, MemoryPermit};

/// A buffer within the memory budget of a fetcher's pictures.
pub(super) struct PictureBuffer {
    /// Allocated at its full size: a buffer that grows by doubling would temporarily exceed its permit.
    pub(super) bytes: Vec<u8>,
    permit: MemoryPermit,
}

impl PictureBuffer {
    /// Waits for a permit for a picture of `bytes`. A picture that is larger than the budget gets a permit for all of it.
    pub(super) async fn reserve(budget: &MemoryBudget, bytes: u64) -> Self {
        let permit = budget.acquire(bytes).await;
        let capacity = usize::try_from(bytes.min(permit.bytes())).unwrap_or_default();
        Self { bytes: Vec::with_capacity(capacity), permit }
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
    use super::*;

    const UNIT: u64 = MemoryBudget::UNIT;

    #[tokio::test]
    async fn a_finished_picture_keeps_what_it_needs_until_the_last_reference_is_gone() {
        let budget = MemoryBudget::new(3 * UNIT);
        let mut buffer = PictureBuffer::reserve(&budget, 3 * UNIT).await;
        buffer.bytes.extend_from_slice(b"12345");
        let picture = buffer.finish();
        assert_eq!((budget.free_bytes(), picture.as_ref()), (2 * UNIT, &b"12345"[..]));
        let part = picture.slice(1..2);
        drop(picture);
        assert_eq!((budget.free_bytes(), part.as_ref()), (2 * UNIT, &b"2"[..]));
        drop(part);
        assert_eq!(budget.free_bytes(), 3 * UNIT);
    }
}
