//! Tests of the notifier with the in-memory ports.

use std::{sync::Arc, time::Duration};

use echogen_ports::{Broker, Fault, FaultKind, MemoryBroker, MemoryCallbackSender, memory::CallbackAnswer};
use echogen_protocol::{EventKind, JobEvent, JobId, Notice, NotifyTask, QueueName, ReplyTo};
use echogen_worker::{Clock, Outcome, Stage, StageContext};
use jiff::Timestamp;

use crate::{Notifier, NotifierConfig};

const GOOD: &str = "https://good.example/done";

struct Bench {
    sender: Arc<MemoryCallbackSender>,
    notifier: Notifier,
    context: StageContext,
}

fn bench() -> Bench {
    let sender = Arc::new(MemoryCallbackSender::new());
    sender.let_answer(GOOD, CallbackAnswer::Heard);
    let broker = Arc::new(MemoryBroker::new());
    let config = NotifierConfig { give_up_after: Duration::from_secs(86_400) };
    let notifier = Notifier::new(broker.clone(), Some(sender.clone()), config);
    Bench { sender, notifier, context: StageContext::for_test(broker) }
}

fn event() -> JobEvent {
    JobEvent::new(EventKind::Failed, &JobId("one".to_owned()), Timestamp::UNIX_EPOCH, serde_json::json!({ "a": 1 }))
}

impl Bench {
    async fn send(&self, callback: &str) -> Result<Outcome, Fault> {
        let task = NotifyTask::new(event(), Some(callback.to_owned()), false).only(Notice::Callback);
        self.notifier.run(task, &self.context).await
    }
}

