//! Sums of records and results as gateways and samplers write them.

use echogen_gateway::JobRecord;
use echogen_ports::{MemoryObjectStore, ObjectKey};
use echogen_protocol::{Job, JobId};
use echogen_tenants::{Prices, Used};
use serde_json::json;

use super::*;

/// The folders that gateways write.
const RECORDS: &str = "echogen-gateway/records";
const RECENT: &str = "echogen-gateway/recent";

/// Names of a page of the listing.
const PAGE: usize = 1_000;

async fn put(store: &dyn ObjectStore, key: String, value: serde_json::Value) {
    store.put(&ObjectKey::new(key).unwrap(), value.to_string().into()).await.unwrap();
}

/// A job with its record, its name in the listing, and its result if it has ended.
async fn job(store: &dyn ObjectStore, tenant: &str, name: &str, created: &str, status: Option<&str>) {
    let (id, created) = (format!("{tenant}.{name}"), created.parse::<Timestamp>().unwrap());
    let time = 9_999_999_999_999 - created.as_millisecond();
    let destination = format!("{tenant}/below");
    let request = json!({
        "id": id, "prompt": "a dog", "subject": { "image": "https://example.org/dog.png" },
        "metadata": { "project": name }, "output": { "destination": destination },
    });
    let request = Job::parse(request.to_string().as_bytes()).unwrap();
    let prices = Prices { picture: 0.25, megapixel: 1.0 };
    let record = JobRecord::new(tenant.parse().unwrap(), request, created, None, prices);
    put(store, format!("{RECORDS}/{tenant}/{id}.json"), json!(record)).await;
    put(store, format!("{RECENT}/{tenant}/{time:013}-{id}"), json!({})).await;
    if let Some(status) = status {
        let sha256 = "0".repeat(64);
        let picture = json!({ "width": 1000, "height": 500, "key": "a", "seed": 1, "sha256": sha256 });
        let usage = json!({ "images": 2, "megapixels": 1.0, "device_seconds": 1.5, "previews": 0 });
        let result = json!({
            "id": id, "status": status, "images": [picture, picture], "usage": usage, "version": "1", "finished": created,
        });
        put(store, JobId(id).result_key(Some(&destination)), result).await;
    }
}

async fn store() -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryObjectStore::new());
    job(&*store, "acme", "one", "2026-11-28T10:00:00Z", Some("completed")).await;
    job(&*store, "acme", "two", "2026-11-29T00:00:00Z", Some("completed")).await;
    job(&*store, "acme", "bad", "2026-11-29T10:00:00Z", Some("failed")).await;
    job(&*store, "acme", "new", "2026-11-30T10:00:00Z", None).await;
    job(&*store, "acme-2", "one", "2026-11-29T23:59:59.999Z", Some("completed")).await;
    put(&*store, format!("{RECENT}/acme/0000000000000-acme.gone"), json!({})).await;
    put(&*store, format!("{RECENT}/Not-Ours/1-x"), json!({})).await;
    store
}

fn query(by: &str) -> UsageQuery {
    UsageQuery { tenant: None, from: None, until: None, by: by.parse().unwrap() }
}

async fn jobs(store: &Arc<dyn ObjectStore>, query: &UsageQuery) -> Vec<(String, u64, u64)> {
    let sums = sum(store, query).await.unwrap();
    sums.sums().iter().map(|(key, used)| (key.clone(), used.jobs, used.images)).collect()
}

#[tokio::test]
async fn all_jobs_of_all_tenants_are_summed() {
    let store = store().await;
    let of = |key: &str, jobs, images| (key.to_owned(), jobs, images);
    assert_eq!(jobs(&store, &query("tenant")).await, [of("acme", 4, 4), of("acme-2", 1, 2)]);
    let days = [of("2026-11-28", 1, 2), of("2026-11-29", 3, 4), of("2026-11-30", 1, 0)];
    assert_eq!(jobs(&store, &query("day")).await, days);
    let projects = [of("bad", 1, 0), of("new", 1, 0), of("one", 2, 4), of("two", 1, 2)];
    assert_eq!(jobs(&store, &query("metadata.project")).await, projects);
    let total = *sum(&store, &query("day")).await.unwrap().total();
    let all = Used { jobs: 5, images: 6, megapixels: 3.0, device_seconds: 4.5, price: 4.5 };
    assert_eq!(total, all, "what did not complete costs nothing");
}

#[tokio::test]
async fn only_jobs_of_the_time_and_the_tenant_are_read() {
    let store = store().await;
    let at = |text: &str| Some(text.parse().unwrap());
    let (from, until) = (at("2026-11-29T00:00:00Z"), at("2026-11-30T00:00:00Z"));
    let day = UsageQuery { from, until, ..query("tenant") };
    assert_eq!(jobs(&store, &day).await, [("acme".to_owned(), 2, 2), ("acme-2".to_owned(), 1, 2)]);
    let one = UsageQuery { tenant: Some("acme-2".parse().unwrap()), ..day.clone() };
    assert_eq!(jobs(&store, &one).await, [("acme-2".to_owned(), 1, 2)]);
    let none = UsageQuery { until: from, from: at("2026-11-28T10:00:00.001Z"), ..query("day") };
    assert!(jobs(&store, &none).await.is_empty());
    // What is outside is not even looked at.
    put(&*store, format!("{RECORDS}/acme/acme.one.json"), json!("damaged")).await;
    assert_eq!(jobs(&store, &day).await.len(), 2);
    let error = sum(&store, &query("day")).await.unwrap_err();
    assert!(error.to_string().contains("acme.one.json cannot be read"), "{error}");
}

#[tokio::test]
async fn records_are_read_where_and_as_gateways_write_them() {
    let (store, tenant): (_, TenantName) = (Arc::new(MemoryObjectStore::new()), "acme".parse().unwrap());
    let request = br#"{"id": "acme.one", "prompt": "a dog", "subject": {"image": "https://example.org/dog.png"},
        "metadata": {"project": "x"}, "output": {"destination": "acme/below"}}"#;
    let request = Job::parse(request).unwrap();
    let key = ObjectKey::of_result(&request).unwrap();
    let written = JobRecord::new(tenant.clone(), request, Timestamp::UNIX_EPOCH, None, Default::default());
    put(&*store, format!("{RECORDS}/acme/acme.one.json"), json!(written)).await;
    let found = Records::new(store.clone()).find(&tenant, &written.id).await.unwrap();
    let record = found.unwrap();
    assert_eq!(record.content, written.content);
    assert_eq!((&record.id, record.created), (&written.id, written.created));
    assert_eq!(record.request.metadata["project"], "x");
    assert_eq!(record.id.result_key(record.request.output.destination.as_deref()), key.as_str());
}

#[tokio::test]
async fn more_jobs_than_a_page_are_summed_once_each() {
    let store: Arc<dyn ObjectStore> = Arc::new(MemoryObjectStore::new());
    for number in 0..PAGE + 5 {
        job(&*store, "acme", &format!("job-{number}"), "2026-11-28T10:00:00Z", None).await;
    }
    assert_eq!(jobs(&store, &query("tenant")).await, [("acme".to_owned(), PAGE as u64 + 5, 0)]);
}
