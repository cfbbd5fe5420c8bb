//! A cache that may forget anything at any moment: losing it costs time, never a job.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::PortError;

/// Short-lived bytes under keys, shared by all workers.
#[async_trait]
pub trait Cache: Send + Sync + std::fmt::Debug {
    /// Returns the value, or `None` if it is absent or over its time to live.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, PortError>;

    /// Stores a value for `ttl`. A value over the cache's own size limit is not stored, and that is no error.
    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), PortError>;

    /// Stores the value only if the key is free; returns whether it did. The ground of leases.
    async fn put_if_absent(&self, key: &str, value: Bytes, ttl: Duration) -> Result<bool, PortError>;

    /// Removes the key only while it holds `expected`; returns whether it did.
    async fn delete_if_equal(&self, key: &str, expected: &[u8]) -> Result<bool, PortError>;
}
