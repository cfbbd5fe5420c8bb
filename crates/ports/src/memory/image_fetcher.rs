//! The in-memory image fetcher: a map from source to bytes.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_protocol::ImageSource;

use super::lock;
use crate::{Fault, ImageFetcher};

/// Pictures in memory; it also counts how often one was fetched.
#[derive(Debug, Default)]
pub struct MemoryImageFetcher {
    images: Mutex<HashMap<ImageSource, Bytes>>,
    fetched: Mutex<usize>,
}

impl MemoryImageFetcher {
    /// A fetcher that knows no picture.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a picture at `source`.
    pub fn insert(&self, source: impl Into<ImageSource>, bytes: impl Into<Bytes>) {
        lock(&self.images).insert(source.into(), bytes.into());
    }

    /// How many fetches were asked for.
    pub fn fetched(&self) -> usize {
        *lock(&self.fetched)
    }
}

#[async_trait]
impl ImageFetcher for MemoryImageFetcher {
    async fn fetch(&self, source: &ImageSource, max_bytes: u64) -> Result<Bytes, Fault> {
        *lock(&self.fetched) += 1;
        match lock(&self.images).get(source) {
            None => Err(Fault::bad_image(format!("there is no picture at {source}"))),
            Some(bytes) if bytes.len() as u64 > max_bytes => {
                let size = bytes.len();
                Err(Fault::bad_image(format!("the picture at {source} has {size} bytes; the limit is {max_bytes}")))
            }
            Some(bytes) => Ok(bytes.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_within_the_limit_and_counts() {
        let fetcher = MemoryImageFetcher::new();
        fetcher.insert("dog.png", "12345");
        assert_eq!(fetcher.fetch(&"dog.png".into(), 5).await.unwrap(), "12345");
        assert!(fetcher.fetch(&"dog.png".into(), 4).await.unwrap_err().is_permanent());
        assert!(fetcher.fetch(&"cat.png".into(), 5).await.unwrap_err().is_permanent());
        assert_eq!(fetcher.fetched(), 3);
    }
}
