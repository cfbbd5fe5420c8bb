//! A limit on the memory that the tasks of a process hold together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Fault, spawn_blocking};

/// A memory budget for many tasks. A task that would exceed it waits; tasks are served in the order of their requests.
/// All clones share the budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    units: u32,
    free: Arc<Semaphore>,
}

/// Memory that may be used until this is dropped.
#[derive(Debug)]
#[must_use = "the memory is free again when this is dropped"]
pub struct MemoryPermit {
    /// `None` only if the semaphore was closed, which never happens.
    units: Option<OwnedSemaphorePermit>,
}

impl MemoryBudget {
    /// Memory is counted in units of this many bytes.
    pub const UNIT: u64 = 64 * 1024;

    /// A budget of `bytes`, rounded down to whole units, at least one.
    pub fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / Self::UNIT).unwrap_or(u32::MAX).max(1);
        Self { units, free: Arc::new(Semaphore::new(units as usize)) }
    }

    /// Waits until so many bytes are free, and one unit at least. A task that wants more than the whole budget gets the
    /// whole, and is alone then. Cancel safe: a task that no longer waits loses its place in the queue, nothing else.
    pub async fn acquire(&self, bytes: u64) -> MemoryPermit {
        let units = units_of(bytes).clamp(1, self.units);
        MemoryPermit { units: Arc::clone(&self.free).acquire_many_owned(units).await.ok() }
    }

    /// Runs `load` on a blocking thread as soon as the memory is free that it takes according to `measure`, and returns
    /// what it made together with that memory.
    ///
    /// # Errors
    ///
    /// The error of `measure` or `load`; or one of them panicked.
    pub async fn load<I, T, E>(
        &self,
        input: I,
        measure: impl FnOnce(&I) -> Result<u64, E> + Send + 'static,
        load: impl FnOnce(&I) -> Result<T, E> + Send + 'static,
    ) -> Result<(T, MemoryPermit), E>
    where
        I: Send + 'static,
        T: Send + 'static,
        E: From<Fault> + Send + 'static,
    {
        let measured = move || measure(&input).map(|bytes| (bytes, input));
        let (bytes, input) = spawn_blocking(measured).await??;
        let permit = self.acquire(bytes).await;
        // The permit moves into the work, which runs to its end also when this future is dropped meanwhile: its memory
        // must not count as free before.
        let loaded = move || load(&input).map(|loaded| (loaded, permit));
        spawn_blocking(loaded).await?
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> u64 {
        self.free.available_permits() as u64 * Self::UNIT
    }
}

impl MemoryPermit {
    /// Bytes that may be used, in whole units.
    pub fn bytes(&self) -> u64 {
        self.units.as_ref().map_or(0, |units| units.num_permits() as u64 * MemoryBudget::UNIT)
    }

    /// Gives back what is not needed for `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let Some(units) = &mut self.units else { return };
        let excess = units.num_permits().saturating_sub(units_of(bytes) as usize);
        drop(units.split(excess));
    }
}

fn units_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MemoryBudget::UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    const UNIT: u64 = MemoryBudget::UNIT;

    #[tokio::test]
    async fn a_task_that_would_exceed_the_budget_waits() {
        let budget = MemoryBudget::new(10 * UNIT);
        let first = budget.acquire(4 * UNIT).await;
        let second = budget.acquire(6 * UNIT - 1).await;
        let mut third = Box::pin(budget.acquire(1));
        assert!(poll!(&mut third).is_pending());
        drop(first);
        let third = third.await;
        let fourth = budget.acquire(3 * UNIT).await;
        drop((second, third, fourth));
        assert_eq!(budget.free.available_permits(), 10, "all of it came back");
    }

    #[tokio::test]
    async fn memory_is_given_in_the_order_of_asking() {
        let budget = MemoryBudget::new(10 * UNIT);
        let first = budget.acquire(5 * UNIT).await;
        let mut large = Box::pin(budget.acquire(8 * UNIT));
        assert!(poll!(&mut large).is_pending());
        let mut small = Box::pin(budget.acquire(UNIT));
        assert!(poll!(&mut small).is_pending(), "it does not overtake");
        drop(first);
        assert!(poll!(&mut large).is_ready());
        assert!(poll!(&mut small).is_ready());
    }

    #[tokio::test]
    async fn more_than_the_whole_is_the_whole() {
        let budget = MemoryBudget::new(10 * UNIT);
        let small = budget.acquire(UNIT).await;
        let mut huge = Box::pin(budget.acquire(u64::MAX));
        assert!(poll!(&mut huge).is_pending());
        drop(small);
        let huge = huge.await;
        let mut next = Box::pin(budget.acquire(1));
        assert!(poll!(&mut next).is_pending(), "it is alone");
        drop(huge);
        assert!(poll!(&mut next).is_ready());
    }

    #[tokio::test]
    async fn a_task_that_no_longer_waits_leaves_nothing_taken() {
        let budget = MemoryBudget::new(10 * UNIT);
        let first = budget.acquire(9 * UNIT).await;
        let mut second = Box::pin(budget.acquire(2 * UNIT));
        assert!(poll!(&mut second).is_pending());
        drop(second);
        drop(first);
        assert_eq!(budget.free.available_permits(), 10);
    }

    #[tokio::test]
    async fn nothing_is_a_little_and_an_empty_budget_serves_one_at_a_time() {
        let budget = MemoryBudget::new(0);
        let first = budget.acquire(0).await;
        let mut second = Box::pin(budget.acquire(0));
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn memory_is_held_in_whole_units_and_what_is_not_needed_is_free_at_once() {
        let budget = MemoryBudget::new(3 * UNIT);
        for (bytes, free) in [(0, 2), (1, 2), (UNIT, 2), (UNIT + 1, 1), (3 * UNIT, 0), (u64::MAX, 0)] {
            let permit = budget.acquire(bytes).await;
            assert_eq!((budget.free_bytes(), permit.bytes()), (free * UNIT, (3 - free) * UNIT), "{bytes} bytes");
            drop(permit);
            assert_eq!(budget.free_bytes(), 3 * UNIT);
        }
        let mut permit = budget.acquire(3 * UNIT).await;
        permit.shrink_to(u64::MAX);
        assert_eq!(budget.free_bytes(), 0, "it never grows");
        permit.shrink_to(5);
        assert_eq!(budget.free_bytes(), 2 * UNIT);
    }

    #[tokio::test]
    async fn what_is_loaded_waits_for_its_memory_and_keeps_it() {
        let budget = MemoryBudget::new(2 * UNIT);
        let load = || budget.load(UNIT, |bytes| Ok::<_, Fault>(2 * bytes), |bytes| Ok(bytes + 1));
        let (loaded, permit) = load().await.unwrap();
        assert_eq!((loaded, budget.free_bytes()), (UNIT + 1, 0));
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(50), load()).await;
        assert!(waiting.is_err(), "the memory is taken");
        drop(permit);
        assert!(load().await.is_ok());
        let broken = budget.load((), |()| Ok(1), |()| Err::<(), _>(Fault::internal("broken"))).await;
        assert_eq!(broken.unwrap_err().to_string(), "broken");
        assert_eq!(budget.free_bytes(), 2 * UNIT, "all of it came back");
    }
}
