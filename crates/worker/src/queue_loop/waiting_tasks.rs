//! The tasks in hand that have not begun: a worker takes what it can begin, and no more.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// The cost of the tasks that were received and have not begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitingTasks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    cost: AtomicU64,
    /// The part of the interactive lane.
    interactive: AtomicU64,
    less: Notify,
}

/// A task that waits for its turn; dropped when it begins.
#[derive(Debug)]
pub(crate) struct WaitingTask {
    shared: Arc<Shared>,
    cost: u64,
    is_interactive: bool,
}

impl WaitingTasks {
    /// Waits until the waiting tasks cost less than `limit`, so that another may be received. Cancel safe.
    pub(crate) async fn below(&self, limit: u64) {
        self.until(&self.0.cost, limit).await;
    }

    /// Waits until the waiting tasks of the interactive lane cost less than `limit`, whatever waits besides. Cancel safe.
    pub(crate) async fn interactive_below(&self, limit: u64) {
        self.until(&self.0.interactive, limit).await;
    }

    async fn until(&self, cost: &AtomicU64, limit: u64) {
        loop {
            let less = self.0.less.notified();
            if cost.load(Ordering::Acquire) < limit {
                return;
            }
            less.await;
        }
    }

    /// Another task waits.
    pub(crate) fn add(&self, cost: u64, is_interactive: bool) -> WaitingTask {
        self.0.cost.fetch_add(cost, Ordering::AcqRel);
        if is_interactive {
            self.0.interactive.fetch_add(cost, Ordering::AcqRel);
        }
        WaitingTask { shared: Arc::clone(&self.0), cost, is_interactive }
    }
}

impl Drop for WaitingTask {
    fn drop(&mut self) {
        self.shared.cost.fetch_sub(self.cost, Ordering::AcqRel);
        if self.is_interactive {
            self.shared.interactive.fetch_sub(self.cost, Ordering::AcqRel);
        }
        // The loop that receives may wait for both.
        self.shared.less.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_next_is_received_when_enough_have_begun() {
        let waiting = WaitingTasks::default();
        let (large, small) = (waiting.add(64, false), waiting.add(1, true));
        assert!(waiting.below(16).now_or_never().is_none());
        assert!(waiting.interactive_below(1).now_or_never().is_none());
        waiting.interactive_below(2).await;
        drop(large);
        waiting.below(16).await;
        assert!(waiting.below(1).now_or_never().is_none());
        drop(small);
        waiting.below(1).await;
    }
}
