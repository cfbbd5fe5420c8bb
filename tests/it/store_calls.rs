//! Counts the object store calls of a job: every call is a round trip to S3 and costs money.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use echogen_protocol::{EventKind, ImageSource, Job, JobId};
use echogen_tests::producer;
use http::Method;
use serde_json::Value;

use crate::{gateway::api::Api, installation::Installation};

type Calls = Vec<(&'static str, usize)>;

/// Runs a job; returns its calls to the work store and to the result store.
async fn calls(installation: &mut Installation, job: &Job) -> [Calls; 2] {
    assert_eq!(installation.run(job).await.kind, EventKind::Completed);
    installation.take_calls().map(|calls| calls.into_iter().collect())
}

#[tokio::test]
async fn a_new_subject_takes_four_writes_and_one_look() {
    let mut installation = Installation::start().await;
    let [work, results] = calls(&mut installation, &producer::job("one", 1, "a dog")).await;
    // Work store: the encoded subject; the picture.
    assert_eq!(work, [("put", 1), ("put_if_absent", 1)]);
    // Result store: a check for an existing result; the generated picture; the result.
    assert_eq!(results, [("get", 1), ("put_if_absent", 2)]);
}

#[tokio::test]
async fn a_known_subject_costs_no_more_than_to_learn_that_it_is_known() {
    let mut installation = Installation::start().await;
    calls(&mut installation, &producer::job("one", 1, "a dog")).await;
    let [work, results] = calls(&mut installation, &producer::job("two", 1, "a dog at sea")).await;
    assert_eq!(work, []);
    assert_eq!(results, [("get", 1), ("put_if_absent", 2)]);
}

#[tokio::test]
async fn after_the_cache_lost_everything_a_known_subject_is_looked_up_once_more() {
    let mut installation = Installation::start().await;
    calls(&mut installation, &producer::job("one", 1, "a dog")).await;
    installation.cache.forget_everything();
    let [work, results] = calls(&mut installation, &producer::job("two", 1, "a dog at sea")).await;
    // The picture is known and read by the segmenter; the encoded subject is there, and read by the sampler.
    assert_eq!(work, [("exists", 1), ("get", 2), ("put_if_absent", 1)]);
    assert_eq!(results, [("get", 1), ("put_if_absent", 2)]);
    let [work, _] = calls(&mut installation, &producer::job("three", 1, "a dog in snow")).await;
    assert_eq!(work, [], "from then on all is in the cache again");
}

#[tokio::test]
async fn a_picture_of_megabytes_takes_no_more_calls_than_a_small_one() {
    let mut installation = Installation::start().await;
    let noise = |x: u32, y: u32| (x.wrapping_mul(0x9e37_79b9) ^ y.wrapping_mul(0x85eb_ca6b)).to_le_bytes();
    let picture = RgbImage::from_fn(1_000, 700, |x, y| [noise(x, y)[1], noise(x, y)[2], noise(x, y)[3]].into());
    let png = encode_image(&picture, ImageFormat::Png, 100).expect("a picture is written");
    assert!(png.len() > 1 << 20, "{} bytes", png.len());
    let image = ImageSource(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&png)));
    let [work, _] = calls(&mut installation, &Job { id: JobId("one".to_owned()), ..Job::new(image, "noise") }).await;
    assert_eq!(work, [("put", 1), ("put_if_absent", 1)]);
}

#[tokio::test]
async fn a_job_that_comes_twice_is_known_by_its_status_or_by_its_result() {
    let mut installation = Installation::start().await;
    let job = producer::job("one", 1, "a dog");
    calls(&mut installation, &job).await;
    installation.until_noted(&job).await;
    let [work, results] = calls(&mut installation, &job).await;
    assert_eq!((work, results), (vec![], vec![("get", 1)]), "it comes no further than the dispatcher");
    installation.cache.forget_everything();
    let [_, results] = calls(&mut installation, &job).await;
    assert_eq!(results, [("get", 1)], "the sampler finds its result and makes no picture");
}

/// Sends a job over HTTP, with this idempotency key if it is not empty, and waits for its end; returns the calls.
async fn calls_over_http(installation: &mut Installation, api: &Api, key: &str, prompt: &str) -> [Calls; 2] {
    let mut job = serde_json::to_value(producer::job("", 1, prompt)).expect("a job is JSON");
    job.as_object_mut().and_then(|fields| fields.remove("id")).expect("a job has an id");
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let headers = if key.is_empty() { &headers[..1] } else { &headers[..] };
    let sent = api.send(Method::POST, "/v1/jobs", headers, Bytes::from(job.to_string())).await;
    if sent.status.as_u16() == 202 {
        let Value::String(id) = &sent.json()["id"] else { panic!("an id is a text") };
        assert_eq!(installation.until_ended(&JobId(id.clone())).await.kind, EventKind::Completed);
    }
    installation.take_calls().map(|calls| calls.into_iter().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_a_job_takes_a_record_and_its_place_in_the_listing_in_addition() {
    let (mut installation, api) = Installation::start_with_gateway().await;
    let [work, results] = calls_over_http(&mut installation, &api, "", "a dog").await;
    // In addition: the dispatcher's looks for the picture, which the gateway has stored, and for its encoded subject.
    assert_eq!(work, [("exists", 2), ("put", 1), ("put_if_absent", 1)]);
    // In addition: whose the picture is, the record, the entry in the listing.
    assert_eq!(results, [("get", 1), ("put", 2), ("put_if_absent", 3)]);
    let [work, results] = calls_over_http(&mut installation, &api, "", "a dog at sea").await;
    assert_eq!(work, [], "the picture is known, and whose it is");
    assert_eq!(results, [("get", 1), ("put", 1), ("put_if_absent", 3)]);
    // With a key it is looked for first, because it may have been sent before.
    let [work, results] = calls_over_http(&mut installation, &api, "order-1", "a dog in snow").await;
    assert_eq!((work, results), (vec![], vec![("get", 2), ("put", 1), ("put_if_absent", 3)]));
    let [work, results] = calls_over_http(&mut installation, &api, "order-1", "a dog in snow").await;
    assert_eq!((work, results), (vec![], vec![("get", 2)]), "its record and its result");
}
