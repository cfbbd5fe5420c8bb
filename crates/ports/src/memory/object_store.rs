//! The in-memory object store: a map.

use std::{collections::BTreeMap, ops::Bound, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::lock;
use crate::{Fault, ObjectKey, ObjectStore, check_list_prefix, object_too_large};

/// Objects in memory.
#[derive(Default)]
pub struct MemoryObjectStore {
    objects: Mutex<BTreeMap<ObjectKey, Bytes>>,
}

impl MemoryObjectStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// All keys, sorted.
    pub fn keys(&self) -> Vec<ObjectKey> {
        lock(&self.objects).keys().cloned().collect()
    }
}

impl std::fmt::Debug for MemoryObjectStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryObjectStore").field("objects", &lock(&self.objects).len()).finish()
    }
}

#[async_trait]
impl ObjectStore for MemoryObjectStore {
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        match lock(&self.objects).get(key) {
            Some(bytes) if bytes.len() as u64 > max_bytes => Err(object_too_large(key, bytes.len() as u64, max_bytes)),
            found => Ok(found.cloned()),
        }
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault> {
        lock(&self.objects).insert(key.clone(), bytes);
        Ok(())
    }

    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        let mut objects = lock(&self.objects);
        if objects.contains_key(key) {
            return Ok(false);
        }
        objects.insert(key.clone(), bytes);
        Ok(true)
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        Ok(lock(&self.objects).contains_key(key))
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault> {
        lock(&self.objects).remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault> {
        check_list_prefix(prefix)?;
        let objects = lock(&self.objects);
        // The bound is the greater of the two: a key before the prefix skips nothing of it.
        let start = match after {
            Some(after) if after.as_str() > prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let from_here = objects.range::<str, _>((start, Bound::Unbounded)).map(|(key, _)| key);
        Ok(from_here.take_while(|key| key.as_str().starts_with(prefix)).take(limit).cloned().collect())
    }
}
