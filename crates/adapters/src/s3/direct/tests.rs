//! The way past the client library, on a server that checks signatures and on one that refuses it.

use echogen_ports::{ObjectKey, ObjectStore};
use echogen_testkit::S3Server;

use crate::{
    s3::{
        Encryption, S3Config, S3ObjectStore, UploadChecksum,
        tests::{config, key},
    },
    test_store::{Habit, TestStore},
};

/// Makes a call of each kind. Of each, the server must have seen one request.
async fn call_each(server: &S3Server, config: S3Config, name: &str) {
    let store = S3ObjectStore::open(config).await.unwrap();
    let at: ObjectKey = key(&format!("{name}/result.json"));
    let before = |method| server.calls_of(method);
    let (puts, gets, heads) = (before("PUT"), before("GET"), before("HEAD"));
    assert_eq!(store.get(&at, 10).await.unwrap(), None, "{name}");
    assert!(!store.exists(&at).await.unwrap());
    assert!(store.put_if_absent(&at, "{}".into()).await.unwrap());
    assert!(!store.put_if_absent(&at, "[]".into()).await.unwrap());
    assert!(store.exists(&at).await.unwrap());
    store.put(&at, "12".into()).await.unwrap();
    assert_eq!(store.get(&at, 2).await.unwrap().unwrap(), "12");
    assert!(store.get(&at, 1).await.is_err(), "it is larger");
    let calls = (before("PUT") - puts, before("GET") - gets, before("HEAD") - heads);
    assert_eq!(calls, (3, 3, 2), "{name}: no call was repeated");
    assert!(store.clients.direct.is_some_and(|direct| direct.is_open(true)), "{name}: it is not refused");
}

#[tokio::test]
async fn a_call_that_goes_well_is_one_request_with_a_signature_that_holds() {
    let server = S3Server::start().unwrap();
    let plain = config(&server);
    call_each(&server, plain.clone(), "plain").await;
    call_each(&server, S3Config { prefix: "below/a-folder_1/".into(), ..plain.clone() }, "prefix").await;
    call_each(&server, S3Config { upload_checksum: UploadChecksum::None, ..plain.clone() }, "no-checksum").await;
    call_each(&server, S3Config { encryption: Some(Encryption::Aes256), ..plain }, "encryption").await;
}

#[tokio::test]
async fn where_only_the_library_gets_through_it_is_used_alone() {
    let store = TestStore::start(Some(Habit::LibraryOnly)).await;
    let objects = S3ObjectStore::open(store.config()).await.unwrap();
    objects.put(&key("a"), "1".into()).await.unwrap();
    assert_eq!(store.take_calls(), 2, "it is found out once");
    assert!(!objects.put_if_absent(&key("a"), "2".into()).await.unwrap());
    assert_eq!(objects.get(&key("a"), 10).await.unwrap().unwrap(), "1");
    assert_eq!(store.take_calls(), 2);
}

#[tokio::test]
async fn where_both_are_refused_the_answer_is_the_librarys() {
    let store = TestStore::start(Some(Habit::Deny)).await;
    let objects = S3ObjectStore::open(store.config()).await.unwrap();
    let fault = objects.get(&key("a"), 10).await.unwrap_err();
    assert!(fault.is_permanent() && fault.to_string().contains("AccessDenied (403)"), "{fault}");
    assert!(objects.clients.direct.is_some_and(|direct| direct.is_open(false)), "it is no worse than the library");
}

#[tokio::test]
async fn what_only_the_library_knows_goes_there_at_once() {
    let open = async |config: S3Config| S3ObjectStore::open(config).await.unwrap().clients.direct;
    let usual = TestStore::start(None).await.config();
    assert!(open(usual.clone()).await.is_some());
    assert!(open(S3Config { max_attempts: 1, ..usual.clone() }).await.is_none(), "there is one try only");
    assert!(open(S3Config { bucket: "a--use1-az4--x-s3".into(), ..usual.clone() }).await.is_none());
    assert!(open(S3Config { prefix: "with space/".into(), ..usual.clone() }).await.is_none());
    let amazon = S3Config { endpoint: None, upload_checksum: UploadChecksum::None, ..usual };
    let direct = open(amazon).await.expect("reads are plain there too");
    assert!(direct.is_open(false) && !direct.is_open(true), "the library adds a checksum");
}
