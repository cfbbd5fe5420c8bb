//! Tests of the notifier with the in-memory ports.

use std::{sync::Arc, time::Duration};

use echogen_ports::{Fault, FaultKind, MemoryBroker, MemoryCallbackSender, memory::CallbackAnswer};
use echogen_protocol::{EventKind, JobEvent, JobId, NotifyTask};
use echogen_worker::{Outcome, Stage, StageContext};
use jiff::Timestamp;

use crate::Notifier;

const GOOD: &str = "https://good.example/done";

struct Bench {
    sender: Arc<MemoryCallbackSender>,
    notifier: Notifier,
    context: StageContext,
}

fn bench() -> Bench {
    let sender = Arc::new(MemoryCallbackSender::new());
    sender.let_answer(GOOD, CallbackAnswer::Heard);
    let notifier = Notifier::new(sender.clone());
    Bench { sender, notifier, context: StageContext::for_test(Arc::new(MemoryBroker::new())) }
}

fn event() -> JobEvent {
    JobEvent::new(EventKind::Failed, &JobId("one".to_owned()), Timestamp::UNIX_EPOCH, serde_json::json!({ "a": 1 }))
}

impl Bench {
    async fn send(&self, callback: &str) -> Result<Outcome, Fault> {
        let task = NotifyTask { callback: callback.to_owned(), event: event() };
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
