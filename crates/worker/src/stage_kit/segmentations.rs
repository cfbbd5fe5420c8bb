//! Segmentations as products: in tasks and in the cache, never in the store.

use std::time::Duration;

use async_trait::async_trait;
use echogen_ports::{Fault, FaultKind, ObjectKey};
use echogen_protocol::{
    Segmentation,
    json::{self, Bounds},
    layout,
};

use super::{CachedObjects, Product};

/// How long the cache keeps a segmentation, as long as a job's status: it is small, and making it again takes seconds of
/// a GPU.
const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// A segmentation has no copy but the cache's: where the cache has lost it, it is made again, which costs time. One that
/// cannot be read counts as lost.
#[async_trait]
impl Product for Segmentation {
    type Draft = Self;

    async fn get_cached(objects: &CachedObjects, key: &ObjectKey) -> Result<Option<Self>, Fault> {
        let bytes = objects.get_cached(key, layout::MAX_SEGMENTATION_BYTES).await?;
        Ok(bytes.and_then(|bytes| json::read(&bytes, &Bounds::MESSAGE).ok()))
    }

    async fn get_stored(objects: &CachedObjects, key: &ObjectKey) -> Result<Option<Self>, Fault> {
        Self::get_cached(objects, key).await
    }

    async fn store(objects: &CachedObjects, key: &ObjectKey, draft: Self) -> Result<Self, Fault> {
        let bytes = serde_json::to_vec(&draft).map_err(|error| Fault::from_error(FaultKind::Internal, error))?;
        objects.keep(key.as_str(), bytes.into(), KEPT).await;
        Ok(draft)
    }
}
