//! One maker for what many request at the same moment, within this process.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

/// Work in progress, by key. The first request does the work; those that come meanwhile get the same answer. Nothing is
/// kept once the last of them has it: this is no cache.
#[derive(Debug)]
pub(super) struct SingleFlight<K, V> {
    flights: Mutex<HashMap<K, Arc<OnceCell<V>>>>,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { flights: Mutex::default() }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> SingleFlight<K, V> {
    /// No work in progress.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Returns the answer for `key`, by `work` unless it is in progress already; then `work` is dropped before it
    /// begins. An error is returned to the request whose work it was, and the next one that waits tries with its own; so
    /// it does when a request is dropped before its work is done.
    pub(super) async fn run<E>(&self, key: &K, work: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let flight = Flight { all: self, key, cell: Some(Arc::clone(self.lock().entry(key.clone()).or_default())) };
        match &flight.cell {
            Some(cell) => cell.get_or_try_init(|| work).await.cloned(),
            None => work.await,
        }
    }

    /// How many keys are being worked on.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nothing is being worked on.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<OnceCell<V>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request; the last one for a key removes it, also when dropped before its work is done.
struct Flight<'a, K: Eq + Hash + Clone, V: Clone> {
    all: &'a SingleFlight<K, V>,
    key: &'a K,
    cell: Option<Arc<OnceCell<V>>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Drop for Flight<'_, K, V> {
    fn drop(&mut self) {
        let mut flights = self.all.lock();
        self.cell = None;
        // Only the map's own reference is left; none is taken without the lock.
        if flights.get(self.key).is_some_and(|cell| Arc::strong_count(cell) == 1) {
            flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_once_get_one_work() {
        let (flights, runs) = (SingleFlight::<&str, u32>::new(), AtomicU32::new(0));
        let work = async || {
            tokio::task::yield_now().await;
            Ok::<u32, ()>(runs.fetch_add(1, Ordering::SeqCst))
        };
        let answers = join_all((0..100).map(|_| flights.run(&"subject", work()))).await;
        assert!(answers.iter().all(|answer| *answer == Ok(0)));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(flights.is_empty(), "nothing is kept");
        assert_eq!(flights.run(&"subject", work()).await, Ok(1), "it is no cache");
    }

    #[tokio::test]
    async fn other_keys_do_not_wait() {
        let flights = SingleFlight::<&str, u32>::new();
        let never = Notify::new();
        let mut stuck = Box::pin(flights.run(&"slow", async {
            never.notified().await;
            Ok::<u32, ()>(1)
        }));
        assert!(futures::poll!(&mut stuck).is_pending());
        assert_eq!(flights.run(&"quick", async { Ok::<u32, ()>(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn after_an_error_or_a_drop_the_next_one_tries() {
        let flights = SingleFlight::<&str, u32>::new();
        assert_eq!(flights.run(&"a", async { Err::<u32, &str>("broken") }).await, Err("broken"));
        let never = Notify::new();
        let mut first = Box::pin(flights.run(&"a", async {
            never.notified().await;
            Ok::<u32, &str>(1)
        }));
        let mut second = Box::pin(flights.run(&"a", async { Ok::<u32, &str>(2) }));
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(flights.len(), 1);
        drop(first);
        assert_eq!(second.await, Ok(2));
        assert!(flights.is_empty());
    }
}
