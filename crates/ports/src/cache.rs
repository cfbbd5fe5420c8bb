//! A cache that may forget anything at any moment: losing it costs time, never a job.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Fault;

/// Short-lived bytes under keys, and leases, shared by all workers.
///
/// Values and leases do not meet: a key may name one of each.
#[async_trait]
pub trait Cache: Send + Sync + std::fmt::Debug {
    /// Returns the value, or `None` if it is absent or over its time to live.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Fault>;

    /// Returns whether [`get`](Self::get) would find a value, without handing it over.
    async fn contains(&self, key: &str) -> Result<bool, Fault>;

    /// Stores a value for `ttl`. A value over the cache's own size limit is not stored, and that is no error.
    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), Fault>;

    /// Takes the lease of a key for `ttl`, or returns `None` while somebody holds it. Of many callers at once exactly
    /// one gets it. After a failure it may have been taken all the same; then it runs out unused.
    ///
    /// A lease says whose turn it is, not that nobody else is at work: a cache that forgot it gives it out again. The
    /// token tells the two holders apart.
    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, Fault>;

    /// Lets the lease run for `ttl` from now; returns whether `token` still holds it.
    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, Fault>;

    /// Gives the lease back; returns whether `token` still held it. Another's lease stays as it is.
    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, Fault>;
}

/// Tells the holders of a lease apart: greater than every earlier token of its key, also after the cache lost all it
/// knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FencingToken(pub u64);

impl std::fmt::Display for FencingToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
