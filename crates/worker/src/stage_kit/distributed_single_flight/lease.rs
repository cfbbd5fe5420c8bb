//! A lease in the cache, held while its owner works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use echogen_ports::{Cache, FencingToken};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// Acquires leases in a cache.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    cache: Arc<dyn Cache>,
    ttl: Duration,
    /// Leases that are being released for owners that were dropped before they were done.
    releases: TaskTracker,
}

/// A lease that is held. Dropping it releases it: when its owner is dropped at its time limit or at shutdown, the
/// others need not wait until the lease expires.
pub(super) struct Lease<'a> {
    leases: &'a Leases,
    key: &'a str,
    /// A [`FencingToken`]; 0 once it is released.
    token: AtomicU64,
    acquired: Instant,
}

/// Who holds the lease after some work.
pub(super) enum Holder {
    /// We do, without interruption as far as can be told: a cache that does not answer gives it to nobody else.
    Us,
    /// We do, by a new lease: the old one had expired or was lost.
    UsAgain,
    /// Another does, since ours expired.
    Another,
}

impl Leases {
    pub(super) fn new(cache: Arc<dyn Cache>, ttl: Duration) -> Self {
        Self { cache, ttl, releases: TaskTracker::new() }
    }

    /// Acquires the lease of `key`; `None` while another holds it.
    pub(super) async fn acquire<'a>(&'a self, key: &'a str) -> Result<Option<Lease<'a>>, echogen_ports::Fault> {
        let token = self.cache.acquire_lease(key, self.ttl).await?;
        Ok(token.map(|FencingToken(token)| Lease { leases: self, key, token: token.into(), acquired: Instant::now() }))
    }
}

impl Lease<'_> {
    /// Returns who holds it after the work. A lease that is much younger than its time to live is ours without asking.
    pub(super) async fn holder(&self) -> Holder {
        if self.acquired.elapsed() < self.leases.ttl / 3 { Holder::Us } else { self.renew().await }
    }

    /// Renews the lease, or acquires a new one if it has expired and nobody holds it.
    async fn renew(&self) -> Holder {
        let (cache, ttl) = (&self.leases.cache, self.leases.ttl);
        let token = FencingToken(self.token.load(Ordering::SeqCst));
        match cache.renew_lease(self.key, token, ttl).await {
            Ok(true) | Err(_) => Holder::Us,
            Ok(false) => match cache.acquire_lease(self.key, ttl).await {
                Ok(Some(token)) => {
                    self.token.store(token.0, Ordering::SeqCst);
                    Holder::UsAgain
                }
                Ok(None) => {
                    self.token.store(0, Ordering::SeqCst);
                    Holder::Another
                }
                Err(_) => Holder::Us,
            },
        }
    }

    /// Renews the lease periodically; returns when another holds it.
    pub(super) async fn until_lost(&self) {
        loop {
            tokio::time::sleep(self.leases.ttl / 3).await;
            if let Holder::Another = self.renew().await {
                debug!(key = self.key, "another process makes this product now; waiting for it");
                return;
            }
        }
    }

    /// Releases the lease and waits until that is done, so that the next one to ask gets it.
    pub(super) async fn release(self) {
        let token = self.token.swap(0, Ordering::SeqCst);
        if token != 0 {
            release_lease(&*self.leases.cache, self.key, FencingToken(token)).await;
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let token = self.token.swap(0, Ordering::SeqCst);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if token != 0 {
            let (cache, key) = (Arc::clone(&self.leases.cache), self.key.to_owned());
            let releasing = async move { release_lease(&*cache, &key, FencingToken(token)).await };
            self.leases.releases.spawn_on(releasing, &runtime);
        }
    }
}

/// A lease that cannot be released expires.
async fn release_lease(cache: &dyn Cache, key: &str, token: FencingToken) {
    if let Err(error) = cache.release_lease(key, token).await {
        debug!(key, %error, "lease not released");
    }
}
