//! Objects between the stages, through the cache.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use echogen_ports::{Cache, Fault, ObjectKey, ObjectStore, object_too_large};
use echogen_protocol::{ContentHash, layout};
use echogen_telemetry::{CacheAnswer, metrics};
use tracing::warn;

use super::ProductsConfig;

/// An object store whose objects are looked for in the cache first. Only for objects that are named by content: these
/// never change, so the cache is never stale. A cache that fails costs time, never a job.
#[derive(Clone, Debug)]
pub struct CachedObjects {
    store: Arc<dyn ObjectStore>,
    cache: Arc<dyn Cache>,
    ttl: Duration,
}

impl CachedObjects {
    /// Puts `cache` before `store`.
    pub fn new(store: Arc<dyn ObjectStore>, cache: Arc<dyn Cache>, config: &ProductsConfig) -> Self {
        Self { store, cache, ttl: config.cache_ttl() }
    }

    /// Returns the object, or `None` if there is none; see [`ObjectStore::get`]. One that was deleted from the store
    /// may still come from the cache for a while.
    pub async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        match self.get_cached(key, max_bytes).await? {
            Some(bytes) => Ok(Some(bytes)),
            None => self.get_stored(key, max_bytes).await,
        }
    }

    /// Returns a subject's picture, from the cache if that has it.
    ///
    /// # Errors
    ///
    /// It is gone: nobody but the client can bring it back.
    pub async fn picture(&self, image: ContentHash, max_bytes: u64) -> Result<Bytes, Fault> {
        let key = ObjectKey::of_content(layout::IMAGES, &image)?;
        let bytes = match self.get_cached(&key, max_bytes).await? {
            Some(bytes) => Some(bytes),
            // A stage reads it once, so it is not put into the cache.
            None => self.store.get(&key, max_bytes).await?,
        };
        bytes.ok_or_else(|| Fault::not_found(format!("the stored picture {image} is gone; run the job again")))
    }

    /// Returns the object from the store, after the cache was found not to have it, and puts it into the cache.
    async fn get_stored(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        let Some(bytes) = self.store.get(key, max_bytes).await? else { return Ok(None) };
        self.put_in_cache(key, bytes.clone()).await;
        Ok(Some(bytes))
    }

    /// Returns the object if the cache has it.
    pub async fn get_cached(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        match self.cache.get(key.as_str()).await {
            Ok(Some(bytes)) if bytes.len() as u64 > max_bytes => {
                Err(object_too_large(key, bytes.len() as u64, max_bytes))
            }
            Ok(found) => {
                let answer = if found.is_some() { CacheAnswer::Hit } else { CacheAnswer::Miss };
                metrics().cache_asked(key.as_str(), answer);
                Ok(found)
            }
            Err(error) => {
                metrics().cache_asked(key.as_str(), CacheAnswer::Error);
                warn!(%key, %error, "cache not read");
                Ok(None)
            }
        }
    }

    /// Returns whether the cache has the object; `false` if the cache fails.
    pub async fn is_cached(&self, key: &ObjectKey) -> bool {
        let found = self.cache.contains(key.as_str()).await;
        found.inspect_err(|error| warn!(%key, %error, "cache not read")).unwrap_or(false)
    }

    /// Stores the object durably unless it is stored already, and then in the cache; returns whether it is new. Notes that
    /// it is stored.
    pub async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        let is_new = self.store.put_if_absent(key, bytes.clone()).await?;
        let copied = async {
            if is_new {
                self.put_in_cache(key, bytes).await;
            }
        };
        tokio::join!(copied, self.note_stored(key));
        Ok(is_new)
    }

    /// Returns whether the object is in the store itself, and notes it if so.
    pub async fn confirm(&self, key: &ObjectKey) -> Result<bool, Fault> {
        let exists = self.exists(key).await?;
        if exists {
            self.note_stored(key).await;
        }
        Ok(exists)
    }

    /// Returns whether it was noted within the time that objects stay in the cache that the object is stored; `false` if
    /// the cache fails.
    pub async fn was_stored(&self, key: &ObjectKey) -> bool {
        let found = self.cache.contains(&stored_key(key)).await;
        found.inspect_err(|error| warn!(%key, %error, "cache not read")).unwrap_or(false)
    }

    async fn note_stored(&self, key: &ObjectKey) {
        self.keep(&stored_key(key), Bytes::from_static(b"1"), self.ttl).await;
    }

    /// Stores the object durably, then in the cache.
    pub async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault> {
        self.store.put(key, bytes.clone()).await?;
        self.put_in_cache(key, bytes).await;
        Ok(())
    }

    /// The cache itself.
    pub fn cache(&self) -> Arc<dyn Cache> {
        Arc::clone(&self.cache)
    }

    /// Returns whether the object is in the store itself.
    pub async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        self.store.exists(key).await
    }

    async fn put_in_cache(&self, key: &ObjectKey, bytes: Bytes) {
        self.keep(key.as_str(), bytes, self.ttl).await;
    }

    /// Puts into the cache what has no other copy, for `ttl`; nothing if nothing is to be cached.
    pub(super) async fn keep(&self, key: &str, bytes: Bytes, ttl: Duration) {
        // A server refuses a time to live of zero.
        if self.ttl.is_zero() {
            return;
        }
        if let Err(error) = self.cache.put(key, bytes, ttl).await {
            warn!(%key, %error, "cache not written");
        }
    }
}

