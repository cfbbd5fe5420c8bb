//! Pictures that are sent along with their jobs.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey, ObjectStore};
use echogen_protocol::{ContentHash, ImageLocation, ImageSource, layout, limits::MAX_JOB_JSON_BYTES};

/// Maximum size of a picture embedded in a job; base64 makes four bytes of three.
const MAX_INLINE_BYTES: usize = (MAX_JOB_JSON_BYTES - 64 * 1024) / 4 * 3;

/// Sends pictures along with their jobs.
pub(super) struct Pictures {
    /// The store to which pictures are uploaded before their jobs; without it they are embedded in the jobs.
    pub(super) work: Option<Arc<dyn ObjectStore>>,
}

impl Pictures {
    /// Returns a source that the dispatcher can read: local files are uploaded or embedded.
    pub(super) async fn sent_along(&self, source: &ImageSource) -> Result<ImageSource, String> {
        let location = source.location().map_err(|error| error.to_string())?;
        let ImageLocation::File(path) = location else { return Ok(source.clone()) };
        let bytes = tokio::fs::read(path).await;
        let bytes = bytes.map_err(|error| format!("cannot read {path}: {error}; give a png, jpeg or webp file"))?;
        let Some(work) = &self.work else { return inline(path, &bytes) };
        let hash = ContentHash::of(&bytes);
        let key = ObjectKey::of_content(layout::IMAGES, &hash).map_err(|error| error.to_string())?;
        let stored = async {
            if !work.exists(&key).await? {
                work.put(&key, Bytes::from(bytes)).await?;
            }
            Ok::<(), Fault>(())
        };
        stored.await.map_err(|error| format!("cannot store {path}: {error}"))?;
        Ok(ImageSource::stored(hash))
    }
}

fn inline(path: &str, bytes: &[u8]) -> Result<ImageSource, String> {
    if bytes.len() > MAX_INLINE_BYTES {
        let size = bytes.len();
        return Err(format!(
            "{path} has {size} bytes, too many to stand in a job (limit {MAX_INLINE_BYTES}); set store.url"
        ));
    }
    Ok(ImageSource(format!("data:application/octet-stream;base64,{}", BASE64_STANDARD.encode(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_written_into_the_job_or_stored_ahead_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dog.png");
        std::fs::write(&path, b"dog").unwrap();
        let source = ImageSource(path.to_str().unwrap().to_owned());
        let inline = Pictures { work: None }.sent_along(&source).await.unwrap();
        assert_eq!(inline.0, "data:application/octet-stream;base64,ZG9n");
        let store = Arc::new(echogen_ports::MemoryObjectStore::new());
        let work: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
        let stored = Pictures { work: Some(work) }.sent_along(&source).await.unwrap();
        assert_eq!(stored, ImageSource::stored(ContentHash::of(b"dog")));
        assert_eq!(store.keys().len(), 1);
        let web = ImageSource("https://example.org/dog.png".to_owned());
        assert_eq!(Pictures { work: None }.sent_along(&web).await.unwrap(), web);
        let error = Pictures { work: None }.sent_along(&"no-such.png".into()).await.unwrap_err();
        assert!(error.contains("no-such.png"), "{error}");
    }
}
