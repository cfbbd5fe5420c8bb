//! The bytes of a subject's picture, from the source that the client gave.

use async_trait::async_trait;
use bytes::Bytes;
use echogen_protocol::ImageSource;

use crate::Fault;

/// Fetches pictures within limits.
#[async_trait]
pub trait ImageFetcher: Send + Sync + std::fmt::Debug {
    /// Returns the bytes at `source`, at most `max_bytes` of them; more is a permanent error, and so is a source
    /// that is missing or not allowed. Nothing is decoded.
    async fn fetch(&self, source: &ImageSource, max_bytes: u64) -> Result<Bytes, Fault>;
}