/// The key in the cache of the note that an object is in the store.
fn stored_key(key: &ObjectKey) -> String {
    format!("stored/{key}")
}

#[cfg(test)]
mod tests {
    use echogen_ports::{MemoryCache, MemoryObjectStore};
    use echogen_testkit::FailFirst;

    use super::*;

    fn objects(store: Arc<MemoryObjectStore>, cache: Arc<dyn Cache>) -> CachedObjects {
        CachedObjects::new(store, cache, &ProductsConfig::default())
    }

    fn key() -> ObjectKey {
        ObjectKey::new("a").unwrap()
    }

    #[tokio::test]
    async fn what_was_read_or_written_comes_from_the_cache() {
        let (store, cache) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryCache::new(1_000)));
        let objects = objects(store.clone(), cache.clone());
        assert_eq!(objects.get(&key(), 10).await.unwrap(), None);
        objects.put(&key(), "1".into()).await.unwrap();
        assert_eq!(store.get(&key(), 10).await.unwrap().unwrap(), "1", "the store has it too");
        store.delete(&key()).await.unwrap();
        assert_eq!(objects.get(&key(), 10).await.unwrap().unwrap(), "1");
        assert!(!objects.exists(&key()).await.unwrap(), "existing means in the store");
        assert!(objects.get(&key(), 0).await.unwrap_err().is_permanent(), "the limit holds for the cache too");
        cache.forget_everything();
        assert_eq!(objects.get(&key(), 10).await.unwrap(), None);
        store.put(&key(), "2".into()).await.unwrap();
        assert_eq!(objects.get(&key(), 10).await.unwrap().unwrap(), "2");
        assert_eq!(cache.get("a").await.unwrap().unwrap(), "2", "a read fills it");
    }

    #[tokio::test]
    async fn only_what_is_new_goes_into_the_cache() {
        let (store, cache) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryCache::new(1_000)));
        let objects = objects(store.clone(), cache.clone());
        assert!(!objects.is_cached(&key()).await);
        assert!(objects.put_if_absent(&key(), "1".into()).await.unwrap());
        assert!(objects.is_cached(&key()).await);
        cache.forget_everything();
        assert!(!objects.put_if_absent(&key(), "1".into()).await.unwrap());
        assert!(!objects.is_cached(&key()).await && objects.exists(&key()).await.unwrap());
    }

    #[tokio::test]
    async fn it_is_noted_what_was_seen_in_the_store() {
        let (store, cache) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryCache::new(1_000)));
        let objects = objects(store.clone(), cache.clone());
        assert!(!objects.confirm(&key()).await.unwrap() && !objects.was_stored(&key()).await);
        for was_new in [true, false] {
            assert_eq!(objects.put_if_absent(&key(), "1".into()).await.unwrap(), was_new);
            assert!(objects.was_stored(&key()).await);
            cache.forget_everything();
            assert!(!objects.was_stored(&key()).await);
        }
        assert!(objects.confirm(&key()).await.unwrap() && objects.was_stored(&key()).await);
    }

    #[tokio::test]
    async fn without_a_time_to_live_nothing_goes_into_the_cache() {
        let (store, cache) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryCache::new(1_000)));
        let config = ProductsConfig { cache_seconds: 0.0, ..ProductsConfig::default() };
        let objects = CachedObjects::new(store, cache.clone(), &config);
        objects.put(&key(), "1".into()).await.unwrap();
        assert_eq!((objects.get(&key(), 10).await.unwrap().unwrap(), cache.bytes()), (Bytes::from("1"), 0));
    }

    #[tokio::test]
    async fn a_cache_that_fails_is_left_out() {
        let cache = Arc::new(FailFirst::new(MemoryCache::new(1_000), u32::MAX));
        let objects = objects(Arc::new(MemoryObjectStore::new()), cache);
        objects.put(&key(), "1".into()).await.unwrap();
        assert_eq!(objects.get(&key(), 10).await.unwrap().unwrap(), "1");
        assert!(!objects.is_cached(&key()).await);
    }
}
