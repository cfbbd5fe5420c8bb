//! Room in memory for pictures: what all that are in hand may take together.

use std::sync::Arc;

use bytes::Bytes;
use echogen_ports::PortError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room is handed out in pieces of so many bytes.
pub(super) const PIECE: u64 = 64 * 1024;

/// A bound that all clones share.
#[derive(Clone)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    pieces: u32,
}

impl Room {
    /// Room for so many bytes, rounded up to whole pieces.
    pub(super) fn of(bytes: u64) -> Self {
        let pieces = pieces(bytes);
        Self { free: Arc::new(Semaphore::new(pieces as usize)), pieces }
    }

    /// Waits until there is room for a picture of `bytes`. One that is larger than the whole takes the whole: it is in
    /// hand alone.
    pub(super) async fn take(&self, bytes: u64) -> Result<Place, PortError> {
        let taken = Arc::clone(&self.free).acquire_many_owned(pieces(bytes).min(self.pieces)).await;
        let taken = taken.map_err(|error| PortError::transient("no more pictures are fetched").because(error))?;
        let capacity = bytes.min(u64::from(self.pieces) * PIECE);
        Ok(Place { picture: Vec::with_capacity(usize::try_from(capacity).unwrap_or_default()), taken })
    }
}

fn pieces(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX)
}

/// A picture on its way, and the room that it may take.
pub(super) struct Place {
    /// All of it is reserved at once: a buffer that doubles would for a moment take more than there is room for.
    pub(super) picture: Vec<u8>,
    taken: OwnedSemaphorePermit,
}

impl Place {
    /// The whole picture. Room that it did not need is free at once, the other when nobody refers to it any more.
    pub(super) fn finish(mut self) -> Bytes {
        self.picture.shrink_to_fit();
        let needed = pieces(self.picture.len() as u64) as usize;
        drop(self.taken.split(self.taken.num_permits().saturating_sub(needed)));
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Place {
    fn as_ref(&self) -> &[u8] {
        &self.picture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_taken_in_whole_pieces_and_comes_back() {
        let room = Room::of(3 * PIECE);
        for (bytes, free) in [(0, 3), (1, 2), (PIECE, 2), (PIECE + 1, 1), (3 * PIECE, 0), (u64::MAX, 0)] {
            let place = room.take(bytes).await.unwrap();
            assert_eq!(room.free.available_permits(), free, "with {bytes} bytes in hand");
            drop(place);
            assert_eq!(room.free.available_permits(), 3);
        }
    }

    #[tokio::test]
    async fn a_finished_picture_keeps_what_it_needs_until_the_last_reference_is_gone() {
        let room = Room::of(3 * PIECE);
        let mut place = room.take(3 * PIECE).await.unwrap();
        place.picture.extend_from_slice(b"12345");
        let picture = place.finish();
        assert_eq!((room.free.available_permits(), picture.as_ref()), (2, &b"12345"[..]));
        let part = picture.slice(1..2);
        drop(picture);
        assert_eq!((room.free.available_permits(), part.as_ref()), (2, &b"2"[..]));
        drop(part);
        assert_eq!(room.free.available_permits(), 3);
    }
}
