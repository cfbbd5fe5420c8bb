//! A cache that may lose anything at any time: that costs time, never a job.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Fault;

/// Short-lived bytes under keys, and leases, shared by all workers.
///
/// Values and leases are separate: a key may name one of each.
#[async_trait]
pub trait Cache: Send + Sync + std::fmt::Debug {
    /// Returns the value, or `None` if it is absent or expired.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Fault>;

    /// Returns whether [`get`](Self::get) would find a value, without transferring it.
    async fn contains(&self, key: &str) -> Result<bool, Fault>;

    /// Stores a value for `ttl`. A value over the cache's own size limit is not stored; this is no error.
    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), Fault>;

    /// Acquires the lease of a key for `ttl`, or returns `None` while it is held. Of many simultaneous callers exactly
    /// one acquires it. After an error it may have been acquired nevertheless; then it expires unused.
    ///
    /// A lease saves work and does not guarantee exclusion: a cache that lost it grants it again. The token
    /// distinguishes the two holders.
    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, Fault>;

    /// Renews the lease for `ttl` from now; returns whether `token` still holds it.
    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, Fault>;

    /// Whether the cache can be used at all: an error says what is wrong with it, and what to change. One that is always
    /// there needs no check.
    async fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// Releases the lease; returns whether `token` still held it. The lease of another holder is unchanged.
    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, Fault>;
}

/// Distinguishes the holders of a lease: greater than every earlier token of its key, also after the cache lost all
/// data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(pub u64);

impl std::fmt::Display for FencingToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
