//! An id has one content, and only what has completed settles it.

use echogen_ports::{Broker, Message};
use echogen_protocol::{EventKind, Job, StageTask};
use echogen_tests::producer;
use jiff::Timestamp;

use crate::installation::{Installation, LIMIT};

#[tokio::test]
async fn an_expired_job_runs_when_it_is_asked_for_again_and_a_completed_one_does_not() {
    let mut installation = Installation::start().await;
    let job = producer::job("one", 1, "a dog");
    let late = Job { deadline: Some(Timestamp::UNIX_EPOCH), ..job.clone() };
    assert_eq!(installation.run(&late).await.kind, EventKind::Expired);
    installation.until_noted(&late).await;
    assert_eq!(installation.run(&job).await.kind, EventKind::Expired, "the same job has its answer");
    let again = Job { again: 1, ..job.clone() };
    assert_eq!(installation.run(&again).await.kind, EventKind::Completed);
    installation.until_noted(&again).await;
    installation.take_calls();
    assert_eq!(installation.run(&Job { again: 2, ..job }).await.kind, EventKind::Completed);
    let [work, _] = installation.take_calls();
    assert!(work.is_empty(), "nothing is made again: {work:?}");
}

#[tokio::test]
async fn other_content_under_a_taken_id_is_refused_to_its_sender() {
    let mut installation = Installation::start().await;
    let job = producer::job("one", 1, "a dog");
    assert_eq!(installation.run(&job).await.kind, EventKind::Completed);
    installation.until_noted(&job).await;
    let mut conflicts = installation.broker.subscribe("job.conflict").await.expect("the twin takes subscribers");
    let other = Job { prompt: "a cat".to_owned(), ..job.clone() };
    let message = Message::of_job(&other, Timestamp::now());
    installation.broker.publish(&other.queue(), message).await.expect("the twin takes everything");
    let event = tokio::time::timeout(LIMIT, conflicts.next()).await.expect("it is told").expect("the twin lives");
    let event = event.to_job().expect("a job's event");
    assert_eq!((&event.subject, event.data["content"].as_str()), (&job.id, Some(other.content().to_string().as_str())));
}
