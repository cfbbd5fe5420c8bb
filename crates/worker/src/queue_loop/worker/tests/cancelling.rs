//! A job that is taken back ends at once, wherever it is, and once.

use echogen_ports::{EventStream, MemoryCache};
use echogen_protocol::{EventKind, JobId};
use futures::FutureExt;

use super::*;
use crate::{Cancelled, JobCanceller, JobStatusStore};

impl Bench {
    async fn cancel(&self, id: &str) -> Cancelled {
        self.canceller(None).cancel(&JobId(id.to_owned()), None).await.unwrap()
    }

    fn canceller(&self, status_store: Option<JobStatusStore>) -> JobCanceller {
        let store: Arc<dyn ObjectStore> = Arc::clone(&self.store) as _;
        let results = ResultWriter::new(store, Arc::new(self.broker.clone()), self.clock.clone(), "1.2.3");
        JobCanceller::new(results, status_store)
    }

    async fn listen(&self) -> Box<dyn EventStream> {
        // The worker listens from its first poll on.
        sleep(Duration::from_millis(1)).await;
        self.broker.subscribe("job.cancelled").await.unwrap()
    }
}

fn count(events: &mut Box<dyn EventStream>) -> usize {
    std::iter::from_fn(|| events.next().now_or_never().flatten()).count()
}

#[tokio::test(start_paused = true)]
async fn a_task_of_a_cancelled_job_is_not_begun() {
    let bench = Bench::plain();
    let mut events = bench.listen().await;
    let cancelled = bench.cancel("one").await;
    assert_eq!((cancelled.status, cancelled.is_new), (JobStatus::Cancelled, true));
    // The notifier has published it.
    bench.idle().await;
    bench.send("one").await;
    bench.send("two").await;
    bench.idle().await;
    assert_eq!((bench.stage.tries("one"), bench.stage.tries("two"), bench.followed()), (0, 1, 1));
    assert_eq!(bench.result("one").await.unwrap().status, JobStatus::Cancelled);
    assert_eq!(count(&mut events), 1, "it is told once");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_at_work_ends_at_once_and_its_stage_is_notified() {
    let bench = Bench::plain();
    let mut events = bench.listen().await;
    bench.send("stuck-one").await;
    bench.send("stuck-two").await;
    let stage = Arc::clone(&bench.stage);
    eventually("both are at work", || stage.cancelled.lock().unwrap().len() == 2).await;
    let began = Instant::now();
    bench.cancel("stuck-one").await;
    let broker = bench.broker.clone();
    eventually("one is settled", || broker.unsettled() == 1).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    let told: Vec<bool> = stage.cancelled.lock().unwrap().iter().map(CancellationToken::is_cancelled).collect();
    assert_eq!(told.iter().filter(|told| **told).count(), 1, "the other goes on");
    assert_eq!((count(&mut events), bench.followed()), (1, 0));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_ended_stays_as_it_ended() {
    let bench = Bench::plain();
    bench.send("wrong").await;
    bench.idle().await;
    let cancelled = bench.cancel("wrong").await;
    assert_eq!((cancelled.status, cancelled.is_new), (JobStatus::Failed, false));
    assert_eq!(bench.result("wrong").await.unwrap().status, JobStatus::Failed);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_word_without_a_result_stops_nothing() {
    let bench = Bench::plain();
    bench.listen().await;
    bench.cancel("one").await;
    // The client deletes the result and sends the job anew.
    bench.store.delete(&ObjectKey::new("one/result.json").unwrap()).await.unwrap();
    bench.send("one").await;
    bench.idle().await;
    assert_eq!((bench.stage.tries("one"), bench.followed()), (1, 1));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_did_not_know_the_destination_is_written_where_it_belongs() {
    let bench = Bench::plain();
    bench.listen().await;
    bench.cancel("one").await;
    bench.idle().await;
    let mut job = job("one");
    job.output.destination = Some("dogs".to_owned());
    bench.send_job(&job).await;
    bench.idle().await;
    assert_eq!((bench.stage.tries("one"), bench.followed()), (0, 0));
    assert_eq!(bench.result("dogs/one").await.unwrap().status, JobStatus::Cancelled);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_status_store_says_where_the_result_belongs_and_who_is_answered() {
    let (tracker, cache) = (TaskTracker::new(), Arc::new(MemoryCache::new(100_000)));
    let status_store = JobStatusStore::start(Arc::clone(&cache) as _, &tracker);
    let bench = Bench::with_status(|broker| Arc::new(broker), 0, Some(status_store.clone()));
    let mut answers = bench.broker.consume(&QueueName("answers".to_owned()), 1).await.unwrap();
    assert!(answers.receive().now_or_never().is_none(), "the queue stands");
    let mut odd = job("never");
    odd.output.destination = Some("dogs".to_owned());
    let reply_to = Some(echogen_protocol::ReplyTo { queue: "answers".to_owned(), correlation_id: None });
    let headers = TaskHeaders { reply_to, ..TaskHeaders::default() };
    bench.broker.publish(&queue(), Message::of_task(&odd, &headers)).await.unwrap();
    let stage = Arc::clone(&bench.stage);
    eventually("it has been tried twice", || stage.tries("never") == 2).await;
    let cancelled = bench.canceller(Some(status_store.clone())).cancel(&odd.id, None).await.unwrap();
    assert_eq!(cancelled.result_key, "dogs/never/result.json");
    let answer = timeout(Duration::from_secs(5), answers.receive()).await.expect("an answer comes").unwrap().unwrap();
    let body = answer.message.body.clone();
    answer.ack().await.unwrap();
    let answer: echogen_protocol::JobEvent = serde_json::from_slice(&body).unwrap();
    assert_eq!(answer.kind, EventKind::Cancelled);
    assert_eq!(
        answer.traceparent.unwrap().trace_id(),
        status_store.find(&odd.id).await.unwrap().unwrap().trace_id.unwrap()
    );
    bench.idle().await;
    assert!(bench.broker.dead_letters(&queue()).is_empty(), "its next try found it cancelled");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_names_another_jobs_place_is_not_believed() {
    let (tracker, cache) = (TaskTracker::new(), Arc::new(MemoryCache::new(100_000)));
    let forged =
        r#"{"state":"echogen.job.accepted","result_key":"other/result.json","updated":"2030-01-01T00:00:00Z"}"#;
    use echogen_ports::Cache;
    cache.put("job-status/one", forged.into(), Duration::from_secs(60)).await.unwrap();
    let bench = Bench::plain();
    let status_store = JobStatusStore::start(cache, &tracker);
    let cancelled = bench.canceller(Some(status_store)).cancel(&JobId("one".to_owned()), None).await.unwrap();
    assert_eq!(cancelled.result_key, "one/result.json");
    bench.stop().await;
}
