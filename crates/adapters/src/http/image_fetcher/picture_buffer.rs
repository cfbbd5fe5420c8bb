//! A picture on its way, and the memory that is reserved for it.

use bytes::Bytes;
use echogen_ports::{MemoryBudget, MemoryPermit};

/// A buffer within the memory of all pictures of a fetcher.
pub(super) struct PictureBuffer {
    /// All of it is reserved at once: a buffer that doubles would for a moment take more than its permit.
    pub(super) bytes: Vec<u8>,
    permit: MemoryPermit,
}

impl PictureBuffer {
    /// Waits until there is memory for a picture of `bytes`. One that is larger than the whole budget gets the whole.
    pub(super) async fn reserve(budget: &MemoryBudget, bytes: u64) -> Self {
        let permit = budget.acquire(bytes).await;
        let capacity = usize::try_from(bytes.min(permit.bytes())).unwrap_or_default();
        Self { bytes: Vec::with_capacity(capacity), permit }
    }

    /// The whole picture. Memory that it did not need is free at once, the other when nobody refers to it any more.
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
