//! The S3 adapter on a private server, which fails on purpose; what any server passes is in [`any_server`].

mod any_server;

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, TcpStream},
    time::{Duration, Instant},
};

use bytes::Bytes;
use echogen_ports::{FaultKind, ObjectKey, ObjectStore};
use echogen_testkit::S3Server;

use super::{S3Config, S3ObjectStore};
use crate::{test_proxy::TestProxy, test_tls::TlsFront};

fn server() -> S3Server {
    S3Server::start().unwrap()
}

pub(super) fn config(server: &S3Server) -> S3Config {
    S3Config {
        endpoint: Some(server.endpoint()),
        bucket: server.bucket().to_owned(),
        access_key_id: Some(server.access_key().into()),
        secret_access_key: Some(server.secret_key().into()),
        ..S3Config::default()
    }
}

async fn store(server: &S3Server) -> S3ObjectStore {
    S3ObjectStore::open(config(server)).await.unwrap()
}

pub(super) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

#[tokio::test]
async fn every_third_call_may_fail() {
    let server = server();
    let store = store(&server).await;
    server.fail_every(3);
    for number in 0..10 {
        let at = key(&format!("jobs/{number}/result.json"));
        assert!(store.put_if_absent(&at, "{}".into()).await.unwrap(), "{number}");
        assert!(!store.put_if_absent(&at, "[]".into()).await.unwrap(), "{number}");
        store.put(&at, "1".into()).await.unwrap();
        assert_eq!(store.get(&at, 10).await.unwrap().unwrap(), "1");
        assert!(store.exists(&at).await.unwrap());
    }
    assert!(server.calls_of("PUT") > 30, "some were repeated: {}", server.calls_of("PUT"));
}

#[tokio::test]
async fn a_winner_whose_answer_was_lost_is_still_the_winner() {
    let server = server();
    let store = store(&server).await;
    server.lose_answer_every(2);
    for number in 0..6 {
        let at = key(&format!("jobs/{number}/result.json"));
        assert!(store.put_if_absent(&at, format!("first {number}").into()).await.unwrap(), "{number}");
        assert!(!store.put_if_absent(&at, format!("other {number}").into()).await.unwrap(), "{number}");
        assert!(!store.put_if_absent(&at, "a longer one than ours".into()).await.unwrap(), "{number}");
    }
}

#[tokio::test]
async fn a_winner_who_may_not_read_is_told_so_and_not_that_another_won() {
    let server = server();
    let store = store(&server).await;
    assert!(!store.exists(&key("a")).await.unwrap(), "the first call; the answer to the second, a write, is lost");
    server.lose_answer_every(2);
    server.refuse_reads(true);
    let fault = store.put_if_absent(&key("a"), "1".into()).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Refused, "{fault}");
    assert!(fault.to_string().contains("allow s3:GetObject"), "{fault}");
    server.refuse_reads(false);
    server.lose_answer_every(0);
    assert_eq!(store.get(&key("a"), 10).await.unwrap().unwrap(), "1", "it had won");
}

