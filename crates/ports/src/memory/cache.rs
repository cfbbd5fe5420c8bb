//! The in-memory cache: a map with a limit in bytes that evicts the least recently used values.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::{leases::Leases, lock};
use crate::{Cache, Fault, FencingToken};

/// Bytes in memory, at most so many of them.
pub struct MemoryCache {
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// Keys by their last use; the first is forgotten first.
    by_use: BTreeMap<u64, String>,
    uses: u64,
    bytes: usize,
    leases: Leases,
}

struct Entry {
    value: Bytes,
    expires: Option<Instant>,
    last_use: u64,
}

impl MemoryCache {
    /// An empty cache that holds at most `max_bytes` of keys and values.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default() }
    }

    /// Forgets all values and leases, as a server does that is flushed or restarted.
    pub fn forget_everything(&self) {
        let mut state = lock(&self.state);
        let leases = std::mem::take(&mut state.leases);
        *state = State { leases: leases.forgotten(), ..State::default() };
    }

    /// Bytes of keys and values held now.
    pub fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }
}

impl std::fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("MemoryCache").field("entries", &state.entries.len()).field("bytes", &state.bytes).finish()
    }
}

impl State {
    fn get(&mut self, key: &str) -> Option<Bytes> {
        self.drop_if_expired(key);
        self.uses += 1;
        let entry = self.entries.get_mut(key)?;
        if let Some(key) = self.by_use.remove(&entry.last_use) {
            self.by_use.insert(self.uses, key);
        }
        entry.last_use = self.uses;
        Some(entry.value.clone())
    }

    fn insert(&mut self, key: &str, value: Bytes, ttl: Duration, max_bytes: usize) {
        self.remove(key);
        let size = key.len() + value.len();
        if size > max_bytes {
            return;
        }
        while self.bytes + size > max_bytes {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
        self.uses += 1;
        self.bytes += size;
        self.by_use.insert(self.uses, key.to_owned());
        // A ttl past the end of time never runs out.
        let expires = Instant::now().checked_add(ttl);
        self.entries.insert(key.to_owned(), Entry { value, expires, last_use: self.uses });
    }

    fn drop_if_expired(&mut self, key: &str) {
        let expires = self.entries.get(key).and_then(|entry| entry.expires);
        if expires.is_some_and(|expires| expires <= Instant::now()) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &str) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.by_use.remove(&entry.last_use);
        self.bytes -= key.len() + entry.value.len();
    }
}

#[async_trait]
impl Cache for MemoryCache {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        Ok(lock(&self.state).get(key))
    }

    async fn contains(&self, key: &str) -> Result<bool, Fault> {
        let mut state = lock(&self.state);
        state.drop_if_expired(key);
        Ok(state.entries.contains_key(key))
    }

    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), Fault> {
        lock(&self.state).insert(key, value, ttl, self.max_bytes);
        Ok(())
    }

    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, Fault> {
        Ok(lock(&self.state).leases.acquire(key, ttl))
    }

    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, Fault> {
        Ok(lock(&self.state).leases.renew(key, token, ttl))
    }

    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, Fault> {
        Ok(lock(&self.state).leases.release(key, token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn forgets_what_was_used_longest_ago_and_never_passes_its_bound() {
        let cache = MemoryCache::new(22);
        cache.put("a", "1234567890".into(), HOUR).await.unwrap();
        cache.put("b", "1234567890".into(), HOUR).await.unwrap();
        assert!(cache.get("a").await.unwrap().is_some());
        cache.put("c", "1234567890".into(), HOUR).await.unwrap();
        assert!(cache.get("a").await.unwrap().is_some());
        assert!(cache.get("b").await.unwrap().is_none());
        assert_eq!(cache.bytes(), 22);
    }

    #[tokio::test]
    async fn a_value_over_the_bound_is_not_stored_and_drops_nothing_else() {
        let cache = MemoryCache::new(22);
        cache.put("a", "1234567890".into(), HOUR).await.unwrap();
        cache.put("b", Bytes::from(vec![0; 22]), HOUR).await.unwrap();
        assert!(cache.get("b").await.unwrap().is_none());
        assert!(cache.get("a").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn replacing_a_value_counts_it_once_and_any_ttl_is_fine() {
        let cache = MemoryCache::new(100);
        cache.put("a", "12345".into(), Duration::MAX).await.unwrap();
        cache.put("a", "123".into(), Duration::MAX).await.unwrap();
        assert_eq!(cache.bytes(), 4);
        assert_eq!(cache.get("a").await.unwrap().unwrap(), "123");
    }
}
