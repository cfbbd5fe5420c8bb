//! What every S3 server has to do: a private one, or the one that `ECHOGEN_TEST_S3_ENDPOINT` names.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::{Client, operation::head_object::HeadObjectOutput, types::ChecksumMode};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use echogen_ports::{ObjectKey, ObjectStore, PresignedPut};
use echogen_protocol::ContentHash;
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
    contract::object_store_basic_contract(bucket.fresh()).await;
    bucket.remove().await;
}

#[tokio::test]
async fn it_lists_folders_in_folders() {
    let bucket = Bucket::create("folders").await;
    contract::object_store_folders_contract(bucket.fresh()).await;
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
    let link = store.presign_get(&key("jobs/one/image-0.png"), Duration::from_secs(60)).await.unwrap().unwrap();
    let answer = tokio::task::spawn_blocking(move || browse(&link)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("picture"), "{answer}");
    bucket.remove().await;
}

/// Sends bytes as a plain HTTP client would; returns the answer.
fn upload(put: &PresignedPut, body: &str) -> String {
    let (host, path) = put.url.strip_prefix("http://").expect("the server speaks http").split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "PUT /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n").unwrap();
    for (name, value) in &put.headers {
        write!(stream, "{name}: {value}\r\n").unwrap();
    }
    write!(stream, "\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn an_upload_needs_no_keys_and_takes_what_was_announced() {
    let bucket = Bucket::create("uploads").await;
    let store = bucket.store().await;
    let (at, hash) = (key("uploads/one"), ContentHash::of(b"picture"));
    let put = store.presign_put(&at, Duration::from_secs(60), 7, &hash, "image/png").await.unwrap().unwrap();
    let names: Vec<&str> = put.headers.keys().map(String::as_str).collect();
    assert_eq!(names, ["content-length", "content-type", "x-amz-checksum-sha256"], "{put:?}");
    let mut other = put.clone();
    other.headers.insert("content-type".into(), "text/html".into());
    let mut longer = put.clone();
    longer.headers.insert("content-length".into(), "8".into());
    for (why, put, body) in [("another type", other, "picture"), ("another length", longer, "pictures")] {
        let answer = upload(&put, body);
        assert!(answer.starts_with("HTTP/1.1 403"), "{why}: {answer}");
    }
    assert!(!store.exists(&at).await.unwrap());
    let answer = upload(&put, "picture");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(store.get(&at, 10).await.unwrap().unwrap(), "picture");
    assert_eq!(bucket.head("uploads/one").await.content_type(), Some("image/png"));
    bucket.remove().await;
}

#[tokio::test]
async fn keys_of_others_are_not_listed_and_take_no_place_of_ours() {
    let bucket = Bucket::create("foreign").await;
    let store = S3ObjectStore::open(S3Config { prefix: "mine/".into(), ..bucket.config() }).await.unwrap();
    for name in ["a/1", "a/3", "b"] {
        store.put(&key(name), "1".into()).await.unwrap();
    }
    for foreign in ["a/1", "mine/a/.1", "mine/a/two words", "mine/a/1~", "mine/a/2~", "mines", "other/a/2"] {
        let put = bucket.client.put_object().bucket(&bucket.server.bucket).key(foreign);
        put.body(Bytes::new().into()).send().await.unwrap();
    }
    assert_eq!(store.list("a/", None, 2).await.unwrap(), [key("a/1"), key("a/3")]);
    assert_eq!(store.list("", Some(&key("a/1")), 2).await.unwrap(), [key("a/3"), key("b")]);
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
