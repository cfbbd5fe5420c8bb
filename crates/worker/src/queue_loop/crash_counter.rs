//! Tells the task that kills its worker from those that were only near it.
//!
//! A broker counts how often it handed a task out, and hands out ahead of time: when a worker dies, the count of
//! everything in its hands goes up, begun or not. So a task that came back is run with nothing else at work, and before
//! that it is written down in the cache that it begins. If it ends, the mark is taken away; if it kills the worker, the
//! mark stays, and counts against it and nobody else.
//!
//! The marks are as durable as the cache. Without them only the broker's count is left, with its higher limit.

use std::{sync::Arc, time::Duration};

use echogen_ports::Cache;
use echogen_protocol::ContentHash;
use tokio::time::timeout;
use tracing::warn;

/// How long a mark stays: longer than anyone takes to restart a worker.
const TTL: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How long a taken-away mark stays, for the cache has no deletion.
const GONE: Duration = Duration::from_secs(1);

/// The time the cache may take; a task must not wait for it for long.
const CACHE_TIMEOUT: Duration = Duration::from_secs(2);

/// Counts how often each task began alone and never ended.
#[derive(Clone, Debug)]
pub(crate) struct CrashCounter {
    cache: Arc<dyn Cache>,
}

/// The mark of a task that has begun alone.
#[derive(Debug)]
pub(crate) struct CrashGuard {
    cache: Arc<dyn Cache>,
    key: String,
}

impl CrashCounter {
    /// A counter in `cache`.
    pub(crate) fn new(cache: Arc<dyn Cache>) -> Self {
        Self { cache }
    }

    /// Marks that the task with this body begins; returns how often it began before and never ended, and the mark.
    pub(crate) async fn begin(&self, body: &[u8]) -> (u32, CrashGuard) {
        let key = format!("guard-alone/{}", ContentHash::of(body));
        let guard = CrashGuard { cache: Arc::clone(&self.cache), key };
        let crashes = guard.count().await;
        guard.write(crashes.saturating_add(1), TTL).await;
        (crashes, guard)
    }
}

impl CrashGuard {
    /// Takes the mark away: the task has ended, in whatever way, and its worker lives.
    pub(crate) async fn end(self) {
        self.write(0, GONE).await;
    }

    /// A mark that cannot be read counts as none.
    async fn count(&self) -> u32 {
        let read = timeout(CACHE_TIMEOUT, self.cache.get(&self.key)).await;
        let Ok(Ok(Some(bytes))) = read else { return 0 };
        std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    async fn write(&self, count: u32, ttl: Duration) {
        let written = timeout(CACHE_TIMEOUT, self.cache.put(&self.key, count.to_string().into(), ttl)).await;
        if !matches!(written, Ok(Ok(()))) {
            warn!("no mark written of a task that runs alone; if it kills the worker, only the broker will know");
        }
    }
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryCache;
    use echogen_testkit::FailFirst;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_began_and_never_ended_counts() {
        let crash_counter = CrashCounter::new(Arc::new(MemoryCache::new(10_000)));
        for crashes in 0..3 {
            assert_eq!(crash_counter.begin(b"poison").await.0, crashes);
            let (count, guard) = crash_counter.begin(b"good").await;
            assert_eq!(count, 0);
            guard.end().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_fails_counts_nothing_and_stops_nothing() {
        let crash_counter = CrashCounter::new(Arc::new(FailFirst::new(MemoryCache::new(10_000), 4)));
        assert_eq!(crash_counter.begin(b"poison").await.0, 0);
        assert_eq!(crash_counter.begin(b"poison").await.0, 0);
        assert_eq!(crash_counter.begin(b"poison").await.0, 0);
        assert_eq!(crash_counter.begin(b"poison").await.0, 1);
    }
}