#[tokio::test]
async fn the_server_hears_the_event() {
    let bench = bench();
    assert_eq!(bench.send(GOOD).await.unwrap(), Outcome::Done);
    assert_eq!(bench.sender.heard(), [(GOOD.to_owned(), event())]);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_stops_calls_to_its_server_and_to_no_other() {
    let bench = bench();
    let away = "https://away.example/done";
    for _ in 0..5 {
        let error = bench.send(away).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
    }
    assert_eq!(bench.sender.calls(), 1, "four were not even tried");
    // Another path of the same server is not called; another port counts as another server and is called.
    assert!(bench.send("https://away.example/other").await.is_err());
    assert!(bench.send("https://away.example:444/done").await.is_err());
    bench.send(GOOD).await.unwrap();
    assert_eq!(bench.sender.calls(), 3);
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.sender.let_answer(away, CallbackAnswer::Heard);
    bench.send(away).await.unwrap();
    bench.send(away).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_permanent_and_opens_no_circuit() {
    let bench = bench();
    bench.sender.let_answer("https://good.example/gone", CallbackAnswer::Refused);
    let error = bench.send("https://good.example/gone").await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
    bench.send(GOOD).await.unwrap();
}

#[tokio::test]
async fn a_busy_path_stops_no_call_to_another_path_of_its_server() {
    let bench = bench();
    let busy = "https://good.example/busy";
    bench.sender.let_answer(busy, CallbackAnswer::Busy);
    for calls in 1..=5 {
        let error = bench.send(busy).await.unwrap_err();
        assert!(!error.is_permanent() && error.to_string().contains("is busy"), "{error}");
        assert_eq!(bench.sender.calls(), calls);
    }
    bench.send(GOOD).await.unwrap();
    assert_eq!(bench.sender.heard(), [(GOOD.to_owned(), event())]);
}

#[tokio::test(start_paused = true)]
async fn a_callback_to_an_open_circuit_is_retried_when_the_pause_is_over() {
    let bench = bench();
    let away = "https://away.example/done";
    assert_eq!(bench.send(away).await.unwrap_err().retry_after(), None, "the one that tried waits as ever");
    tokio::time::advance(Duration::from_millis(400)).await;
    let fault = bench.send(away).await.unwrap_err();
    assert_eq!((fault.kind(), fault.retry_after()), (FaultKind::CircuitOpen, Some(Duration::from_millis(600))));
    tokio::time::advance(Duration::from_millis(600)).await;
    bench.sender.let_answer(away, CallbackAnswer::Heard);
    bench.send(away).await.unwrap();
    assert_eq!(bench.sender.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_must_not_be_called_does_not_change_the_circuit() {
    let bench = bench();
    let (away, forbidden) = ("https://away.example/done", "http://away.example:443/done");
    for _ in 0..2 {
        assert!(bench.send(forbidden).await.unwrap_err().is_permanent(), "it is not left alone");
    }
    assert!(!bench.send(away).await.unwrap_err().is_permanent());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(bench.send(forbidden).await.unwrap_err().is_permanent());
    assert!(bench.send(away).await.unwrap_err().retry_after().is_some(), "nor is it there again");
}

/// A bench whose task has been waiting since long ago, and a notifier that gives callbacks up after an hour.
fn old(seconds: i64) -> Bench {
    let mut bench = bench();
    bench.context.clock = Clock::fixed(Timestamp::from_second(seconds).unwrap());
    bench.context.metadata.first_seen = Some(Timestamp::UNIX_EPOCH);
    bench
}

#[tokio::test]
async fn a_callback_is_retried_for_its_time_and_then_parked() {
    let away = "https://good.example/deployed-again";
    for (seconds, kind) in [(86_399, FaultKind::Throttled), (86_400, FaultKind::Refused)] {
        let bench = old(seconds);
        bench.sender.let_answer(away, CallbackAnswer::Busy);
        let fault = bench.send(away).await.unwrap_err();
        assert_eq!(fault.kind(), kind, "{fault}");
    }
}

/// Sends all three notices of an end, whose reply queue is `answers`; returns what follows.
async fn send_all(bench: &mut Bench, broker_has_queue: bool) -> Outcome {
    let broker = MemoryBroker::new();
    if broker_has_queue {
        let mut answers = broker.consume(&QueueName("answers".to_owned()), 1).await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, answers.receive()).await.is_err(), "the queue stands");
    }
    let config = NotifierConfig { give_up_after: Duration::from_secs(86_400) };
    let notifier = Notifier::new(Arc::new(broker.clone()), Some(bench.sender.clone()), config);
    bench.context.metadata.reply_to = Some(ReplyTo { queue: "answers".to_owned(), correlation_id: None });
    let mut events = broker.subscribe("job").await.unwrap();
    let task = NotifyTask::new(event(), Some(GOOD.to_owned()), true);
    let outcome = notifier.run(task, &bench.context).await.unwrap();
    assert_eq!(events.next().await.unwrap().to_job(), Some(event()), "subscribers hear it, whatever the others do");
    outcome
}

#[tokio::test(start_paused = true)]
async fn each_notice_that_fails_becomes_a_task_of_its_own() {
    assert_eq!(send_all(&mut bench(), true).await, Outcome::Done);
    let mut bench = bench();
    bench.sender.let_answer(GOOD, CallbackAnswer::Busy);
    let Outcome::Next(tasks) = send_all(&mut bench, false).await else { panic!("two are left") };
    let pending: Vec<_> = tasks.iter().map(|task| task.read::<NotifyTask>().unwrap().pending).collect();
    assert_eq!(pending, [[Notice::Reply], [Notice::Callback]]);
    assert!(tasks.iter().all(|task| task.delay >= Duration::from_secs(2)), "{tasks:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_tried_a_few_times_and_given_up_without_a_dead_letter() {
    let mut bench = bench();
    bench.context.metadata.reply_to = Some(ReplyTo { queue: "gone".to_owned(), correlation_id: None });
    for attempt in 1..=4 {
        bench.context.metadata.attempt = attempt;
        let task = NotifyTask::new(event(), None, true).only(Notice::Reply);
        let outcome = bench.notifier.run(task, &bench.context).await;
        match attempt {
            4 => assert_eq!(outcome.unwrap(), Outcome::Done),
            _ => assert!(!outcome.unwrap_err().is_permanent(), "its client may declare it again"),
        }
    }
}
