//! What every S3 server has to do: a private one, or the one that `ECHOGEN_TEST_S3_ENDPOINT` names.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::{Client, operation::head_object::HeadObjectOutput, types::ChecksumMode};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use echogen_ports::{ObjectKey, ObjectStore};
use echogen_testkit::{TestedS3, contract};
use sha2::{Digest, Sha256};

use super::{S3Config, S3ObjectStore, browse, key};
use crate::{probe_store, s3::UploadChecksum};

/// A bucket of a test's own.
struct Bucket {
    server: TestedS3,
    client: Client,
}

impl Bucket {
    async fn create(test: &str) -> Self {
        let server = TestedS3::find(test).expect("a private server starts");
        let client = S3ObjectStore::open(config(&server)).await.expect("the settings are good").clients.client;
        if !server.is_private() {
            client.create_bucket().bucket(&server.bucket).send().await.expect("the user may create buckets");
        }
        Self { server, client }
    }

    fn config(&self) -> S3Config {
        config(&self.server)
    }

    async fn store(&self) -> S3ObjectStore {
        S3ObjectStore::open(self.config()).await.expect("the settings are good")
    }

    async fn head(&self, name: &str) -> HeadObjectOutput {
        let head = self.client.head_object().bucket(&self.server.bucket).key(name);
        head.checksum_mode(ChecksumMode::Enabled).send().await.expect("the object is there")
    }

    /// Stores with prefixes of their own, as contract suites take them.
    fn fresh(&self) -> impl AsyncFn() -> Arc<dyn ObjectStore> {
        let number = AtomicU32::new(0);
        async move || {
            let prefix = format!("check-{}/", number.fetch_add(1, Ordering::SeqCst));
            let config = S3Config { prefix, ..self.config() };
            Arc::new(S3ObjectStore::open(config).await.expect("the settings are good")) as Arc<dyn ObjectStore>
        }
    }

    /// Deletes it with all objects. A test that fails leaves it for a look.
    async fn remove(self) {
        if self.server.is_private() {
            return;
        }
        let bucket = &self.server.bucket;
        let listed = self.client.list_objects_v2().bucket(bucket).send().await.expect("it is listed");
        assert_ne!(listed.is_truncated(), Some(true), "a test has left more than one page of objects");
        for name in listed.contents().iter().filter_map(|object| object.key()) {
            self.client.delete_object().bucket(bucket).key(name).send().await.expect("it is deleted");
        }
        self.client.delete_bucket().bucket(bucket).send().await.expect("it is empty");
    }
}