#[tokio::test]
async fn a_store_that_is_away_is_a_transient_error_and_is_found_again() {
    let mut server = server();
    let store = S3ObjectStore::open(S3Config { max_attempts: 2, ..config(&server) }).await.unwrap();
    store.put(&key("a"), "1".into()).await.unwrap();
    server.go_away();
    let started = Instant::now();
    for error in [
        store.get(&key("a"), 10).await.unwrap_err(),
        store.put(&key("a"), "2".into()).await.unwrap_err(),
        store.put_if_absent(&key("b"), "2".into()).await.unwrap_err(),
        store.exists(&key("a")).await.unwrap_err(),
        store.list("", None, 1).await.unwrap_err(),
    ] {
        assert!(!error.is_permanent(), "{error}");
        assert!(error.to_string().contains("the server cannot be reached"), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    server.come_back().unwrap();
    assert_eq!(store.get(&key("a"), 10).await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn errors_say_what_to_change() {
    let server = server();
    let check = async |config: S3Config, advice: &str| {
        let store = S3ObjectStore::open(config).await.unwrap();
        let written = store.put(&key("a"), "1".into()).await.unwrap_err();
        let conditional = store.put_if_absent(&key("a"), "1".into()).await.unwrap_err();
        for error in [written, conditional] {
            assert!(error.is_permanent() && error.to_string().contains(advice), "{error}");
        }
        store.get(&key("a"), 10).await.unwrap_err().to_string()
    };
    let elsewhere = S3Config { bucket: "elsewhere".into(), ..config(&server) };
    let read = check(elsewhere, "create the bucket elsewhere or correct store.url").await;
    assert!(read.contains("NoSuchBucket"), "{read}");
    let wrong = S3Config { secret_access_key: Some("wrong".into()), ..config(&server) };
    check(wrong, "check store.access_key_id").await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_once() {
    let server = server();
    let good = config(&server);
    let without_secret = S3Config { secret_access_key: None, ..good.clone() };
    let bad = [
        (S3Config { bucket: String::new(), ..good.clone() }, "name one bucket"),
        (S3Config { prefix: "/a".into(), ..good.clone() }, "neither begin with /"),
        (S3Config { prefix: "a/../b/".into(), ..good.clone() }, "nor contain"),
        (S3Config { endpoint: Some("localhost:9000".into()), ..good.clone() }, "write http://localhost:9000"),
        (S3Config { sign_payload: false, ..good.clone() }, "needs an https:// endpoint"),
        (S3Config { max_attempts: 0, ..good.clone() }, "at least 1"),
        (S3Config { attempt_timeout_seconds: 0.0, ..good.clone() }, "store.attempt_timeout_seconds is 0"),
        (without_secret, "set both"),
    ];
    for (config, advice) in bad {
        let error = S3ObjectStore::open(config).await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains(advice), "{error}");
    }
    let shown = format!("{:?} {:?}", good, S3ObjectStore::open(good.clone()).await.unwrap());
    assert!(!shown.contains(server.secret_key()) && shown.contains(server.bucket()), "{shown}");
}

#[tokio::test]
async fn more_keys_than_a_page_are_listed_in_pages() {
    let server = S3Server::start_in_memory().unwrap();
    let store = store(&server).await;
    for number in 0..1_100 {
        store.put(&key(&format!("a/{number:04}")), "1".into()).await.unwrap();
    }
    let calls = server.calls_of("GET");
    assert_eq!(store.list("a/", None, 1_050).await.unwrap().len(), 1_050);
    assert_eq!(server.calls_of("GET") - calls, 2);
    let last = store.list("a/", Some(&key("a/0099")), usize::MAX).await.unwrap();
    assert_eq!((last.len(), &last[999]), (1_000, &key("a/1099")));
}

#[tokio::test]
async fn without_conditional_writes_it_looks_first() {
    let server = server();
    let store = S3ObjectStore::open(S3Config { conditional_writes: false, ..config(&server) }).await.unwrap();
    assert!(store.put_if_absent(&key("a"), "1".into()).await.unwrap());
    assert!(!store.put_if_absent(&key("a"), "2".into()).await.unwrap());
    assert_eq!(store.get(&key("a"), 10).await.unwrap().unwrap(), "1");
    assert_eq!((server.calls_of("HEAD"), server.calls_of("PUT")), (2, 1));
}

/// A plain HTTP client without S3 support.
fn browse(address: &str) -> String {
    let (host, path) = address.strip_prefix("http://").expect("links are read over http only").split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_presigned_address_needs_no_keys_and_fits_one_object() {
    let server = server();
    let store = store(&server).await;
    store.put(&key("jobs/one/image-0.png"), "picture".into()).await.unwrap();
    store.put(&key("jobs/two/image-0.png"), "secret".into()).await.unwrap();
    let address = store.presign_get(&key("jobs/one/image-0.png"), Duration::from_secs(60)).await.unwrap().unwrap();
    assert!(!address.contains(server.secret_key()));
    let answer = browse(&address);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("picture"), "{answer}");
    let answer = browse(&address.replace("/one/", "/two/"));
    assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("secret"), "{answer}");
    let unsigned = browse(address.split_once('?').unwrap().0);
    assert!(unsigned.starts_with("HTTP/1.1 403"), "{unsigned}");
}

#[tokio::test]
async fn links_name_the_public_endpoint_and_calls_go_to_the_other() {
    let server = server();
    let line = TestProxy::to(server.port()).listening((Ipv6Addr::LOCALHOST, 0)).await;
    let public = format!("http://[::1]:{}", line.port());
    let store =
        S3ObjectStore::open(S3Config { public_endpoint: Some(public.clone()), ..config(&server) }).await.unwrap();
    store.put(&key("a.png"), "picture".into()).await.unwrap();
    let address = store.presign_get(&key("a.png"), Duration::from_secs(60)).await.unwrap().unwrap();
    assert!(address.starts_with(&format!("{public}/echogen-test/a.png?")), "{address}");
    let answer = tokio::task::spawn_blocking(move || browse(&address)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("picture"), "{answer}");
    drop(line);
    assert_eq!(store.get(&key("a.png"), 10).await.unwrap().unwrap(), "picture");
    let wrong = S3Config { public_endpoint: Some("minio:9000".into()), ..config(&server) };
    assert!(wrong.check().unwrap_err().to_string().starts_with("store.public_endpoint"), "it is checked too");
}

#[tokio::test]
async fn a_bucket_may_be_part_of_the_host() {
    let server = server();
    let amazon = S3Config { endpoint: None, region: "eu-central-1".into(), ..config(&server) };
    let store = S3ObjectStore::open(amazon).await.unwrap();
    let address = store.presign_get(&key("a"), Duration::MAX).await.unwrap().unwrap();
    assert!(address.starts_with("https://echogen-test.s3.eu-central-1.amazonaws.com/a?"), "{address}");
    let hosted =
        S3Config { path_style: Some(false), endpoint: Some("https://s3.example.org".into()), ..config(&server) };
    let address =
        S3ObjectStore::open(hosted).await.unwrap().presign_get(&key("a"), Duration::ZERO).await.unwrap().unwrap();
    assert!(address.starts_with("https://echogen-test.s3.example.org/a?"), "{address}");
}

#[tokio::test]
async fn connections_are_kept_and_large_objects_come_back_whole() {
    let server = server();
    let store = store(&server).await;
    let large = Bytes::from_iter((0..5 << 20).map(|at: u32| (at * 31 % 251) as u8));
    store.put(&key("large"), large.clone()).await.unwrap();
    assert_eq!(store.get(&key("large"), 5 << 20).await.unwrap().unwrap(), large);
    for number in 0..50 {
        store.put(&key(&format!("small/{number}")), "1".into()).await.unwrap();
    }
    assert!(server.connections() <= 3, "{} connections", server.connections());
}

#[test]
fn endpoints_are_read_as_they_are_meant() {
    for (text, expected) in [
        ("http://minio:9000", "http://minio:9000"),
        ("https://minio.example.org/", "https://minio.example.org"),
        ("HTTPS://minio.example.org", "https://minio.example.org"),
        ("http://127.0.0.1:9000//", "http://127.0.0.1:9000"),
        ("http://[2001:db8::1]:9000", "http://[2001:db8::1]:9000"),
        ("https://[::1]", "https://[::1]"),
        ("https://gateway/s3/", "https://gateway/s3"),
        (" http://minio:9000\n", "http://minio:9000"),
    ] {
        let config = S3Config { endpoint: Some(text.to_owned()), bucket: "b".into(), ..S3Config::default() };
        assert_eq!(config.check_server().unwrap().endpoint.as_deref(), Some(expected), "{text}");
    }
    let empty = S3Config { endpoint: Some(String::new()), bucket: "b".into(), ..S3Config::default() };
    assert_eq!((empty.check_server().unwrap().endpoint, empty.path_style()), (None, false));
}

#[test]
fn endpoints_that_cannot_be_meant_are_refused_with_the_corrected_spelling() {
    for (text, why) in [
        ("minio:9000", "write http://minio:9000"),
        ("tls://minio:9000", "write https://minio:9000"),
        ("s3://bucket", "names a bucket"),
        ("http://", "names no host"),
        ("https://key:hunter2@minio", "belong to access_key_id"),
        ("http://a:9000,b:9000", "several hosts"),
        ("http://2001:db8::1:9000", "IPv6 address without brackets"),
        ("http://127.1:9000", "is a number and no IPv4 address"),
        ("http://minio:9000/?region=x", "a ? or #"),
        ("http://minio#x", "a ? or #"),
    ] {
        let config = S3Config { endpoint: Some(text.to_owned()), bucket: "b".into(), ..S3Config::default() };
        let error = config.check().unwrap_err();
        assert!(error.is_permanent() && error.to_string().starts_with("store.endpoint "), "{text}: {error}");
        assert!(error.to_string().contains(why) && error.to_string().contains("write"), "{text}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = serde_json::from_str::<S3Config>(r#"{"endpoint": "https://key:hunter2@minio"}"#).unwrap_err();
    assert!(error.to_string().contains("contains an @") && !error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn an_own_authority_is_trusted_besides_the_systems() {
    let server = server();
    let front = TlsFront::before(server.port()).await;
    let endpoint = Some(format!("https://localhost:{}", front.port));
    let encrypted = S3Config { endpoint, certificates: Some(front.certificate.clone()), ..config(&server) };
    let store = S3ObjectStore::open(encrypted.clone()).await.unwrap();
    store.put(&key("a"), "1".into()).await.unwrap();
    assert_eq!(store.get(&key("a"), 10).await.unwrap().unwrap(), "1");
    let distrustful = S3Config { certificates: None, max_attempts: 1, ..encrypted };
    let error = S3ObjectStore::open(distrustful).await.unwrap().get(&key("a"), 10).await.unwrap_err();
    assert!(error.story().contains("certificate"), "{}", error.story());
}

#[tokio::test]
async fn a_server_with_an_ipv6_address_is_reached() {
    let server = server();
    let line = TestProxy::to(server.port()).listening((Ipv6Addr::LOCALHOST, 0)).await;
    let config = S3Config { endpoint: Some(format!("http://[::1]:{}", line.port())), ..config(&server) };
    let store = S3ObjectStore::open(config).await.unwrap();
    store.put(&key("a"), "1".into()).await.unwrap();
    assert_eq!(store.get(&key("a"), 10).await.unwrap().unwrap(), "1");
}
