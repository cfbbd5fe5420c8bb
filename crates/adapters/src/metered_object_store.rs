//! An object store whose calls are counted and timed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey, ObjectStore, PresignedPut};
use echogen_protocol::ContentHash;
use echogen_telemetry::{StoreAnswer, StoreCall, client_call, metrics};

/// Forwards every call, and records its duration and outcome in the metrics.
#[derive(Clone, Debug)]
pub struct MeteredObjectStore {
    inner: Arc<dyn ObjectStore>,
}

impl MeteredObjectStore {
    /// Meters a store.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner }
    }
}

async fn metered<T>(call: StoreCall, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let began = Instant::now();
    let attributes = [("echogen.object_store.operation", call.as_str())];
    let ended = client_call("object store", &attributes, |error| failure(error).as_str(), work).await;
    let answer = ended.as_ref().err().map_or(StoreAnswer::Ok, failure);
    metrics().store_called(call, answer, began.elapsed());
    ended
}

fn failure(error: &Fault) -> StoreAnswer {
    if error.is_permanent() { StoreAnswer::Permanent } else { StoreAnswer::Transient }
}

#[async_trait]
impl ObjectStore for MeteredObjectStore {
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        metered(StoreCall::Get, self.inner.get(key, max_bytes)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault> {
        metered(StoreCall::Put, self.inner.put(key, bytes)).await
    }

    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        metered(StoreCall::PutIfAbsent, self.inner.put_if_absent(key, bytes)).await
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        metered(StoreCall::Exists, self.inner.exists(key)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault> {
        metered(StoreCall::Delete, self.inner.delete(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault> {
        metered(StoreCall::List, self.inner.list(prefix, after, limit)).await
    }

    // Neither of these calls the server, so they are not metered.

    async fn presign_get(&self, key: &ObjectKey, valid: Duration) -> Result<Option<String>, Fault> {
        self.inner.presign_get(key, valid).await
    }

    async fn presign_put(
        &self,
        key: &ObjectKey,
        valid: Duration,
        content_length: u64,
        sha256: &ContentHash,
        content_type: &str,
    ) -> Result<Option<PresignedPut>, Fault> {
        self.inner.presign_put(key, valid, content_length, sha256, content_type).await
    }
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryObjectStore;
    use echogen_testkit::{FailFirst, contract};

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_contract_and_counts() {
        let count = |operation: &str, outcome: &str| {
            let text = metrics().render(echogen_telemetry::health());
            let series =
                format!("echogen_object_store_requests_total{{operation=\"{operation}\",outcome=\"{outcome}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok()).unwrap_or(0)
        };
        let (before, failed) = (count("put", "ok"), count("get", "transient"));
        let fresh =
            async || Arc::new(MeteredObjectStore::new(Arc::new(MemoryObjectStore::new()))) as Arc<dyn ObjectStore>;
        contract::object_store_contract(fresh).await;
        assert!(count("put", "ok") > before && count("list", "ok") > 0);
        let store = MeteredObjectStore::new(Arc::new(FailFirst::new(MemoryObjectStore::new(), 1)));
        assert!(store.get(&ObjectKey::new("a").unwrap(), 1).await.is_err());
        assert!(count("get", "transient") > failed);
    }
}
