//! Batches.

use std::time::Duration;

use bytes::Bytes;
use echogen_ports::{ObjectKey, ObjectStore};
use echogen_protocol::{Partitions, RoleName, StageName};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{
    House,
    api::{Answer, Api},
    job, picture,
};

const LINES: (&str, &str) = ("content-type", "application/jsonl");

async fn send(api: &Api, key: &str, lines: &[String]) -> Answer {
    let headers = [LINES, ("idempotency-key", key)];
    api.send(Method::POST, "/v1/batches", &headers, lines.join("\n").into()).await
}

fn named(id: &str, prompt: &str) -> String {
    let mut job = job(prompt);
    job["id"] = id.into();
    job.to_string()
}

async fn results(api: &Api, path: &str) -> Vec<Value> {
    let answer = api.get(path).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = String::from_utf8(answer.body.to_vec()).expect("it is text");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

/// Waits until all jobs of a batch have ended.
async fn ended(api: &Api, path: &str) -> Value {
    let ending = async {
        loop {
            let batch = api.get(path).await.expect(200).json();
            if batch["status"] == "ended" {
                return batch;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ending).await.expect("the batch ends")
}

fn path_of(batch: &Value) -> &str {
    batch["links"]["self"].as_str().expect("a batch has its address")
}

fn is_job(line: &Value, id: &str, status: &str) -> bool {
    line["id"] == id && line["status"] == status
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_becomes_a_job_or_an_error_of_its_own() {
    let house = House::open().await;
    let api = &house.acme;
    let mut lines = vec![named("first", "a mug"), String::new(), "{\"prompt\": ".to_owned(), named("first", "another")];
    lines.extend([job("a mug in the snow").to_string(), json!({ "prompt": "no subject" }).to_string()]);
    let sent = send(api, "order-7", &lines).await.expect(202);
    let batch = sent.json();
    assert_eq!(sent.header("location"), path_of(&batch));
    assert_eq!((&batch["lines"], &batch["jobs"], &batch["refused"]), (&json!(6), &json!(2), &json!(3)), "{batch:#}");
    let numbers: Vec<&Value> = batch["errors"].as_array().unwrap().iter().map(|error| &error["line"]).collect();
    assert_eq!(numbers, [3, 4, 6]);
    assert_eq!(batch["errors"][1]["detail"], "line 1 has the same id");
    let id = batch["id"].as_str().unwrap();
    let whole = ended(api, path_of(&batch)).await;
    assert_eq!((&whole["counts"]["completed"], &whole["counted"]), (&json!(2), &json!(2)), "{whole:#}");
    let lines = results(api, batch["links"]["results"].as_str().unwrap()).await;
    assert!(is_job(&lines[0], "acme.first", "completed"), "{:#}", lines[0]);
    assert!(is_job(&lines[3], &format!("acme.{id}-5"), "completed"), "{:#}", lines[3]);
    let errors: Vec<&Value> = [1, 2, 4].map(|index: usize| &lines[index]["line"]).to_vec();
    assert!(lines.len() == 5 && errors == [3, 4, 6], "{lines:#?}");
    let listed = api.get(&format!("/v1/jobs?batch={id}")).await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let list = api.get("/v1/batches").await.expect(200).json();
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["counts"]["completed"]), (&batch["id"], &json!(2)));
    // A job that was deleted leaves its line.
    api.act(Method::DELETE, "/v1/jobs/first").await.expect(204);
    assert_eq!(results(api, batch["links"]["results"].as_str().unwrap()).await[0]["line"], 1);
    for path in [path_of(&batch), batch["links"]["results"].as_str().unwrap()] {
        house.globex.get(path).await.expect(404);
    }
    house.globex.act(Method::POST, batch["links"]["cancel"].as_str().unwrap()).await.expect(404);
    assert_eq!(house.globex.get("/v1/batches").await.expect(200).json()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_is_refused() {
    let house = House::with(&[RoleName::Gateway], |_| {}, "").await;
    let api = &house.acme;
    api.send(Method::POST, "/v1/batches", &[("content-type", "application/json")], "{}".into()).await.expect(415);
    api.send(Method::POST, "/v1/batches", &[LINES], Bytes::from_static(b"\n\n")).await.expect(422);
    let ndjson = [("content-type", "application/x-ndjson; charset=utf-8")];
    let batch =
        api.send(Method::POST, "/v1/batches", &ndjson, job("a mug").to_string().into()).await.expect(202).json();
    assert_eq!(batch["jobs"], 1);
    for path in ["/v1/batches/none", "/v1/batches/none/results", "/v1/batches/..%2fx"] {
        api.get(path).await.expect(404);
    }
    api.get("/v1/batches?after=../x").await.expect(422);
    api.get("/v1/batches?limit=many").await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_broke_off_goes_on_when_it_is_sent_again() {
    let house = House::with(&[RoleName::Gateway], |_| {}, "").await;
    let api = &house.acme;
    let lines: Vec<String> = (0..40).map(|number| job(&format!("mug number {number}")).to_string()).collect();
    let whole = lines.join("\n");
    // The body is announced whole, and the connection ends within it.
    let mut raw = tokio::net::TcpStream::connect(api.address).await.unwrap();
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/jsonl\r\n\
         idempotency-key: order-1\r\ncontent-length: {}\r\n\r\n",
        api.key,
        whole.len()
    );
    let half = lines[..20].join("\n");
    tokio::io::AsyncWriteExt::write_all(&mut raw, format!("{head}{half}\n{{").as_bytes()).await.unwrap();
    let half_way = async {
        while house.records() < 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), half_way).await.expect("the first half is entered");
    let broken = api.get("/v1/batches").await.expect(200).json()["data"][0].clone();
    drop(raw);
    let kept = async {
        while api.get(path_of(&broken)).await.expect(200).json()["jobs"] != 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), kept).await.expect("what was entered is written down");
    let shown = api.get(path_of(&broken)).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["lines"]), (&json!("receiving"), &json!(20)), "{shown:#}");
    assert_eq!(results(api, shown["links"]["results"].as_str().unwrap()).await.len(), 20);
    let batch = send(api, "order-1", &lines).await.expect(202).json();
    assert_eq!((&batch["id"], &batch["created"], &batch["jobs"]), (&broken["id"], &broken["created"], &json!(40)));
    assert_eq!(batch["status"], "running");
    let again = send(api, "order-1", &lines).await.expect(202).json();
    assert_eq!((&again["id"], &again["jobs"], house.records()), (&batch["id"], &json!(40), 40));
    let lines = results(api, batch["links"]["results"].as_str().unwrap()).await;
    let prompts: Vec<&str> = lines.iter().map(|line| line["prompt"].as_str().unwrap()).collect();
    let expected: Vec<String> = (0..40).map(|number| format!("mug number {number}")).collect();
    assert_eq!(prompts, expected, "in the order of the lines");
    // Other content under the same ids is an error of each line, and changes no job.
    let other = send(api, "order-1", &[job("a cup").to_string()]).await.expect(202).json();
    assert!(other["errors"][0]["detail"].as_str().unwrap().contains("is taken"), "{other:#}");
    assert_eq!((&other["lines"], &other["jobs"]), (&json!(40), &json!(40)), "{other:#}");
    assert_eq!(results(api, batch["links"]["results"].as_str().unwrap()).await, lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_limits_do_not_allow_now_is_held() {
    let limits = "[tenants.globex]\nlimits = { jobs_held = 3 }\n";
    let house = House::with(&RoleName::ALL, |_| {}, limits).await;
    let lines: Vec<String> = (0..12).map(|number| job(&format!("mug number {number}")).to_string()).collect();
    let batch = send(&house.globex, "many", &lines).await.expect(202).json();
    assert_eq!((&batch["jobs"], &batch["refused"]), (&json!(12), &json!(0)), "{batch:#}");
    assert_eq!(ended(&house.globex, path_of(&batch)).await["counts"]["completed"], 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_day_is_an_error_of_the_lines_behind_it() {
    // Shortly before midnight the next day would be waited for.
    if jiff::Timestamp::now().as_second().rem_euclid(86_400) > 85_000 {
        return;
    }
    let limits = "[tenants.globex]\nlimits = { pictures_a_day = 2 }\n";
    let house = House::with(&[RoleName::Gateway], |_| {}, limits).await;
    let lines: Vec<String> = (0..4).map(|number| job(&format!("mug number {number}")).to_string()).collect();
    let batch = send(&house.globex, "many", &lines).await.expect(202).json();
    assert_eq!((&batch["jobs"], &batch["refused"]), (&json!(2), &json!(2)), "{batch:#}");
    assert!(batch["errors"][0]["detail"].as_str().unwrap().contains("pictures of the day"), "{batch:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_cancelled_and_counts_survive_the_cache() {
    let house = House::with(&[RoleName::Gateway], |_| {}, "").await;
    let api = &house.acme;
    let lines: Vec<String> = (0..30).map(|number| job(&format!("mug number {number}")).to_string()).collect();
    let batch = send(api, "many", &lines).await.expect(202).json();
    let shown = api.get(path_of(&batch)).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["counts"]["queued"]), (&json!("running"), &json!(30)), "{shown:#}");
    api.act(Method::POST, batch["links"]["cancel"].as_str().unwrap()).await.expect(202);
    assert_eq!(ended(api, path_of(&batch)).await["counts"]["cancelled"], 30);
    house.cache.forget_everything();
    let shown = api.get(path_of(&batch)).await.expect(200).json();
    assert_eq!((&shown["status"], &shown["counts"]["cancelled"]), (&json!("ended"), &json!(30)), "{shown:#}");
    let lines = results(api, batch["links"]["results"].as_str().unwrap()).await;
    assert!(lines.iter().all(|line| line["status"] == "cancelled"), "{lines:#?}");
}

/// A reader that stops takes nothing more from the store.
#[tokio::test(flavor = "multi_thread")]
async fn results_are_read_no_faster_than_they_are_taken() {
    let house = House::with(&[RoleName::Gateway], |_| {}, "").await;
    let api = &house.acme;
    let stored = api.send(Method::POST, "/v1/images", &[("content-type", "image/png")], picture().into()).await;
    // Long notes, so that the buffers between are full soon.
    let mut long = job("a mug");
    long["subject"]["image"] = stored.expect(201).json()["image"].clone();
    for number in 0..30 {
        long["metadata"][number.to_string()] = "x".repeat(1_000).into();
    }
    let lines = vec![long.to_string(); 640];
    let batch = send(api, "many", &lines).await.expect(202).json();
    assert_eq!((&batch["jobs"], &batch["lines"]), (&json!(640), &json!(640)), "{:#}", batch["errors"]);
    let path = batch["links"]["results"].as_str().unwrap();
    let mut body = api.open(Method::GET, path, &[], Bytes::new()).await.into_body();
    let first = body.frame().await.expect("it begins").expect("it is whole").into_data().expect("it is data");
    assert!(first.starts_with(b"{\"id\":\"acme."), "{}", String::from_utf8_lossy(&first));
    // The last object of the index is deleted behind the reader's back: whoever had read ahead would not miss it.
    let id = batch["id"].as_str().unwrap();
    let last = ObjectKey::new(format!("echogen-gateway/batch-lines/acme/{id}/00000501.json")).unwrap();
    house.results.delete(&last).await.unwrap();
    let rest =
        tokio::time::timeout(Duration::from_secs(60), body.collect()).await.expect("it ends").expect("it is whole");
    let rest = rest.to_bytes();
    let count = first.iter().chain(rest.iter()).filter(|byte| **byte == b'\n').count();
    assert_eq!(count, 500);
    let queue = StageName::Dispatcher.queues(Partitions::ONE).remove(1);
    assert_eq!(house.broker.waiting(&queue), 640);
}
