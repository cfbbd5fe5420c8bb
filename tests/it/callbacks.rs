//! Whoever gives a callback is told how the job ended, by a server of their own.

use echogen_ports::{Broker, DEAD_LETTER_REASON, QueueName, memory::CallbackAnswer};
use echogen_protocol::{EventKind, ImageSource, Job, JobEvent};
use echogen_tests::producer;
use tokio::time::timeout;

use crate::installation::{Installation, LIMIT};

const CALLBACK: &str = "https://client.example/done";

fn job(id: &str) -> Job {
    Job { callback: Some(CALLBACK.to_owned()), ..producer::job(id, 1, "a dog") }
}

/// Waits until so many events were heard.
async fn heard(installation: &Installation, count: usize) -> Vec<JobEvent> {
    let all_heard = async {
        while installation.callbacks.heard().len() < count {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, all_heard).await.expect("the server hears");
    installation.callbacks.heard().into_iter().map(|(_, event)| event).collect()
}

#[tokio::test]
async fn the_server_hears_what_listeners_hear() {
    let mut installation = Installation::start().await;
    installation.callbacks.let_answer(CALLBACK, CallbackAnswer::Heard);
    installation.run(&producer::job("unasked", 1, "a dog")).await;
    let completed = installation.run(&job("good")).await;
    assert_eq!(completed.kind, EventKind::Completed);
    let bad = Job { subject: echogen_protocol::Subject::new(ImageSource("data:image/png;base64,AAAA".to_owned())), ..job("bad") };
    let failed = installation.run(&bad).await;
    assert_eq!(failed.kind, EventKind::Failed);
    assert_eq!(heard(&installation, 2).await, [completed, failed]);
}

#[tokio::test]
async fn a_server_that_refuses_costs_no_job_and_leaves_a_dead_letter() {
    let mut installation = Installation::start().await;
    installation.callbacks.let_answer(CALLBACK, CallbackAnswer::Refused);
    assert_eq!(installation.run(&job("good")).await.kind, EventKind::Completed);
    let mut dead = installation.broker.consume(&QueueName::notify().dead_letters(), 1).await.expect("the twin takes it");
    let delivery = timeout(LIMIT, dead.receive()).await.expect("it is parked").expect("it can be read");
    let delivery = delivery.expect("the twin lives");
    assert!(delivery.message.headers[DEAD_LETTER_REASON].contains("refuses"), "{:?}", delivery.message.headers);
    delivery.ack().await.expect("the twin takes it");
}