fn config(server: &TestedS3) -> S3Config {
    S3Config {
        endpoint: Some(server.endpoint.clone()),
        region: server.region.clone(),
        bucket: server.bucket.clone(),
        access_key_id: Some(server.access_key.as_str().into()),
        secret_access_key: Some(server.secret_key.as_str().into()),
        ..S3Config::default()
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let bucket = Bucket::create("contract").await;
    contract::object_store_contract_without_races(bucket.fresh()).await;
    bucket.remove().await;
}

#[tokio::test]
async fn of_concurrent_writers_one_wins() {
    let bucket = Bucket::create("races").await;
    contract::object_store_races_contract(bucket.fresh()).await;
    bucket.remove().await;
}

#[tokio::test]
async fn a_role_finds_it_able() {
    let bucket = Bucket::create("probe").await;
    let store = bucket.store().await;
    for _ in 0..2 {
        probe_store(&store, &key("echogen-probe/sampler.json")).await.unwrap();
    }
    bucket.remove().await;
}

#[tokio::test]
async fn it_knows_the_type_and_the_prefix_is_kept() {
    let bucket = Bucket::create("types").await;
    let store = S3ObjectStore::open(S3Config { prefix: "mine/".into(), ..bucket.config() }).await.unwrap();
    store.put(&key("jobs/one/image-0.png"), "picture".into()).await.unwrap();
    store.put_if_absent(&key("result.json"), "{}".into()).await.unwrap();
    assert_eq!(bucket.head("mine/jobs/one/image-0.png").await.content_type(), Some("image/png"));
    assert_eq!(bucket.head("mine/result.json").await.content_type(), Some("application/json"));
    bucket.remove().await;
}

#[tokio::test]
async fn it_keeps_the_checksum_that_was_sent() {
    let bucket = Bucket::create("sums").await;
    let plain = S3Config { upload_checksum: UploadChecksum::None, ..bucket.config() };
    S3ObjectStore::open(plain).await.unwrap().put(&key("without"), "picture".into()).await.unwrap();
    assert_eq!(bucket.head("without").await.checksum_sha256(), None);
    bucket.store().await.put(&key("with"), "picture".into()).await.unwrap();
    let sum = BASE64_STANDARD.encode(Sha256::digest("picture"));
    assert_eq!(bucket.head("with").await.checksum_sha256(), Some(sum.as_str()));
    bucket.remove().await;
}

#[tokio::test]
async fn it_refuses_bytes_that_are_not_the_checksums() {
    let bucket = Bucket::create("wrong").await;
    let wrong = BASE64_STANDARD.encode(Sha256::digest("another picture"));
    let write = bucket.client.put_object().bucket(&bucket.server.bucket).key("a").checksum_sha256(wrong);
    let refused = write.body(Bytes::from_static(b"picture").into()).send().await.unwrap_err();
    assert_eq!(refused.raw_response().unwrap().status().as_u16(), 400, "{refused:?}");
    // What the private server stores with notices it only afterwards.
    let is_stored = bucket.store().await.exists(&key("a")).await.unwrap();
    assert!(!is_stored || bucket.server.is_private(), "nothing is stored");
    bucket.remove().await;
}

#[tokio::test]
async fn large_objects_come_back_whole() {
    let bucket = Bucket::create("large").await;
    let (store, size) = (bucket.store().await, 20 << 20);
    let large = Bytes::from_iter((0..size).map(|at: u32| (at * 31 % 251) as u8));
    store.put(&key("large"), large.clone()).await.unwrap();
    assert_eq!(store.get(&key("large"), size.into()).await.unwrap().unwrap(), large);
    bucket.remove().await;
}

#[tokio::test]
async fn a_link_needs_no_keys() {
    let bucket = Bucket::create("links").await;
    let store = bucket.store().await;
    store.put(&key("jobs/one/image-0.png"), "picture".into()).await.unwrap();
    let link = store.presign(&key("jobs/one/image-0.png"), Duration::from_secs(60)).await.unwrap();
    let answer = tokio::task::spawn_blocking(move || browse(&link)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("picture"), "{answer}");
    bucket.remove().await;
}

#[tokio::test]
async fn without_conditional_writes_it_is_looked_first() {
    let bucket = Bucket::create("looks").await;
    let plain = S3Config { conditional_writes: false, ..bucket.config() };
    let store = S3ObjectStore::open(plain).await.unwrap();
    assert!(store.put_if_absent(&key("a"), "1".into()).await.unwrap());
    assert!(!store.put_if_absent(&key("a"), "2".into()).await.unwrap());
    assert_eq!(store.get(&key("a"), 10).await.unwrap().unwrap(), "1");
    bucket.remove().await;
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_named() {
    let server = TestedS3::find("nowhere").unwrap();
    let bucket = format!("{}-else", server.bucket);
    let store = S3ObjectStore::open(S3Config { bucket: bucket.clone(), ..config(&server) }).await.unwrap();
    let advice = format!("create the bucket {bucket} or correct store.url");
    let at: &ObjectKey = &key("a");
    for fault in [store.put(at, "1".into()).await.unwrap_err(), store.put_if_absent(at, "1".into()).await.unwrap_err()]
    {
        assert!(fault.is_permanent() && fault.to_string().contains("NoSuchBucket"), "{fault}");
        assert!(fault.to_string().contains(&advice), "{fault}");
    }
    let fault = store.get(at, 10).await.unwrap_err();
    assert!(fault.is_permanent() && fault.to_string().contains("NoSuchBucket"), "{fault}");
}
