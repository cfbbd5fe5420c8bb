//! Callbacks: a client's own server is notified of how the job ended.

use std::time::Duration;

use echogen_adapters::{CallbackConfig, HttpCallbackSender};
use echogen_ports::{Broker, CallbackSender, DEAD_LETTER_REASON, Fault, QueueName, memory::CallbackAnswer};
use echogen_protocol::{EventKind, ImageSource, Job, JobEvent, JobResult, Lane, StageName, Subject};
use echogen_tests::{
    callback_server::{CallbackServer, trusting},
    producer,
    role::CALLBACK_SECRET,
};
use jiff::Timestamp;
use tokio::time::timeout;

use crate::installation::{Installation, LIMIT};

const CALLBACK: &str = "https://client.example/done";

fn job(id: &str) -> Job {
    Job { callback: Some(CALLBACK.to_owned()), ..producer::job(id, 1, "a dog") }
}

/// Waits until the server has received this many events.
async fn heard(installation: &Installation, count: usize) -> Vec<JobEvent> {
    let all_heard = async {
        while installation.callbacks.heard().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
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
    let no_picture = ImageSource("data:image/png;base64,AAAA".to_owned());
    let bad = Job { subject: Subject::new(no_picture), ..job("bad") };
    let failed = installation.run(&bad).await;
    assert_eq!(failed.kind, EventKind::Failed);
    assert_eq!(heard(&installation, 2).await, [completed, failed]);
}

#[tokio::test]
async fn a_server_that_refuses_costs_no_job_and_leaves_a_dead_letter() {
    let mut installation = Installation::start().await;
    installation.callbacks.let_answer(CALLBACK, CallbackAnswer::Refused);
    assert_eq!(installation.run(&job("good")).await.kind, EventKind::Completed);
    let mut dead = installation
        .broker
        .consume(&QueueName::of(StageName::Notifier, Lane::Standard).dead_letters(), 1)
        .await
        .expect("the twin takes it");
    let delivery = timeout(LIMIT, dead.receive()).await.expect("it is parked").expect("it can be read");
    let delivery = delivery.expect("the twin lives");
    assert!(delivery.message.headers[DEAD_LETTER_REASON].contains("refuses"), "{:?}", delivery.message.headers);
    delivery.ack().await.expect("the twin takes it");
}

async fn tell(server: &CallbackServer, secrets: &[&str], event: &JobEvent) -> Result<(), Fault> {
    let secret = (!secrets.is_empty()).then(|| secrets.join(",").into());
    HttpCallbackSender::new(CallbackConfig { secret, ..trusting(server.certificate()) })
        .expect("the certificate is good")
        .send(&server.url(), None, event)
        .await?
        .heard()
}

#[tokio::test]
async fn the_example_server_believes_signed_calls_only_and_counts_each_event_once() {
    let mut server = CallbackServer::start(CALLBACK_SECRET).expect("the example runs");
    let event =
        |id: &str| JobEvent::of_result(&JobResult::completed(&job(id), Vec::new(), "1.2.3", Timestamp::UNIX_EPOCH));
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for secrets in [&[][..], &[other]] {
        let refused = tell(&server, secrets, &event("forged")).await.expect_err("it is not signed with the secret");
        assert!(!refused.is_permanent() && refused.to_string().contains("401"), "{refused}");
    }
    for (id, secrets) in
        [("one", &[CALLBACK_SECRET][..]), ("one", &[CALLBACK_SECRET]), ("two", &[other, CALLBACK_SECRET])]
    {
        tell(&server, secrets, &event(id)).await.expect("the server hears");
    }
    server.kill();
    assert_eq!(server.heard(), ["one", "two"].map(|id| format!("{{\"job\": \"{id}\", \"status\": \"completed\"}}")));
}
