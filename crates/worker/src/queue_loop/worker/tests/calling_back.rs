//! The end of a job with a callback leaves a task for the notifier; and how such a task is handled.

use echogen_ports::MemoryCache;
use echogen_protocol::{EventKind, JobEvent, JobId, Notice, NotifyTask};

use super::*;
use crate::{JobCanceller, JobStatusStore};

const CALLBACK: &str = "https://example.org/done";

fn with_callback(id: &str) -> Job {
    Job { callback: Some(CALLBACK.to_owned()), ..job(id) }
}

fn notices_queue() -> QueueName {
    QueueName::of(StageName::Notifier, Lane::Standard)
}

/// Takes what was left for the notifier: the callbacks with their events.
fn notices(bench: &Bench) -> Vec<(String, JobEvent)> {
    let mut all = Vec::new();
    for (task, headers) in bench.notifier.as_ref().expect("there is one").take() {
        assert_eq!(headers.job.as_deref(), Some(task.event.subject.as_str()));
        assert_eq!(headers.traceparent, task.event.traceparent);
        assert_eq!(task.pending.contains(&Notice::Callback), task.callback.is_some());
        all.extend(task.callback.map(|callback| (callback, task.event)));
    }
    all
}

fn event(id: &str) -> JobEvent {
    JobEvent::new(EventKind::Completed, &JobId(id.to_owned()), Timestamp::UNIX_EPOCH, serde_json::Value::Null)
}

#[tokio::test(start_paused = true)]
async fn an_end_is_noted_for_those_who_ask_and_for_nobody_else() {
    let bench = Bench::plain();
    bench.send("wrong-one").await;
    bench.send_job(&with_callback("wrong-two")).await;
    bench.send_job(&Job { deadline: Some(Timestamp::UNIX_EPOCH), ..with_callback("late") }).await;
    bench.send_job(&with_callback("good")).await;
    bench.idle().await;
    let told: Vec<_> = notices(&bench).into_iter().map(|(to, event)| (to, event.subject.0, event.kind)).collect();
    let expected = |id: &str, kind| (CALLBACK.to_owned(), id.to_owned(), kind);
    assert_eq!(told, [expected("wrong-two", EventKind::Failed), expected("late", EventKind::Expired)]);
    assert_eq!(bench.followed(), 1, "the good one goes on, and its end is not here");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_counts_as_ended_only_when_the_notice_is_in_its_queue() {
    let bench = Bench::start(|inner| Arc::new(FullAtFirst::new(inner, notices_queue(), 1)), 0);
    bench.send_job(&with_callback("wrong")).await;
    bench.idle().await;
    let told = notices(&bench);
    assert_eq!(told.len(), 1, "the delivery came again, and so did the notice");
    assert_eq!(told[0].1.kind, EventKind::Failed);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_calls_back_whether_or_not_the_canceller_knew_of_it() {
    let cache = Arc::new(MemoryCache::new(100_000));
    let status_store = JobStatusStore::start(cache, &TaskTracker::new());
    let bench = Bench::with_status(|broker| Arc::new(broker), 0, Some(status_store.clone()));
    let results = |status_store: Option<&JobStatusStore>| {
        let store = Arc::new(SharedStore(Arc::clone(&bench.store)));
        let results = ResultWriter::new(store, Arc::new(bench.broker.clone()), bench.clock.clone(), "1.2.3");
        JobCanceller::new(results, status_store.cloned())
    };
    bench.send_job(&with_callback("never-noted")).await;
    let stage = Arc::clone(&bench.stage);
    eventually("it waits for its second try", || stage.tries("never-noted") == 1 && bench.broker.unsettled() == 0)
        .await;
    results(Some(&status_store)).cancel(&JobId("never-noted".to_owned()), None).await.unwrap();
    let notified = || bench.broker.waiting(&notices_queue()) == 0 && bench.broker.unsettled() == 0;
    eventually("the notifier has it", notified).await;
    assert_eq!(notices(&bench).len(), 1, "the status store knew whom to call");
    bench.idle().await;

    results(None).cancel(&JobId("ahead".to_owned()), None).await.unwrap();
    assert!(notices(&bench).iter().all(|(_, event)| event.subject.as_str() != "ahead"));
    bench.send_job(&with_callback("ahead")).await;
    bench.idle().await;
    let told = notices(&bench);
    assert_eq!(
        told.last().map(|(_, event)| (event.subject.as_str(), event.kind)),
        Some(("ahead", EventKind::Cancelled))
    );
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_tried_again_and_parked_like_any_task_but_ends_no_job() {
    let bench = StageBench::<NotifyTask>::start(|broker| Arc::new(broker), 0);
    let mut events = bench.broker.subscribe("job").await.unwrap();
    for id in ["flaky", "never", "wrong"] {
        let task = NotifyTask::new(event(id), Some(CALLBACK.to_owned()), false);
        bench.broker.publish(&notices_queue(), Message::of_task(&task, &TaskHeaders::default())).await.unwrap();
    }
    bench.idle().await;
    let broker = bench.broker.clone();
    eventually("two are parked", || broker.dead_letters(&notices_queue()).len() == 2).await;
    assert_eq!((bench.stage.tries("flaky"), bench.stage.tries("never"), bench.stage.tries("wrong")), (3, 4, 1));
    let reasons: Vec<_> =
        broker.dead_letters(&notices_queue()).iter().map(|dead| dead.headers[DEAD_LETTER_REASON].clone()).collect();
    assert!(reasons.iter().any(|reason| reason == "not an image"), "{reasons:?}");
    use futures::FutureExt;
    assert!(events.next().now_or_never().is_none(), "the job has ended, and nothing more is told of it");
    assert!(bench.store.keys().is_empty());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_is_called_back_all_the_same() {
    let bench = StageBench::<NotifyTask>::start(|broker| Arc::new(broker), 0);
    let cancelled = NotifyTask::new(event("one"), Some(CALLBACK.to_owned()), false);
    let told = JobEvent { kind: EventKind::Cancelled, ..event("one") };
    bench.broker.publish_event(Event::of_job(&told)).await.unwrap();
    bench.broker.publish(&notices_queue(), Message::of_task(&cancelled, &TaskHeaders::default())).await.unwrap();
    bench.idle().await;
    assert_eq!(bench.stage.tries("one"), 1, "to have heard that the job is cancelled is no reason not to tell");
    bench.stop().await;
}
