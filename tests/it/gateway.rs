//! The gateway, on the roles with constant networks in this process.

mod admin;
pub(crate) mod api;
mod batches;
mod logs;
mod security;
mod traces;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use echogen_adapters::{HttpCallbackSender, ImageFetchers};
use echogen_gateway::{Access, Route, openapi, table};
use echogen_ports::{MemoryBroker, MemoryCache, MemoryObjectStore};
use echogen_protocol::RoleName;
use echogen_service::{Backends, config::ServiceConfig, work};
use echogen_tenants::{Key, Scope, edit};
use echogen_tests::constant;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use api::Api;

use crate::program::subject;

/// A gateway with its roles, and two tenants.
struct House {
    acme: Api,
    globex: Api,
    broker: Arc<MemoryBroker>,
    cache: Arc<MemoryCache>,
    results: Arc<MemoryObjectStore>,
    end: CancellationToken,
    folder: tempfile::TempDir,
}

impl House {
    /// Starts roles and gateway.
    async fn open() -> Self {
        Self::with(&RoleName::ALL, |_| {}, "").await
    }

    /// Starts a gateway, and the roles if they are among these. `more` is added to the tenants' file.
    async fn with(roles: &'static [RoleName], change: impl FnOnce(&mut ServiceConfig), more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut text, mut keys) = (more.to_owned(), Vec::new());
        for (tenant, scopes) in [("acme", &Scope::ALL[..]), ("globex", &[Scope::Jobs])] {
            let key = Key::generate().expect("there are random numbers");
            let entry = edit::entry(&tenant.parse().expect("a name"), &key, scopes, None);
            text = edit::with_entry(&text, &entry).expect("it is a file of tenants");
            keys.push(key.expose().to_owned());
        }
        let tenants = folder.path().join("tenants.toml");
        std::fs::write(&tenants, text).expect("the file is written");
        let address = free_address();
        let mut config = ServiceConfig::default();
        config.gateway.listen = Some(address);
        config.gateway.admin_listen = Some(address);
        config.gateway.tenants = Some(tenants);
        config.gateway.sealing_secret = Some("a secret of at least thirty-two characters".into());
        change(&mut config);
        let (broker, cache) = (Arc::new(MemoryBroker::new()), Arc::new(MemoryCache::new(1 << 24)));
        let (store, results) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryObjectStore::new()));
        let (tracker, end) = (TaskTracker::new(), CancellationToken::new());
        let fetcher = Arc::new(ImageFetchers::new());
        let backends = Backends::new(broker.clone(), cache.clone(), store, results.clone(), fetcher, &tracker);
        let callbacks = HttpCallbackSender::new(config.callbacks.clone()).expect("the settings are good");
        let backends = backends.with_browse(broker.clone()).with_callbacks(Arc::new(callbacks));
        let networks = constant::networks(Duration::ZERO);
        let ended = end.clone();
        tracker.spawn(async move { work(roles, &networks, &backends, &config, &ended).await.expect("it works") });
        let [acme, globex] = [0, 1].map(|index| Api { address, key: keys[index].clone() });
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { acme, globex, broker, cache, results, end, folder }
    }
}

impl House {
    /// The file with tenants and hashes of their keys.
    fn tenants_file(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("tenants.toml")).expect("the file is there")
    }

    /// How many jobs are recorded.
    fn records(&self) -> usize {
        self.results.keys().iter().filter(|key| key.as_str().starts_with("echogen-gateway/records/")).count()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("there is a port")
}

fn picture() -> Vec<u8> {
    std::fs::read(subject("mug.png")).expect("the picture ships")
}

/// A job with its picture within it and a given box, which constant networks need.
fn job(prompt: &str) -> Value {
    let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(picture()));
    json!({ "subject": { "image": image, "box": { "left": 0, "top": 0, "right": 60, "bottom": 60 } }, "prompt": prompt })
}

const WAIT: (&str, &str) = ("prefer", "wait=30");

