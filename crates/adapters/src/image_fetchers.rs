//! One fetcher for all kinds of addresses.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, FaultKind, ImageFetcher};
use echogen_protocol::{ImageLocation, ImageSource};

use crate::file_image_fetcher::{FileImageFetcher, decode_data};

/// Hands each source to the fetcher for its kind. A picture inside the job needs none; all other kinds are refused
/// until they are allowed: jobs come from strangers, and this machine's files are none of theirs.
#[derive(Clone, Debug, Default)]
pub struct ImageFetchers {
    files: Option<FileImageFetcher>,
    https: Option<Arc<dyn ImageFetcher>>,
    s3: Option<Arc<dyn ImageFetcher>>,
}

impl ImageFetchers {
    /// Takes pictures inside the job only.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes files too.
    #[must_use]
    pub fn with_files(mut self, files: FileImageFetcher) -> Self {
        self.files = Some(files);
        self
    }

    /// Takes `https://` too.
    #[must_use]
    pub fn with_https(mut self, https: Arc<dyn ImageFetcher>) -> Self {
        self.https = Some(https);
        self
    }

    /// Takes `s3://` too.
    #[must_use]
    pub fn with_s3(mut self, s3: Arc<dyn ImageFetcher>) -> Self {
        self.s3 = Some(s3);
        self
    }

    /// The kinds that are taken, for a message.
    fn taken(&self) -> String {
        let kinds = [
            (self.files.is_some(), "a file"),
            (self.s3.is_some(), "s3://"),
            (self.https.is_some(), "https://"),
            (true, "data:"),
        ];
        let names: Vec<&str> = kinds.iter().filter(|(is_taken, _)| *is_taken).map(|(_, name)| *name).collect();
        names.join(" or ")
    }

    fn refuse(&self, why: &str) -> Fault {
        Fault::bad_image(format!("{why}; hand in {}", self.taken()))
    }
}

#[async_trait]
impl ImageFetcher for ImageFetchers {
    async fn fetch(&self, source: &ImageSource, max_bytes: u64) -> Result<Bytes, Fault> {
        let location = source.location().map_err(|error| Fault::bad_image(error.to_string()))?;
        let (fetcher, why): (Option<&dyn ImageFetcher>, &str) = match location {
            ImageLocation::Data(data) => return decode_data(data, max_bytes),
            ImageLocation::Stored(_) => (None, "a sha256: picture is in the object store already and not taken here"),
            ImageLocation::File(_) => {
                let files = self.files.as_ref().map(|files| files as _);
                (files, "files of this machine are not taken here unless fetch.subject_folder is set")
            }
            ImageLocation::Https(_) => (self.https.as_deref(), "https:// is not taken here"),
            ImageLocation::S3(_) => (self.s3.as_deref(), "s3:// is not taken here"),
        };
        match fetcher {
            Some(fetcher) => fetcher.fetch(source, max_bytes).await,
            None => Err(self.refuse(why)),
        }
    }
}

/// Turns a fetcher's fault into one about the picture: if a picture cannot be read, also for missing rights, the client
/// that named it has to change that.
pub(crate) fn of_picture(fault: Fault) -> Fault {
    match fault.kind() {
        FaultKind::Refused | FaultKind::NotFound | FaultKind::TooLarge => fault.of_kind(FaultKind::BadImage),
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryImageFetcher;

    use super::*;

    async fn fetch(fetchers: &ImageFetchers, source: &str) -> Result<Bytes, String> {
        fetchers.fetch(&source.into(), 5).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn each_kind_goes_to_its_fetcher() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dog.png"), "file").unwrap();
        let (web, s3) = (Arc::new(MemoryImageFetcher::new()), Arc::new(MemoryImageFetcher::new()));
        web.insert("https://example.org/dog.png", "web");
        s3.insert("s3://bucket/dog.png", "s3");
        let files = FileImageFetcher::below(folder.path());
        let fetchers = ImageFetchers::new().with_files(files).with_https(web.clone()).with_s3(s3.clone());
        assert_eq!(fetch(&fetchers, "dog.png").await.unwrap(), "file");
        assert_eq!(fetch(&fetchers, "https://example.org/dog.png").await.unwrap(), "web");
        assert_eq!(fetch(&fetchers, "s3://bucket/dog.png").await.unwrap(), "s3");
        assert_eq!(fetch(&fetchers, "data:;base64,ZGF0YQ==").await.unwrap(), "data");
        assert_eq!((web.fetched(), s3.fetched()), (1, 1));
    }

    #[tokio::test]
    async fn nothing_but_data_is_taken_until_it_is_allowed() {
        let fetchers = ImageFetchers::new();
        for source in ["dog.png", "/etc/passwd", "https://example.org/dog.png", "s3://bucket/dog.png"] {
            let error = fetch(&fetchers, source).await.unwrap_err();
            assert!(error.contains("not taken here") && error.ends_with("; hand in data:"), "{error}");
        }
        assert!(fetch(&fetchers, &format!("sha256:{}", "0".repeat(64))).await.unwrap_err().contains("object store"));
        assert!(fetch(&fetchers, "data:;base64,MTIzNDU2").await.unwrap_err().contains("the limit is 5"));
        let fetchers = fetchers.with_s3(Arc::new(MemoryImageFetcher::new()));
        assert!(
            fetch(&fetchers, "dog.png")
                .await
                .unwrap_err()
                .ends_with("fetch.subject_folder is set; hand in s3:// or data:")
        );
    }
}
