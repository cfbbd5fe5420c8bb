//! One worker for what many ask at the same moment, across processes.
//!
//! ```text
//!  glance (unless new) ── there ──────────────────────────────▶ found
//!    │ not seen
//!    ▼
//!  take the lease ── another holds it ── wait, glance ── there ─▶ found
//!    │ ours    ▲                            │ not seen
//!    │         └────────────────────────────┘
//!    ▼
//!  find (glance if new) ── there ── give back ────────────────▶ found
//!    │ absent
//!    ▼
//!  make, renewing ── lease lost ── wait, glance (as above)
//!    │ done
//!    ▼
//!  still ours? ── store ── give back ─────────────────────────▶ made
//! ```
//!
//! The lease saves work; it guards nothing that matters. Products are named by content, so two who make the same one
//! do no harm, and a cache that is away means that everybody works: time, never a job.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use echogen_ports::{Cache, FencingToken};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::{
    StageContext,
    config::{Backoff, jitter},
};

/// How leases are held and waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseConfig {
    /// Seconds after which the lease of a holder that died runs out. A living holder renews it three times as often.
    pub ttl_seconds: f64,
    /// The waits between looks at a product that another is making.
    pub wait: Backoff,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        // The stages take between 30 ms and a second or two: soon enough for the first, gentle enough for the second.
        let wait = Backoff { first_seconds: 0.02, factor: 1.5, max_seconds: 0.5 };
        Self { ttl_seconds: 10.0, wait }
    }
}

impl LeaseConfig {
    fn ttl(&self) -> Duration {
        let shortest = Duration::from_millis(10);
        Duration::try_from_secs_f64(self.ttl_seconds).unwrap_or(shortest).max(shortest)
    }
}

/// A product, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared<P> {
    /// It was there, or another made it meanwhile.
    Found(P),
    /// This call made it.
    Made(P),
}

impl<P> Shared<P> {
    /// The product itself.
    pub fn into_product(self) -> P {
        match self {
            Self::Found(product) | Self::Made(product) => product,
        }
    }
}

/// Work that several may be asked for at the same moment. Each step may run more than once.
#[async_trait]
pub trait SharedWork: Send + Sync {
    /// What everybody wants.
    type Product: Send;
    /// What is made and not stored yet.
    type Draft: Send;
    /// Why it did not work. It is for the one whose work it was.
    type Error: Send;

    /// Whether nobody can have stored the product before this task's job came. Such work takes the lease at once, and then
    /// looks in the cache only, which holds what is so young. Where the cache has lost it, it is made twice: time, no more.
    fn is_new(&self) -> bool;

    /// Looks for the product where looking costs little, in a cache; may miss one that is stored.
    async fn get_cached(&self) -> Result<Option<Self::Product>, Self::Error>;

    /// Looks for the product in the store. Under the lease, so one such look is enough for a new product.
    async fn get_stored(&self) -> Result<Option<Self::Product>, Self::Error>;

    /// Makes the product. It is dropped halfway if another has taken over.
    async fn make(&self) -> Result<Self::Draft, Self::Error>;

    /// Stores the product; called only while the lease is held, as far as anybody can tell.
    async fn store(&self, draft: Self::Draft) -> Result<Self::Product, Self::Error>;
}

/// What [`DistributedSingleFlight::run`] returns for some work.
type SharedResult<W> = Result<Shared<<W as SharedWork>::Product>, <W as SharedWork>::Error>;

/// Makes a product once, however many processes ask for it at the same moment. Within a process
/// [`SingleFlight`](crate::SingleFlight) comes first, so that only one of its many askers stands in the queue here.
#[derive(Clone, Debug)]
pub struct DistributedSingleFlight {
    cache: Arc<dyn Cache>,
    config: LeaseConfig,
    /// Leases being given back by those who were dropped halfway.
    returns: TaskTracker,
}

impl DistributedSingleFlight {
    /// Holds its leases in `cache`.
    pub fn new(cache: Arc<dyn Cache>, config: LeaseConfig) -> Self {
        Self { cache, config, returns: TaskTracker::new() }
    }

    /// Returns the product of `key`, found or made. After an error the next in the queue tries with its own work.
    pub async fn run<W: SharedWork>(&self, key: &str, work: &W) -> SharedResult<W> {
        let mut waits = 0;
        loop {
            let is_first_of_new = waits == 0 && work.is_new();
            if !is_first_of_new && let Some(product) = work.get_cached().await? {
                return Ok(Shared::Found(product));
            }
            match self.cache.acquire_lease(key, self.config.ttl()).await {
                Ok(Some(token)) => {
                    let lease = Lease::new(self, key, token);
                    let done = in_turn(&lease, work).await;
                    lease.give_back().await;
                    if let Some(product) = done? {
                        return Ok(product);
                    }
                }
                Ok(None) => {
                    waits += 1;
                    note_wait(key, waits);
                    tokio::time::sleep(self.config.wait.wait(waits, jitter())).await;
                }
                Err(error) => {
                    warn!(key, %error, "no lease to be had; working without");
                    return self.run_at_once(work).await;
                }
            }
        }
    }