async fn run(api: &Api, job: &Value) -> Value {
    let headers = [("content-type", "application/json"), WAIT];
    api.send(Method::POST, "/v1/jobs", &headers, job.to_string().into()).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_in_and_its_picture_comes_out() {
    let house = House::open().await;
    let api = &house.acme;
    let sent = api.post("/v1/jobs", &job("a mug on a beach")).await.expect(202);
    let view = sent.json();
    assert_eq!(
        (view["status"].as_str(), sent.header("location")),
        (Some("queued"), view["links"]["self"].as_str().unwrap())
    );
    let ended = run(api, &job("a mug in a forest")).await;
    assert_eq!(
        (ended["status"].as_str(), ended["usage"]["images"].as_u64()),
        (Some("completed"), Some(1)),
        "{ended:#}"
    );
    assert!(ended["id"].as_str().unwrap().starts_with("acme."));
    let url = ended["images"][0]["url"].as_str().unwrap();
    let image = api.get(url).await.expect(200);
    assert_eq!((image.header("content-type"), &image.body[..4]), ("image/png", &b"\x89PNG"[..]));
    let subject = api.get(ended["subject"]["image_url"].as_str().unwrap()).await.expect(200);
    assert_eq!(subject.body, picture());
    let shown = api.get(ended["links"]["self"].as_str().unwrap()).await.expect(200).json();
    assert!(shown["request"]["subject"]["image"].as_str().unwrap().starts_with("sha256:"));
    let list = api.get("/v1/jobs").await.expect(200).json();
    let prompts: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|job| job["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, ["a mug in a forest", "a mug on a beach"], "the newest first");
    api.act(Method::DELETE, ended["links"]["self"].as_str().unwrap()).await.expect(204);
    api.get(url).await.expect(404);
    api.get(ended["links"]["self"].as_str().unwrap()).await.expect(404);
    assert_eq!(api.get("/v1/jobs").await.expect(200).json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_jobs_join_without_gaps() {
    let house = House::open().await;
    let mut sent = Vec::new();
    for number in 0..7 {
        let mut job = job("a mug");
        job["id"] = format!("n{number}").into();
        sent.push(run(&house.acme, &job).await["id"].clone());
    }
    sent.reverse();
    let (mut seen, mut path) = (Vec::new(), "/v1/jobs?limit=3".to_owned());
    loop {
        let page = house.acme.get(&path).await.expect(200).json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|job| job["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/jobs?limit=3&after={next}");
    }
    assert_eq!(seen, sent);
    assert_eq!(house.acme.get("/v1/jobs?status=failed").await.expect(200).json()["data"], json!([]));
    house.acme.get("/v1/jobs?after=../../x").await.expect(422);
    house.acme.get(&format!("/v1/jobs?after={}", "0".repeat(200))).await.expect(422);
    house.acme.get("/v1/jobs?limit=many").await.expect(400);
    assert_eq!(house.globex.get("/v1/jobs").await.expect(200).json()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_job_however_often_it_is_sent() {
    let house = House::open().await;
    let send = async |key: &str, job: &Value| {
        let headers = [("content-type", "application/json"), ("idempotency-key", key), WAIT];
        house.acme.send(Method::POST, "/v1/jobs", &headers, job.to_string().into()).await
    };
    let (first, same) = (job("a mug on a beach"), job("a mug on a beach"));
    let sent = futures::future::join_all((0..8).map(|_| send("order-1", &first))).await;
    let ids: std::collections::BTreeSet<String> =
        sent.into_iter().map(|answer| answer.expect(200).json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    send("order-1", &same).await.expect(200);
    send("order-1", &job("another prompt")).await.expect(409);
    let other = send("order-2", &first).await.expect(200).json();
    assert!(!ids.contains(other["id"].as_str().unwrap()));
    assert_eq!(house.acme.get("/v1/jobs").await.expect(200).json()["data"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_ids_of_two_tenants_never_meet() {
    let house = House::open().await;
    let mut job = job("a mug on a beach");
    job["id"] = "mug".into();
    let ours = run(&house.acme, &job).await;
    job["prompt"] = "a mug in the snow".into();
    let theirs = run(&house.globex, &job).await;
    assert_eq!((ours["id"].as_str(), theirs["id"].as_str()), (Some("acme.mug"), Some("globex.mug")));
    assert_eq!(house.globex.get("/v1/jobs/mug").await.expect(200).json()["prompt"], "a mug in the snow");
    house.globex.get("/v1/jobs/acme.mug").await.expect(404);
    let keys = house.results.keys();
    assert!(keys.iter().any(|key| key.as_str().starts_with("globex/globex.mug/")), "{keys:?}");
}

/// Every route, with the things of one tenant and the key of another.
#[tokio::test(flavor = "multi_thread")]
async fn no_route_shows_or_changes_what_is_another_tenants() {
    let house = House::open().await;
    let mut own = job("a mug on a beach");
    own["id"] = "private".into();
    run(&house.acme, &own).await;
    let upload = json!({ "bytes": 4, "sha256": "0".repeat(64), "content_type": "image/png" });
    let upload = house.acme.post("/v1/uploads", &upload).await.expect(201).json();
    let headers = [("content-type", "application/jsonl")];
    let batch = house.acme.send(Method::POST, "/v1/batches", &headers, own.to_string().into()).await.expect(202).json();
    let before = house.results.keys();
    let mut tried = 0;
    // A stream of all jobs does not end by itself; whose events it shows is tested by itself.
    let is_tried = |route: &Route| matches!(route.access, Access::Tenant | Access::Admin) && route.name != "watch_jobs";
    for route in table().into_iter().filter(is_tried) {
        for id in ["acme.private", "private", upload["id"].as_str().unwrap(), batch["id"].as_str().unwrap()] {
            let path = route.path.replace("{id}", id).replace("{n}", "0");
            let answer = house.globex.act(route.method.clone(), &path).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!text.contains("acme.private") || text.contains("globex."), "{} {path}: {text}", route.method);
            if route.access == Access::Admin {
                assert_eq!(answer.status.as_u16(), 403, "{} {path}", route.method);
            } else if route.path.contains('{') {
                assert_eq!(answer.status.as_u16(), 404, "{} {path}: {text}", route.method);
            }
            tried += 1;
        }
    }
    assert!(tried > 30);
    let after = house.results.keys();
    assert_eq!(before, after, "nothing of anybody's has changed");
    // A picture that somebody else has handed in cannot be named by its hash.
    let hash = echogen_protocol::ContentHash::of(&picture());
    let mut theirs = own.clone();
    theirs["subject"]["image"] = format!("sha256:{hash}").into();
    house.globex.post("/v1/jobs", &theirs).await.expect(422);
    house.acme.post("/v1/jobs", &theirs).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_key_nothing_answers() {
    let house = House::open().await;
    for key in ["", "eg_wrong", &house.acme.key.replace("eg_", "eG_"), &format!("{}x", house.acme.key)] {
        let stranger = Api { key: (*key).to_owned(), ..house.acme.clone() };
        for route in table() {
            let path = route.path.replace("{id}", "x").replace("{n}", "0");
            let answer = stranger.act(route.method.clone(), &path).await;
            let status = answer.status.as_u16();
            if route.access == Access::Open {
                assert_ne!(status, 401, "{path}");
            } else {
                assert!([401, 429].contains(&status), "{} {path} {status}", route.method);
            }
        }
    }
    // Who fails too often waits; the right key beside it works.
    let stranger = Api { key: "eg_wrong".to_owned(), ..house.acme.clone() };
    let answer = stranger.get("/v1/jobs").await.expect(429);
    assert!(!answer.header("retry-after").is_empty());
    house.acme.get("/v1/jobs").await.expect(200);
    assert!(!format!("{answer:?}").contains("eg_wrong"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_say_what_to_change() {
    let house = House::open().await;
    let api = &house.acme;
    let refused = |answer: api::Answer, status: u16, pointer: &str| {
        let problem = answer.expect(status).json();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem:#}");
    };
    let mut wrong = job("a mug");
    wrong["subject"]["box"]["left"] = 70.into();
    refused(api.post("/v1/jobs", &wrong).await, 422, "/subject/box");
    let mut wrong = job("a mug");
    wrong["promt"] = "x".into();
    refused(api.post("/v1/jobs", &wrong).await, 422, "");
    let mut wrong = job("a mug");
    wrong["subject"]["image"] = "/etc/passwd".into();
    refused(api.post("/v1/jobs", &wrong).await, 422, "/subject/image");
    wrong["subject"]["image"] = "s3://somebody/elses.png".into();
    refused(api.post("/v1/jobs", &wrong).await, 422, "/subject/image");
    wrong["subject"]["image"] = "data:image/png;base64,aGVsbG8=".into();
    refused(api.post("/v1/jobs", &wrong).await, 422, "/subject/image");
    let mut wrong = job("a mug");
    wrong["tenant"] = "globex".into();
    refused(api.post("/v1/jobs", &wrong).await, 422, "/tenant");
    api.send(Method::POST, "/v1/jobs", &[], Bytes::from_static(b"{")).await.expect(400);
    api.send(Method::POST, "/v1/jobs", &[("prefer", "wait=soon")], job("a").to_string().into()).await.expect(400);
    api.get("/v1/nothing").await.expect(404);
    api.act(Method::PUT, "/v1/jobs").await.expect(405);
    assert!(house.results.keys().iter().all(|key| !key.as_str().contains("/records/")), "no refused job is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_and_asked_for_again() {
    // Without roles, so the job waits.
    let house = House::with(&[RoleName::Gateway], |_| {}, "").await;
    let api = &house.acme;
    let sent = api.post("/v1/jobs", &job("a mug")).await.expect(202).json();
    let path = sent["links"]["self"].as_str().unwrap();
    api.act(Method::POST, &format!("{path}/again")).await.expect(409);
    api.act(Method::DELETE, path).await.expect(409);
    let shown = api.get(path).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["queue"]["ahead"]), (&json!("queued"), &json!(0)), "{shown:#}");
    let cancelled = api.act(Method::POST, &format!("{path}/cancel")).await.expect(200).json();
    assert_eq!(cancelled["status"], "cancelled");
    assert_eq!(api.act(Method::POST, &format!("{path}/cancel")).await.expect(200).json()["status"], "cancelled");
    api.act(Method::POST, &format!("{path}/again")).await.expect(202);
    assert_eq!(api.act(Method::POST, "/v1/jobs/nobody/cancel").await.expect(404).json()["type"], "/problems/not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_handed_in_whole_or_in_two_steps() {
    let house = House::open().await;
    let api = &house.acme;
    let stored = api.send(Method::POST, "/v1/images", &[("content-type", "image/png")], picture().into()).await;
    let stored = stored.expect(201).json();
    assert_eq!(stored["content_type"], "image/png");
    api.send(Method::POST, "/v1/images", &[], Bytes::from_static(b"no picture")).await.expect(422);
    let hash = echogen_protocol::ContentHash::of(&picture()).to_string();
    let wanted = json!({ "bytes": picture().len(), "sha256": hash, "content_type": "image/png" });
    let upload = house.globex.post("/v1/uploads", &wanted).await.expect(201).json();
    let (path, id) = (upload["url"].as_str().unwrap(), upload["id"].as_str().unwrap());
    let complete = format!("/v1/uploads/{id}/complete");
    house.globex.act(Method::POST, &complete).await.expect(409);
    house.globex.send(Method::PUT, path, &[], Bytes::from_static(b"other bytes")).await.expect(409);
    house.globex.send(Method::PUT, path, &[], picture().into()).await.expect(204);
    let completed = house.globex.act(Method::POST, &complete).await.expect(200).json();
    assert_eq!(completed["image"], stored["image"]);
    house.globex.act(Method::POST, &complete).await.expect(404);
    let mut job = job("a mug");
    job["subject"]["image"] = completed["image"].clone();
    assert_eq!(run(&house.globex, &job).await["status"], "completed");
}

/// Reads a stream to its end; returns its events' names and data.
async fn events(api: &Api, path: &str) -> Vec<(String, Value)> {
    let response = api.open(Method::GET, path, &[], Bytes::new()).await;
    assert_eq!(response.status().as_u16(), 200);
    let whole = tokio::time::timeout(Duration::from_secs(30), response.into_body().collect()).await.expect("it ends");
    let text = String::from_utf8(whole.expect("it is whole").to_bytes().to_vec()).expect("it is text");
    let event = |block: &str| {
        let field =
            |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
        let (name, data) = (field("event:")?, field("data:")?);
        Some((name, serde_json::from_str(&data).expect("data is JSON")))
    };
    text.split("\n\n").filter_map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_the_state_and_ends_with_the_end() {
    let house = House::open().await;
    let sent = house.acme.post("/v1/jobs", &job("a mug")).await.expect(202).json();
    let path = sent["links"]["events"].as_str().unwrap();
    let shown = events(&house.acme, path).await;
    let names: Vec<&str> = shown.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.first(), Some(&"snapshot"), "{names:?}");
    let (_, last) = shown.last().unwrap();
    assert_eq!((&last["status"], last["images"].as_array().map(Vec::len)), (&json!("completed"), Some(1)));
    // A stream of a job that has ended is its snapshot alone.
    let again = events(&house.acme, path).await;
    assert_eq!((again.len(), &again[0].1["status"]), (1, &json!("completed")));
    house.globex.get(path).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_surplus_is_held_until_the_tenants_bound() {
    let limits =
        "[tenants.globex]\nlimits = { jobs_held = 3, pictures_a_day = 5, requests_per_second = 100, burst = 40 }\n";
    let house = House::with(&[RoleName::Gateway], |_| {}, limits).await;
    let api = &house.globex;
    let mut path = String::new();
    for _ in 0..3 {
        path =
            api.post("/v1/jobs", &job("a mug")).await.expect(202).json()["links"]["self"].as_str().unwrap().to_owned();
    }
    let refused = api.post("/v1/jobs", &job("a mug")).await.expect(429);
    assert_eq!(refused.json()["type"], "/problems/quota-exceeded");
    assert!(!refused.header("retry-after").is_empty() && !refused.header("ratelimit").is_empty());
    let limits = api.get("/v1/limits").await.expect(200).json();
    assert_eq!(limits["jobs_held"], json!({ "limit": 3, "used": 3 }));
    api.act(Method::POST, &format!("{path}/cancel")).await.expect(200);
    house.acme.post("/v1/jobs", &job("a mug")).await.expect(202);
    while api.get("/v1/limits").await.expect(200).json()["jobs_held"]["used"] == 3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut two = job("a mug");
    two["seeds"] = json!([1, 2, 3]);
    let refused = api.post("/v1/jobs", &two).await.expect(429);
    assert!(refused.json()["detail"].as_str().unwrap().contains("pictures of the day"), "{:#}", refused.json());
    let mut burst = 0;
    while api.get("/v1/limits").await.status.as_u16() == 200 {
        burst += 1;
        assert!(burst < 10_000, "requests are never limited");
    }
    house.acme.get("/v1/limits").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_queue_and_a_lost_cache_are_made_good() {
    let house = House::with(&[RoleName::Gateway], |_| {}, "").await;
    let mut named = job("a mug");
    named["id"] = "kept".into();
    house.acme.post("/v1/jobs", &named).await.expect(202);
    let queue = echogen_protocol::StageName::Dispatcher.queues(echogen_protocol::Partitions::ONE).remove(1);
    assert_eq!(house.broker.waiting(&queue), 1);
    // The same request again publishes what may be lost: nothing is known of it.
    house.acme.post("/v1/jobs", &named).await.expect(200);
    assert_eq!(house.broker.waiting(&queue), 2);
    house.cache.forget_everything();
    assert_eq!(house.acme.get("/v1/jobs").await.expect(200).json()["data"][0]["id"], "acme.kept");
    house.globex.get("/v1/jobs/acme.kept").await.expect(404);
}

#[test]
fn the_document_names_every_route_once_and_resolves() {
    let document = openapi();
    assert_eq!(document["openapi"], "3.1.0");
    let names: Vec<&str> = table().iter().map(|route| route.name).collect();
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} leads nowhere");
    }
    for route in table().iter().filter(|route| route.access != Access::Open) {
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        assert!(operation["security"].as_array().is_some_and(|ways| !ways.is_empty()), "{}", route.name);
    }
}
