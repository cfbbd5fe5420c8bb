//! Pictures that clients have put into S3.

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, ImageFetcher};
use echogen_protocol::{ImageLocation, ImageSource};
use percent_encoding::percent_decode_str;

use crate::image_fetchers::of_picture;

use super::{
    Fetched, S3Config,
    client::{self, Clients},
    read_object,
};

/// Fetches `s3://bucket/key`, from allowed buckets only: the access keys of this installation may give access to more than
/// jobs are meant to read.
#[derive(Clone)]
pub struct S3ImageFetcher {
    clients: Clients,
    allowed: Vec<Allowed>,
}

/// A bucket, or the objects in it below a prefix.
#[derive(Clone, Debug)]
struct Allowed {
    bucket: String,
    prefix: String,
}

impl S3ImageFetcher {
    /// Fetches from the server of `config` (its `bucket` and `prefix` do not count here). Each of `allowed` is a
    /// bucket, `pictures`, or a folder in one, `pictures/public/`.
    pub async fn open(config: S3Config, allowed: &[String]) -> Result<Self, Fault> {
        let clients = client::connect(&config).await?;
        let allowed = allowed.iter().map(|text| Allowed::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { clients, allowed })
    }

    fn is_allowed(&self, bucket: &str, key: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed.bucket == bucket && key.starts_with(&allowed.prefix))
    }
}

impl Allowed {
    fn parse(text: &str) -> Result<Self, Fault> {
        let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
        let is_folder = prefix.is_empty() || (prefix.ends_with('/') && !climbs(prefix.trim_end_matches('/')));
        if bucket.is_empty() || !is_folder {
            let message = format!("{text:?} is no place for pictures in s3; write bucket or bucket/folder/");
            return Err(Fault::refused(message));
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

/// S3 itself gives dots no meaning, but a store behind an endpoint may be a file system.
fn climbs(key: &str) -> bool {
    key.split('/').any(|part| matches!(part, "" | "." | ".."))
}

impl std::fmt::Debug for S3ImageFetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3ImageFetcher").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

#[async_trait]
impl ImageFetcher for S3ImageFetcher {
    async fn fetch(&self, source: &ImageSource, max_bytes: u64) -> Result<Bytes, Fault> {
        let refuse = |why: &str| Fault::bad_image(format!("{source} {why}"));
        let url = match source.location() {
            Ok(ImageLocation::S3(url)) => url,
            Ok(_) => return Err(refuse("is no s3:// address")),
            Err(error) => return Err(Fault::bad_image(error.to_string())),
        };
        let bucket = url.host_str().unwrap_or_default();
        let key = percent_decode_str(url.path().strip_prefix('/').unwrap_or_default()).decode_utf8();
        let key = key.map_err(|error| refuse("is not valid UTF-8").because(error))?;
        if climbs(&key) || url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("is no plain key; write s3://bucket/folder/name"));
        }
        if !self.is_allowed(bucket, &key) {
            return Err(refuse("is not in a bucket that pictures are taken from"));
        }
        match read_object(&self.clients, bucket, &key, max_bytes).await.map_err(of_picture)? {
            Fetched::Whole(bytes) => Ok(bytes),
            Fetched::Absent => Err(refuse("does not exist; check the bucket and the key")),
            Fetched::TooLarge(size) => {
                Err(refuse(&format!("has {size} bytes; the limit is {max_bytes}, use a smaller picture")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use echogen_ports::ObjectStore;
    use echogen_testkit::S3Server;

    use super::*;
    use crate::{
        s3::{
            S3ObjectStore,
            tests::{config, key},
        },
        test_store::{Habit, TestStore},
    };

    async fn fetcher(server: &S3Server, allowed: &[&str]) -> S3ImageFetcher {
        let allowed: Vec<String> = allowed.iter().map(|text| (*text).to_owned()).collect();
        S3ImageFetcher::open(config(server), &allowed).await.unwrap()
    }

    async fn fetch(fetcher: &S3ImageFetcher, source: &str) -> Result<Bytes, String> {
        fetcher.fetch(&source.into(), 5).await.map_err(|error| {
            assert!(error.is_permanent(), "{error}");
            error.to_string()
        })
    }

    #[tokio::test]
    async fn pictures_come_from_allowed_buckets_and_folders_only() {
        let server = S3Server::start().unwrap();
        let store = S3ObjectStore::open(config(&server)).await.unwrap();
        for at in ["public/dog.png", "private/dog.png", "public2/dog.png"] {
            store.put(&key(at), "12345".into()).await.unwrap();
        }
        let whole = fetcher(&server, &["other", server.bucket()]).await;
        assert_eq!(fetch(&whole, "s3://echogen-test/private/dog.png").await.unwrap(), "12345");
        assert_eq!(fetch(&whole, "s3://echogen-test/public/d%6Fg.png").await.unwrap(), "12345");
        let folder = fetcher(&server, &["echogen-test/public/"]).await;
        assert_eq!(fetch(&folder, "s3://echogen-test/public/dog.png").await.unwrap(), "12345");
        let calls = server.calls();
        for outside in [
            "s3://echogen-test/private/dog.png",
            "s3://echogen-test/public2/dog.png",
            "s3://echogen-test/dog.png",
            "s3://elsewhere/public/dog.png",
            "s3://echogen-test/public/../private/dog.png",
            "s3://echogen-test/public/%2e%2e/private/dog.png",
            "s3://echogen-test/public/..%2Fprivate/dog.png",
            "s3://echogen-test/public/./dog.png%2F..",
            "s3://echogen-test/public//dog.png",
            "s3://echogen-test/",
            "s3://echogen-test/public/dog.png?versionId=1",
        ] {
            assert!(fetch(&folder, outside).await.is_err(), "{outside}");
        }
        assert_eq!(server.calls(), calls, "none of them was asked for");
        assert!(fetch(&fetcher(&server, &[]).await, "s3://echogen-test/public/dog.png").await.is_err());
    }

    #[tokio::test]
    async fn limits_hold_and_a_missing_picture_is_the_jobs_fault() {
        let server = S3Server::start().unwrap();
        let store = S3ObjectStore::open(config(&server)).await.unwrap();
        store.put(&key("large.png"), "123456".into()).await.unwrap();
        let fetcher = fetcher(&server, &[server.bucket()]).await;
        assert!(
            fetch(&fetcher, "s3://echogen-test/large.png").await.unwrap_err().contains("has 6 bytes; the limit is 5")
        );
        assert!(fetch(&fetcher, "s3://echogen-test/none.png").await.unwrap_err().contains("does not exist"));
        for other in ["dog.png", "https://example.org/dog.png", "data:,x"] {
            assert!(fetch(&fetcher, other).await.is_err(), "{other}");
        }
    }

    #[tokio::test]
    async fn the_stores_own_words_reach_the_job() {
        let server = TestStore::start(Some(Habit::Deny)).await;
        let fetcher = S3ImageFetcher::open(server.config(), &["bucket".to_owned()]).await.unwrap();
        let error = fetch(&fetcher, "s3://bucket/dog.png").await.unwrap_err();
        assert!(error.contains("AccessDenied (403): Access Denied; allow s3:GetObject"), "{error}");
    }

    #[tokio::test]
    async fn places_that_are_none_are_refused_at_once() {
        let server = S3Server::start().unwrap();
        for bad in ["", "/folder/", "bucket/no-slash", "bucket/a/../b/", "bucket//"] {
            let error = S3ImageFetcher::open(config(&server), &[bad.to_owned()]).await.unwrap_err();
            assert!(error.to_string().contains("bucket/folder/"), "{bad}: {error}");
        }
    }
}
