//! Requests of operators, and what jobs have used.

use std::time::Duration;

use echogen_ports::{Broker, Message};
use echogen_protocol::{Lane, Partitions, QueueName, RoleName, StageName, TaskHeaders};
use http::Method;
use serde_json::{Value, json};

use super::{House, job, run};

/// Parks a task of a job.
async fn park(house: &House, stage: StageName, job: &str, reason: &str) {
    let headers = TaskHeaders { failures: 3, job: Some(job.to_owned()), ..TaskHeaders::default() };
    let message = Message { body: "{}".into(), headers: headers.to_map() };
    house.broker.dead_letter(&QueueName::of(stage, Lane::Standard), message, reason).await.expect("it is parked");
}

fn jobs_of(list: &Value) -> Vec<&str> {
    list["data"].as_array().expect("a list").iter().map(|letter| letter["job"].as_str().expect("a job")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_counted_and_settled_by_their_exact_number() {
    let house = House::with(&[RoleName::Gateway], |_| {}, "").await;
    let api = &house.acme;
    for number in 0..5 {
        park(&house, StageName::Sampler, &format!("acme.n{number}"), "out of memory").await;
    }
    park(&house, StageName::Encoder, "globex.a", "the store is full").await;
    let list = api.get("/admin/dead-letters").await.expect(200).json();
    assert_eq!(list["data"].as_array().unwrap().len(), 6);
    let letter = &api.get("/admin/dead-letters?queue=encoder").await.expect(200).json()["data"][0];
    let expected = json!({ "job": "globex.a", "tenant": "globex", "stage": "encoder", "attempt": 3,
        "reason": "the store is full", "queue": "echogen.encode.standard", "since": letter["since"] });
    assert_eq!(letter, &expected);
    for (query, expected) in [("tenant=globex", 1), ("reason=MEMORY", 5), ("job=acme.n2", 1), ("job=none", 0)] {
        let list = api.get(&format!("/admin/dead-letters?{query}")).await.expect(200).json();
        assert_eq!(list["data"].as_array().unwrap().len(), expected, "{query}");
    }
    let page = api.get("/admin/dead-letters?queue=sampler&limit=3").await.expect(200).json();
    let next = page["next"].as_str().unwrap();
    let rest = api.get(&format!("/admin/dead-letters?queue=sampler&limit=3&after={next}")).await.expect(200).json();
    assert_eq!(jobs_of(&page), ["acme.n0", "acme.n1", "acme.n2"]);
    assert_eq!((jobs_of(&rest), &rest["next"]), (vec!["acme.n3", "acme.n4"], &Value::Null));
    api.get("/admin/dead-letters?queue=nobody").await.expect(422);
    api.get("/admin/dead-letters?after=x").await.expect(422);

    let redrive = "/admin/dead-letters/redrive";
    let counted = api.post(redrive, &json!({ "tenant": "acme" })).await.expect(200).json();
    assert_eq!(counted, json!({ "count": 5 }));
    let wrong = api.post(redrive, &json!({ "tenant": "acme", "confirm": 6 })).await.expect(409).json();
    assert!(wrong["detail"].as_str().unwrap().starts_with("5 dead letters"), "{wrong:#}");
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    assert_eq!(house.broker.waiting(&queue), 0);
    let done = api.post(redrive, &json!({ "tenant": "acme", "confirm": 5 })).await.expect(200).json();
    assert_eq!((done, house.broker.waiting(&queue)), (json!({ "done": 5 }), 5));
    let dropped = api.post("/admin/dead-letters/drop", &json!({ "confirm": 1 })).await.expect(200).json();
    assert_eq!(dropped, json!({ "done": 1 }));
    assert_eq!(api.get("/admin/dead-letters").await.expect(200).json()["data"], json!([]));
    api.post(redrive, &json!({ "jobs": "x" })).await.expect(422);
    api.act(Method::POST, redrive).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_tenants_are_shown_and_no_secret() {
    let limits = "[tenants.globex]\nlimits = { jobs_held = 3 }\n";
    let house = House::with(&[RoleName::Gateway], |_| {}, limits).await;
    let mut two = job("a mug");
    two["seeds"] = json!([1, 2]);
    house.globex.post("/v1/jobs", &two).await.expect(202);
    let api = &house.acme;
    let queues = api.get("/admin/queues").await.expect(200).json();
    let data = queues["data"].as_array().unwrap();
    let all: usize = StageName::ALL.iter().map(|stage| stage.queues(Partitions::ONE).len()).sum();
    assert!(data.len() >= all, "{queues:#}");
    let waiting: Vec<&Value> = data.iter().filter(|queue| queue["waiting"] == 1).collect();
    assert_eq!(waiting.len(), 1, "{queues:#}");
    assert_eq!((&waiting[0]["stage"], &waiting[0]["lane"]), (&json!("dispatcher"), &json!("standard")));
    let answer = api.get("/admin/tenants").await.expect(200);
    let tenants = answer.json();
    let globex = &tenants["data"][1];
    assert_eq!((&globex["tenant"], &globex["held"], &globex["today"]), (&json!("globex"), &json!(1), &json!(2)));
    assert_eq!((&globex["limits"]["jobs_held"], &globex["keys"][0]["scopes"]), (&json!(3), &json!(["jobs"])));
    let (text, file) = (String::from_utf8_lossy(&answer.body), house.tenants_file());
    for key in [&house.acme.key, &house.globex.key] {
        assert!(text.contains(&key[3..11]) && !text.contains(&key[12..]), "the public id only");
    }
    let hashes: Vec<&str> = file.split('"').filter(|part| part.len() == 64).collect();
    assert!(hashes.len() == 2 && hashes.iter().all(|hash| !text.contains(hash)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_of_a_process_are_shown_while_they_live() {
    let house = House::open().await;
    let shown = async {
        loop {
            let list = house.acme.get("/admin/workers").await.expect(200).json();
            if list["data"].as_array().unwrap().len() == RoleName::ALL.len() {
                return list;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let list = tokio::time::timeout(Duration::from_secs(30), shown).await.expect("all roles are shown");
    let roles: Vec<&str> = list["data"].as_array().unwrap().iter().map(|one| one["role"].as_str().unwrap()).collect();
    let mut expected = RoleName::NAMES.to_vec();
    expected.sort_unstable();
    assert_eq!(roles, expected);
    assert_eq!(list["data"][0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(list["data"][0]["pid"], std::process::id());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_without_results_are_published_again() {
    let house = House::with(&[RoleName::Gateway], |_| {}, "").await;
    house.globex.post("/v1/jobs", &job("a mug")).await.expect(202);
    let refilled = house.acme.act(Method::POST, "/admin/refill").await.expect(200).json();
    assert_eq!(refilled, json!({ "published": 1 }));
    house.globex.act(Method::POST, "/admin/refill").await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_summed_for_its_own_tenant() {
    let prices = "[tenants.acme]\nprices = { picture = 0.5 }\n";
    let house = House::with(&RoleName::ALL, |_| {}, prices).await;
    let mut two = job("a mug");
    (two["seeds"], two["metadata"]) = (json!([1, 2]), json!({ "project": "mugs" }));
    run(&house.acme, &two).await;
    run(&house.acme, &job("a mug in the snow")).await;
    run(&house.globex, &job("a mug")).await;
    let usage = house.acme.get("/v1/usage").await.expect(200).json();
    let total = &usage["total"];
    assert_eq!((&total["jobs"], &total["images"], &total["price"]), (&json!(2), &json!(3), &json!(1.5)), "{usage:#}");
    assert!(total["megapixels"].as_f64().unwrap() > 0.0 && usage["next"].is_null());
    let by_project = house.acme.get("/v1/usage?by=metadata.project").await.expect(200).json();
    let sums: Vec<(&Value, &Value)> =
        by_project["data"].as_array().unwrap().iter().map(|sum| (&sum["key"], &sum["images"])).collect();
    assert_eq!(sums, [(&json!(""), &json!(1)), (&json!("mugs"), &json!(2))]);
    let before = house.acme.get("/v1/usage?from=2020-01-01&to=2020-01-31").await.expect(200).json();
    assert_eq!((&before["data"], &before["total"]["jobs"]), (&json!([]), &json!(0)));
    house.acme.get("/v1/usage?by=tenant").await.expect(422);
    house.acme.get("/v1/usage?from=yesterday").await.expect(400);
    house.acme.get("/v1/usage?from=2026-02-02&to=2026-02-01").await.expect(422);
}
