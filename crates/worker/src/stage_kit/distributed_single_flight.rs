//! One maker for what many request at the same moment, across processes.
//!
//! ```text
//!  get_cached (unless new) ── there ─────────────────────────▶ found
//!    │ not seen
//!    ▼
//!  acquire the lease ── another holds it ── wait, get_cached ── there ─▶ found
//!    │ ours       ▲                            │ not seen
//!    │            └────────────────────────────┘
//!    ▼
//!  get_stored (get_cached if new) ── there ── release ───────▶ found
//!    │ absent
//!    ▼
//!  make, renewing ── lease lost ── wait, get_cached (as above)
//!    │ done
//!    ▼
//!  still ours? ── store ── release ──────────────────────────▶ made
//! ```
//!
//! The lease saves work and is not needed for correctness. Products are named by content, so two processes that make
//! the same one do no harm, and while the cache is unreachable every process makes its own: that costs time, never a
//! job.

mod lease;

use std::sync::Arc;

use async_trait::async_trait;
use echogen_ports::{Backoff, Cache};
use tracing::warn;

use self::lease::{Holder, Lease, Leases};
use super::{Obtained, ProductsConfig};

/// Work that several tasks may request at the same moment. Each step may run more than once.
#[async_trait]
pub(super) trait FlightWork: Send + Sync {
    /// What all of them want.
    type Product: Send;
    /// What is made and not stored yet.
    type Draft: Send;
    /// Why it failed; returned to the task whose work it was.
    type Error: Send;

    /// Whether nobody can have stored the product before this task's job came. Such work takes the lease at once, and
    /// then looks in the cache only, which has what is so new.
    fn is_new(&self) -> bool;

    /// Looks for the product where looking costs little, in a cache; may miss one that is stored.
    async fn get_cached(&self) -> Result<Option<Self::Product>, Self::Error>;

    /// Looks for the product in the store. Under the lease, so one such look is enough for a new product.
    async fn get_stored(&self) -> Result<Option<Self::Product>, Self::Error>;

    /// Makes the product. It is dropped halfway if another has taken over.
    async fn make(&self) -> Result<Self::Draft, Self::Error>;

    /// Stores the product; called only while the lease is held, as far as can be told.
    async fn store(&self, draft: Self::Draft) -> Result<Self::Product, Self::Error>;
}

/// What [`DistributedSingleFlight::run`] returns for some work.
type FlightResult<W> = Result<Obtained<<W as FlightWork>::Product>, <W as FlightWork>::Error>;

/// Makes a product once, however many processes ask for it at the same moment.
#[derive(Clone, Debug)]
pub(super) struct DistributedSingleFlight {
    leases: Leases,
    lookups: Backoff,
}

impl DistributedSingleFlight {
    /// Holds its leases in `cache`.
    pub(super) fn new(cache: Arc<dyn Cache>, config: &ProductsConfig) -> Self {
        Self { leases: Leases::new(cache, config.lease_ttl()), lookups: config.lookups() }
    }

    /// Returns the product of `key`, found or made. After an error the next in the queue tries with its own work.
    pub(super) async fn run<W: FlightWork>(&self, key: &str, work: &W) -> FlightResult<W> {
        let mut waits = 0;
        loop {
            let is_first_of_new = waits == 0 && work.is_new();
            if !is_first_of_new && let Some(product) = work.get_cached().await? {
                return Ok(Obtained::found(product));
            }
            match self.leases.acquire(key).await {
                Ok(Some(lease)) => {
                    let done = under_lease(&lease, work).await;
                    // Before the answer is returned, also if it is an error: those who wait for it continue at once.
                    lease.release().await;
                    if let Some(product) = done? {
                        return Ok(product);
                    }
                }
                Ok(None) => {
                    waits += 1;
                    count_first_wait(key, waits);
                    tokio::time::sleep(self.lookups.wait(waits)).await;
                }
                Err(error) => {
                    warn!(key, %error, "no lease available; working without one");
                    return self.run_without_lease(work).await;
                }
            }
        }
    }

    /// The same without asking whether another process makes it.
    pub(super) async fn run_without_lease<W: FlightWork>(&self, work: &W) -> FlightResult<W> {
        match work.get_stored().await? {
            Some(product) => Ok(Obtained::found(product)),
            None => Ok(Obtained::made(work.store(work.make().await?).await?)),
        }
    }
}

/// A task that waits is counted once, however often it looks.
fn count_first_wait(key: &str, waits: u32) {
    if waits == 1 {
        echogen_telemetry::metrics().flight_waited(key);
    }
}

/// What the holder of the lease does; `None` if the lease was lost on the way.
async fn under_lease<W: FlightWork>(lease: &Lease<'_>, work: &W) -> Result<Option<Obtained<W::Product>>, W::Error> {
    let there = if work.is_new() { work.get_cached().await? } else { work.get_stored().await? };
    if let Some(product) = there {
        return Ok(Some(Obtained::found(product)));
    }
    let draft = tokio::select! {
        // A product that is ready counts, also when the lease is lost at the same moment: whether it may be stored is
        // asked below.
        biased;
        // The work itself.
        draft = work.make() => draft?,
        // Renews the lease meanwhile, and ends only when another process has it: then the work is dropped, and the
        // product is waited for.
        () = lease.until_lost() => return Ok(None),
    };
    // Asked after the work and before the product is stored: a holder whose lease expired stores nothing while another
    // process makes the product.
    match lease.holder().await {
        Holder::Us => {}
        Holder::UsAgain => {
            // Another process may have held the lease and finished meanwhile; then its product counts.
            if let Some(product) = work.get_stored().await? {
                return Ok(Some(Obtained::found(product)));
            }
        }
        Holder::Another => return Ok(None),
    }
    Ok(Some(Obtained::made(work.store(draft).await?)))
}

#[cfg(test)]
mod tests;
