//! Counts the object store calls of a job: every call is a round trip to S3 and costs money.

use echogen_protocol::{EventKind, Job};
use echogen_tests::producer;

use crate::installation::Installation;

type Calls = Vec<(&'static str, usize)>;

/// Runs a job; returns its calls to the work store and to the result store.
async fn calls(installation: &mut Installation, job: &Job) -> [Calls; 2] {
    assert_eq!(installation.run(job).await.kind, EventKind::Completed);
    installation.take_calls().map(|calls| calls.into_iter().collect())
}

#[tokio::test]
async fn a_new_subject_takes_six_writes_and_one_look() {
    let mut installation = Installation::start().await;
    let [work, results] = calls(&mut installation, &producer::job("one", 1, "a dog")).await;
    // Work store: the cut-out, its record and the encoded subject; the picture.
    assert_eq!(work, [("put", 3), ("put_if_absent", 1)]);
    // Result store: a check for an existing result; the generated picture; the result.
    assert_eq!(results, [("get", 1), ("put_if_absent", 2)]);
}

#[tokio::test]
async fn a_known_subject_costs_no_more_than_to_learn_that_it_is_known() {
    let mut installation = Installation::start().await;
    calls(&mut installation, &producer::job("one", 1, "a dog")).await;
    let [work, results] = calls(&mut installation, &producer::job("two", 1, "a dog at sea")).await;
    assert_eq!(work, [("put_if_absent", 1)]);
    assert_eq!(results, [("get", 1), ("put_if_absent", 2)]);
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
