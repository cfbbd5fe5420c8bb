//! Products: what a stage makes once and keeps under a name that follows from its content.

use std::marker::PhantomData;

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey};

use super::{
    CachedObjects, ProductsConfig,
    distributed_single_flight::{DistributedSingleFlight, FlightWork},
    single_flight::SingleFlight,
};
use crate::StageContext;

/// How a kind of product is kept.
#[async_trait]
pub trait Product: Clone + Send + Sync + 'static {
    /// What was made and is not stored yet.
    type Draft: Send;

    /// Returns the product if the cache has it; may miss one that is stored.
    async fn get_cached(objects: &CachedObjects, key: &ObjectKey) -> Result<Option<Self>, Fault>;

    /// Returns the product from the store.
    async fn get_stored(objects: &CachedObjects, key: &ObjectKey) -> Result<Option<Self>, Fault>;

    /// Stores what was made. When it returns, everyone finds the whole product; one that is in the cache only, as long as
    /// that has it. Idempotent.
    async fn store(objects: &CachedObjects, key: &ObjectKey, draft: Self::Draft) -> Result<Self, Fault>;
}

/// A product that is one object. The task only needs to know that it is stored; a later stage reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredObject;

#[async_trait]
impl Product for StoredObject {
    type Draft = Bytes;

    async fn get_cached(objects: &CachedObjects, key: &ObjectKey) -> Result<Option<Self>, Fault> {
        Ok(objects.is_cached(key).await.then_some(Self))
    }

    async fn get_stored(objects: &CachedObjects, key: &ObjectKey) -> Result<Option<Self>, Fault> {
        Ok(objects.exists(key).await?.then_some(Self))
    }

    async fn store(objects: &CachedObjects, key: &ObjectKey, draft: Bytes) -> Result<Self, Fault> {
        objects.put(key, draft).await?;
        Ok(Self)
    }
}

/// A product, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obtained<P> {
    /// The product itself.
    pub product: P,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a product comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was there, or another task made it meanwhile.
    Found,
    /// This task made it.
    Made,
}

impl<P> Obtained<P> {
    pub(super) fn found(product: P) -> Self {
        Self { product, origin: Origin::Found }
    }

    pub(super) fn made(product: P) -> Self {
        Self { product, origin: Origin::Made }
    }

    /// Whether this task did not have to make it.
    pub fn is_found(&self) -> bool {
        self.origin == Origin::Found
    }
}

/// The products of a stage. Of many tasks that want the same product at the same moment, in this process and in others,
/// one makes it.
#[derive(Debug)]
pub struct Products<P> {
    objects: CachedObjects,
    in_process: SingleFlight<ObjectKey, P>,
    across_processes: DistributedSingleFlight,
}

impl<P: Product> Products<P> {
    /// Keeps products in `objects`, whose cache also holds the leases by which processes agree on who makes one.
    pub fn new(objects: CachedObjects, config: &ProductsConfig) -> Self {
        let across_processes = DistributedSingleFlight::new(objects.cache(), config);
        Self { objects, in_process: SingleFlight::new(), across_processes }
    }

    /// Returns the product of `key`, by `make` unless it is stored or being made.
    ///
    /// `is_new` says that nobody can have stored the product before this task's job came: then the store is not asked,
    /// only the cache, which has what is so new. Where the cache has lost it, it is made twice, which costs time.
    ///
    /// An error is returned to the task whose `make` it was; the next one that waits tries with its own. `make` may be
    /// called more than once, and is dropped before it is done if another process has taken over.
    pub async fn get_or_make<E, M, F>(
        &self,
        context: &StageContext,
        key: &ObjectKey,
        is_new: bool,
        make: M,
    ) -> Result<Obtained<P>, E>
    where
        E: From<Fault> + Send,
        M: Fn() -> F + Send + Sync,
        F: Future<Output = Result<P::Draft, E>> + Send,
    {
        let work = Making { objects: &self.objects, key, is_new, make, product: PhantomData };
        let mut origin = Origin::Found;
        // First within the process, so that only one of its tasks waits for the lease.
        let flight = self.in_process.run(key, async {
            let obtained = match context.alone {
                // A task that was redelivered after a crash: the lease that it would wait for is most likely the one
                // of its own crashed process.
                true => self.across_processes.run_without_lease(&work).await?,
                false => self.across_processes.run(key.as_str(), &work).await?,
            };
            origin = obtained.origin;
            Ok::<_, E>(obtained.product)
        });
        let product = flight.await?;
        Ok(Obtained { product, origin })
    }

    /// The store of the products, for what they are made of.
    pub fn objects(&self) -> &CachedObjects {
        &self.objects
    }
}

/// The work of one call of [`Products::get_or_make`].
struct Making<'a, P, M> {
    objects: &'a CachedObjects,
    key: &'a ObjectKey,
    is_new: bool,
    make: M,
    product: PhantomData<fn() -> P>,
}

#[async_trait]
impl<P, E, M, F> FlightWork for Making<'_, P, M>
where
    P: Product,
    E: From<Fault> + Send,
    M: Fn() -> F + Send + Sync,
    F: Future<Output = Result<P::Draft, E>> + Send,
{
    type Product = P;
    type Draft = P::Draft;
    type Error = E;

    fn is_new(&self) -> bool {
        self.is_new
    }

    async fn get_cached(&self) -> Result<Option<P>, E> {
        Ok(P::get_cached(self.objects, self.key).await?)
    }

    async fn get_stored(&self) -> Result<Option<P>, E> {
        Ok(P::get_stored(self.objects, self.key).await?)
    }

    async fn make(&self) -> Result<P::Draft, E> {
        (self.make)().await
    }

    async fn store(&self, draft: P::Draft) -> Result<P, E> {
        Ok(P::store(self.objects, self.key, draft).await?)
    }
}

#[cfg(test)]
mod tests;