    /// The same for a task: one that runs alone stands in no queue.
    pub async fn run_for<W: SharedWork>(&self, context: &StageContext, key: &str, work: &W) -> SharedResult<W> {
        if context.alone { self.run_at_once(work).await } else { self.run(key, work).await }
    }

    /// Without a lease, for a task that came back: the lease it would wait for is most likely its own, of the
    /// process that died with it.
    async fn run_at_once<W: SharedWork>(&self, work: &W) -> SharedResult<W> {
        match work.get_stored().await? {
            Some(product) => Ok(Shared::Found(product)),
            None => Ok(Shared::Made(work.store(work.make().await?).await?)),
        }
    }
}

/// One who waits is counted once, however often it looks.
fn note_wait(key: &str, waits: u32) {
    if waits == 1 {
        echogen_telemetry::metrics().flight_waited(key);
    }
}

/// What the holder of the lease does; `None` if the lease was lost on the way.
async fn in_turn<W: SharedWork>(lease: &Lease<'_>, work: &W) -> Result<Option<Shared<W::Product>>, W::Error> {
    let there = if work.is_new() { work.get_cached().await? } else { work.get_stored().await? };
    if let Some(product) = there {
        return Ok(Some(Shared::Found(product)));
    }
    let draft = tokio::select! {
        biased;
        draft = work.make() => draft?,
        () = lease.until_lost() => return Ok(None),
    };
    match lease.turn().await {
        Turn::Ours => {}
        Turn::OursAgain => {
            // Another may have come and gone meanwhile; then its product counts.
            if let Some(product) = work.get_stored().await? {
                return Ok(Some(Shared::Found(product)));
            }
        }
        Turn::Anothers => return Ok(None),
    }
    Ok(Some(Shared::Made(work.store(draft).await?)))
}

/// Whose turn it is.
enum Turn {
    /// The lease was held without a gap, as far as anybody can tell: a cache that is away gives it to nobody else.
    Ours,
    /// It had run out or was forgotten, and is ours anew.
    OursAgain,
    /// It ran out and another has it.
    Anothers,
}

struct Lease<'a> {
    flight: &'a DistributedSingleFlight,
    key: &'a str,
    /// A [`FencingToken`]; 0 once it is given back.
    token: AtomicU64,
    taken: Instant,
}

impl<'a> Lease<'a> {
    fn new(flight: &'a DistributedSingleFlight, key: &'a str, token: FencingToken) -> Self {
        Self { flight, key, token: AtomicU64::new(token.0), taken: Instant::now() }
    }

    /// Whose turn it is after the work. One that is much younger than it may get is ours without asking.
    async fn turn(&self) -> Turn {
        if self.taken.elapsed() < self.flight.config.ttl() / 3 { Turn::Ours } else { self.check().await }
    }

    /// Renews the lease, or takes it anew if it ran out and nobody has it.
    async fn check(&self) -> Turn {
        let (cache, ttl) = (&self.flight.cache, self.flight.config.ttl());
        let token = FencingToken(self.token.load(Ordering::SeqCst));
        match cache.renew_lease(self.key, token, ttl).await {
            Ok(true) | Err(_) => Turn::Ours,
            Ok(false) => match cache.acquire_lease(self.key, ttl).await {
                Ok(Some(token)) => {
                    self.token.store(token.0, Ordering::SeqCst);
                    Turn::OursAgain
                }
                Ok(None) => {
                    self.token.store(0, Ordering::SeqCst);
                    Turn::Anothers
                }
                Err(_) => Turn::Ours,
            },
        }
    }

    /// Renews the lease until another has it.
    async fn until_lost(&self) {
        loop {
            tokio::time::sleep(self.flight.config.ttl() / 3).await;
            if let Turn::Anothers = self.check().await {
                debug!(key = self.key, "another works on this now; waiting for it");
                return;
            }
        }
    }

    async fn give_back(&self) {
        let token = self.token.swap(0, Ordering::SeqCst);
        if token != 0 {
            release(&*self.flight.cache, self.key, FencingToken(token)).await;
        }
    }
}

/// Work that is dropped halfway (time limit, shutdown) does not let the others wait for the lease to run out.
impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let token = self.token.swap(0, Ordering::SeqCst);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if token != 0 {
            let (cache, key) = (Arc::clone(&self.flight.cache), self.key.to_owned());
            let give_back = async move { release(&*cache, &key, FencingToken(token)).await };
            self.flight.returns.spawn_on(give_back, &runtime);
        }
    }
}

/// One that cannot be given back runs out.
async fn release(cache: &dyn Cache, key: &str, token: FencingToken) {
    if let Err(error) = cache.release_lease(key, token).await {
        debug!(key, %error, "lease not given back");
    }
}

#[cfg(test)]
mod tests;
