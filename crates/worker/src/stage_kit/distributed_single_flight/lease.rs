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

/// Takes leases in a cache.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    cache: Arc<dyn Cache>,
    ttl: Duration,
    /// Leases being given back by owners that were dropped halfway.
    returns: TaskTracker,
}

/// A lease that is held. It is given back when it is dropped, also halfway: by then the owner's time is over, and the
/// others need not wait for the lease to run out.
pub(super) struct Lease<'a> {
    leases: &'a Leases,
    key: &'a str,
    /// A [`FencingToken`]; 0 once it is given back.
    token: AtomicU64,
    taken: Instant,
}

/// Who holds the lease after some work.
pub(super) enum Holder {
    /// We, without a gap as far as anybody can tell: a cache that is away gives it to nobody else.
    Us,
    /// We, anew: it had run out or was forgotten.
    UsAgain,
    /// Another, since ours ran out.
    Another,
}

impl Leases {
    pub(super) fn new(cache: Arc<dyn Cache>, ttl: Duration) -> Self {
        Self { cache, ttl, returns: TaskTracker::new() }
    }

    /// Takes the lease of `key`; `None` while another holds it.
    pub(super) async fn take<'a>(&'a self, key: &'a str) -> Result<Option<Lease<'a>>, echogen_ports::Fault> {
        let token = self.cache.acquire_lease(key, self.ttl).await?;
        Ok(token.map(|FencingToken(token)| Lease { leases: self, key, token: token.into(), taken: Instant::now() }))
    }
}

impl Lease<'_> {
    /// Says who holds it after the work. A lease that is much younger than its time to live is ours without asking.
    pub(super) async fn holder(&self) -> Holder {
        if self.taken.elapsed() < self.leases.ttl / 3 { Holder::Us } else { self.renew().await }
    }

    /// Renews the lease, or takes it anew if it ran out and nobody has it.
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

    /// Renews the lease again and again; returns when another has it.
    pub(super) async fn until_lost(&self) {
        loop {
            tokio::time::sleep(self.leases.ttl / 3).await;
            if let Holder::Another = self.renew().await {
                debug!(key = self.key, "another works on this now; waiting for it");
                return;
            }
        }
    }

    /// Gives the lease back and waits for that, so that whoever asks next gets it.
    pub(super) async fn give_back(self) {
        let token = self.token.swap(0, Ordering::SeqCst);
        if token != 0 {
            release(&*self.leases.cache, self.key, FencingToken(token)).await;
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let token = self.token.swap(0, Ordering::SeqCst);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if token != 0 {
            let (cache, key) = (Arc::clone(&self.leases.cache), self.key.to_owned());
            let give_back = async move { release(&*cache, &key, FencingToken(token)).await };
            self.leases.returns.spawn_on(give_back, &runtime);
        }
    }
}

/// A lease that cannot be given back runs out.
async fn release(cache: &dyn Cache, key: &str, token: FencingToken) {
    if let Err(error) = cache.release_lease(key, token).await {
        debug!(key, %error, "lease not given back");
    }
}
