//! A cache of decoded subjects that lives across requests.

use std::sync::Arc;

use moka::{policy::EvictionPolicy, sync::Cache};

/// A least-recently-used cache of decoded subjects, limited by their total size in bytes.
pub(crate) struct SubjectCache<T> {
    /// Each subject with its size.
    subjects: Cache<String, (Arc<T>, u32)>,
}

impl<T: Send + Sync + 'static> SubjectCache<T> {
    /// Creates an empty cache. The size of a subject is the number of bytes it was decoded from.
    pub(crate) fn new(max_bytes: u64) -> Self {
        let subjects = Cache::builder()
            .max_capacity(max_bytes)
            .weigher(|_, (_, bytes)| *bytes)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { subjects }
    }

    /// Returns the subject of `key`, from the cache or decoded from `bytes`.
    pub(crate) fn get_or_decode<E>(
        &self,
        key: &str,
        bytes: &[u8],
        decode: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        if let Some((subject, _)) = self.subjects.get(key) {
            return Ok(subject);
        }
        let subject = Arc::new(decode(bytes)?);
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.subjects.insert(key.to_owned(), (Arc::clone(&subject), size));
        // Evicts at once. Without this call, `moka` would let about sixty entries accumulate before it evicts.
        self.subjects.run_pending_tasks();
        Ok(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether a subject of ten bytes had to be decoded.
    fn decodes(cache: &SubjectCache<()>, key: &str) -> bool {
        let mut decoded = false;
        let subject = cache.get_or_decode(key, &[0; 10], |_| {
            decoded = true;
            Ok::<_, ()>(())
        });
        assert!(subject.is_ok());
        decoded
    }

    #[test]
    fn the_subject_that_was_used_longest_ago_goes_first() {
        let cache = SubjectCache::new(20);
        assert!(decodes(&cache, "old") && decodes(&cache, "young"));
        assert!(!decodes(&cache, "old"), "a hit refreshes it");
        assert!(decodes(&cache, "new"));
        assert!(!decodes(&cache, "old"), "it was used after the young one");
        assert!(decodes(&cache, "young"));
    }

    #[test]
    fn no_bytes_keep_nothing_and_a_failure_is_not_kept() {
        let nothing = SubjectCache::new(0);
        assert!(decodes(&nothing, "a") && decodes(&nothing, "a"));
        let cache = SubjectCache::new(20);
        assert_eq!(cache.get_or_decode("a", &[0; 10], |_| Err::<(), _>("broken")), Err("broken"));
        assert!(decodes(&cache, "a"));
    }
}
