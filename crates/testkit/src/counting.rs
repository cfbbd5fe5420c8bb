//! A port that counts its calls.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey, ObjectStore};

/// Counts the calls by their names.
#[derive(Debug, Default)]
pub struct Counting<P> {
    inner: P,
    calls: Mutex<BTreeMap<&'static str, usize>>,
}

impl<P> Counting<P> {
    /// Wraps `inner` and counts its calls.
    pub fn new(inner: P) -> Self {
        Self { inner, calls: Mutex::default() }
    }

    /// The calls since the last call of this method.
    pub fn take(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn call(&self, name: &'static str) -> &P {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        &self.inner
    }
}

#[async_trait]
impl<P: ObjectStore> ObjectStore for Counting<P> {
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        self.call("get").get(key, max_bytes).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault> {
        self.call("put").put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        self.call("put_if_absent").put_if_absent(key, bytes).await
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        self.call("exists").exists(key).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault> {
        self.call("delete").delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault> {
        self.call("list").list(prefix, after, limit).await
    }
}
