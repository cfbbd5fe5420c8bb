//! Decoded subjects kept from request to request.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// Subjects by their keys, at most so many bytes of them; the one that was decoded first goes first.
pub(crate) struct SubjectCache<T> {
    subjects: Mutex<VecDeque<(String, Arc<T>, usize)>>,
    max_bytes: u64,
}

impl<T: Send + Sync + 'static> SubjectCache<T> {
    /// An empty cache. A subject counts as many bytes as it is decoded from.
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self { subjects: Mutex::default(), max_bytes }
    }

    /// Returns the subject of `key`, kept or decoded from `bytes`.
    pub(crate) fn get_or_decode<E>(
        &self,
        key: &str,
        bytes: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, subject, _)) = subjects.iter().find(|(kept, ..)| kept == key) {
            return Ok(Arc::clone(subject));
        }
        let subject = Arc::new(decode(bytes)?);
        subjects.push_back((key.to_owned(), Arc::clone(&subject), bytes.len()));
        while subjects.iter().map(|(_, _, bytes)| *bytes as u64).sum::<u64>() > self.max_bytes {
            subjects.pop_front();
        }
        Ok(subject)
    }
}
