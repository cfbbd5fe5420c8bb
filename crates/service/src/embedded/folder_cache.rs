//! The cache of `generate` and `batch`: in memory, and segmentations in the work folder too.
//!
//! Segmentations have no copy but the cache's, and a process of one command ends soon: without this, every command would
//! look for its subject again, which takes long where the networks run on a CPU. They are kept as long as everything in
//! that folder.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Cache, Fault, FencingToken, MemoryCache, ObjectKey, ObjectStore};
use echogen_protocol::layout;

/// A cache in memory whose segmentations are in a folder.
#[derive(Debug)]
pub(super) struct FolderCache {
    memory: MemoryCache,
    folder: Arc<dyn ObjectStore>,
}

impl FolderCache {
    /// A cache of at most `max_bytes` in memory, and the work folder.
    pub(super) fn new(max_bytes: usize, folder: Arc<dyn ObjectStore>) -> Self {
        Self { memory: MemoryCache::new(max_bytes), folder }
    }
}

/// The key in the folder, if that is where a value belongs.
fn kept_at(key: &str) -> Option<ObjectKey> {
    let is_segmentation = key.split('/').next() == Some(layout::SEGMENTATIONS);
    is_segmentation.then(|| ObjectKey::new(key).ok())?
}

#[async_trait]
impl Cache for FolderCache {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        match kept_at(key) {
            Some(kept) => self.folder.get(&kept, layout::MAX_SEGMENTATION_BYTES).await,
            None => self.memory.get(key).await,
        }
    }

    async fn contains(&self, key: &str) -> Result<bool, Fault> {
        match kept_at(key) {
            Some(kept) => self.folder.exists(&kept).await,
            None => self.memory.contains(key).await,
        }
    }

    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), Fault> {
        match kept_at(key) {
            Some(kept) => self.folder.put(&kept, value).await,
            None => self.memory.put(key, value, ttl).await,
        }
    }

    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, Fault> {
        self.memory.acquire_lease(key, ttl).await
    }

    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, Fault> {
        self.memory.renew_lease(key, token, ttl).await
    }

    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, Fault> {
        self.memory.release_lease(key, token).await
    }
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryObjectStore;

    use super::*;

    #[tokio::test]
    async fn segmentations_outlive_the_process_and_nothing_else_does() {
        let folder = Arc::new(MemoryObjectStore::new());
        let process = || FolderCache::new(1_000, folder.clone());
        let first = process();
        for key in ["segmentations/ab/abc", "subjects/ab/abc", "stored/segmentations/ab/abc"] {
            assert_eq!(first.get(key).await.unwrap(), None);
            first.put(key, "1".into(), Duration::from_secs(1)).await.unwrap();
            assert!(first.get(key).await.unwrap().unwrap() == "1" && first.contains(key).await.unwrap());
            assert_eq!(process().contains(key).await.unwrap(), key.starts_with("segmentations/"), "{key}");
        }
        assert_eq!(process().get("segmentations/ab/abc").await.unwrap().unwrap(), "1");
    }
}
