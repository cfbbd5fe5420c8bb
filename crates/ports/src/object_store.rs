//! Durable bytes under keys.

use async_trait::async_trait;
use bytes::Bytes;

use crate::PortError;

/// A key in the object store: parts of letters, digits, `.`, `_`, `-`, joined by `/`; no part is empty, `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

/// Durable storage of whole objects.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Returns the object, or `None` if there is none. An object over `max_bytes` is a permanent error.
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, PortError>;

    /// Stores the object, replacing one that stands there. Durable when it returns; a reader sees the whole object
    /// or none. Idempotent.
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), PortError>;

    /// Stores the object only if the key is free; returns whether it did. Of many callers at once exactly one wins.
    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, PortError>;

    /// Returns whether an object stands at the key.
    async fn exists(&self, key: &ObjectKey) -> Result<bool, PortError>;

    /// Removes the object if it is there. Idempotent.
    async fn delete(&self, key: &ObjectKey) -> Result<(), PortError>;
}
