//! A store that the test looks into while the worker writes.

use std::sync::Arc;

use async_trait::async_trait;
use echogen_ports::{Fault, MemoryObjectStore, ObjectKey, ObjectStore};

/// The twin, held by both.
#[derive(Debug)]
pub(super) struct SharedStore(pub(super) Arc<MemoryObjectStore>);

#[async_trait]
impl ObjectStore for SharedStore {
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<bytes::Bytes>, Fault> {
        self.0.get(key, max_bytes).await
    }

    async fn put(&self, key: &ObjectKey, bytes: bytes::Bytes) -> Result<(), Fault> {
        self.0.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &ObjectKey, bytes: bytes::Bytes) -> Result<bool, Fault> {
        self.0.put_if_absent(key, bytes).await
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        self.0.exists(key).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault> {
        self.0.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault> {
        self.0.list(prefix, after, limit).await
    }
}
