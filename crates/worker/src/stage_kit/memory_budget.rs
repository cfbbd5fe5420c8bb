//! A bound on the memory that the tasks of a process hold together.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory is counted in pieces of this many bytes.
const UNIT: u64 = 64 * 1024;

/// Memory for many tasks that need much of it, each for a while: who would exceed it waits, in the order of asking.
#[derive(Debug)]
pub struct MemoryBudget {
    units: u32,
    free: Arc<Semaphore>,
}

/// Memory that may be used until this is dropped.
#[derive(Debug)]
#[must_use = "the permit is given back when this is dropped"]
pub struct MemoryPermit {
    _units: Option<OwnedSemaphorePermit>,
}

impl MemoryBudget {
    /// A budget of so many bytes, in pieces of 64 KiB.
    pub fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        Self { units, free: Arc::new(Semaphore::new(units as usize)) }
    }

    /// Waits until so many bytes are free. Who wants more than there is gets all of it, and is alone then. Cancel safe:
    /// who no longer waits loses its place, and nothing else.
    pub async fn acquire(&self, bytes: u64) -> MemoryPermit {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units);
        // The only error is that of a closed semaphore, and nobody closes this one.
        MemoryPermit { _units: Arc::clone(&self.free).acquire_many_owned(units).await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[tokio::test]
    async fn who_would_exceed_the_budget_waits() {
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
    async fn room_is_given_in_the_order_of_asking() {
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
    async fn one_who_no_longer_waits_leaves_nothing_taken() {
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
}
