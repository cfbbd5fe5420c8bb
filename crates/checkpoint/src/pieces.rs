//! A list in pieces of equal length. It grows without copying and without unused room, so that what a hostile file makes
//! of it is bounded by the number of its items.

/// Items of one piece.
const PIECE: usize = 256;

/// A list in pieces.
#[derive(Debug)]
pub(crate) struct Pieces<T> {
    pieces: Vec<Vec<T>>,
    length: usize,
}

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), length: 0 }
    }
}

impl<T: Copy> Pieces<T> {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The bytes that the list takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.len() * (PIECE * size_of::<T>() + size_of::<Vec<T>>())
    }

    pub(crate) fn push(&mut self, item: T) {
        if self.length.is_multiple_of(PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(item);
            self.length += 1;
        }
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let last = self.get(self.length.checked_sub(1)?)?;
        self.truncate(self.length - 1);
        Some(last)
    }

    pub(crate) fn get(&self, index: usize) -> Option<T> {
        self.pieces.get(index / PIECE)?.get(index % PIECE).copied()
    }

    /// Replaces an item, if there is one at that index.
    pub(crate) fn set(&mut self, index: usize, item: T) {
        if let Some(place) = self.pieces.get_mut(index / PIECE).and_then(|piece| piece.get_mut(index % PIECE)) {
            *place = item;
        }
    }

    /// Drops all items from `length` on.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.pieces.truncate(self.length.div_ceil(PIECE));
        if let Some(last) = self.pieces.last_mut() {
            last.truncate(self.length - (self.length - 1) / PIECE * PIECE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_and_dropped_across_pieces() {
        let mut list = Pieces::default();
        for round in 0..3 {
            (0..2 * PIECE + 1).for_each(|item| list.push(item + round));
            assert_eq!(list.len(), 2 * PIECE + 1);
            assert_eq!(
                (list.get(PIECE), list.get(2 * PIECE), list.get(2 * PIECE + 1)),
                (Some(PIECE + round), Some(2 * PIECE + round), None)
            );
            list.set(PIECE, 7);
            assert_eq!((list.get(PIECE), list.pop()), (Some(7), Some(2 * PIECE + round)));
            assert_eq!((list.len(), list.pop()), (2 * PIECE, Some(2 * PIECE - 1 + round)));
            list.truncate(PIECE);
            assert_eq!((list.get(PIECE - 1), list.get(PIECE), list.pieces.len()), (Some(PIECE - 1 + round), None, 1));
            list.truncate(0);
            assert_eq!((list.len(), list.pop(), list.bytes()), (0, None, 0));
        }
    }
}
