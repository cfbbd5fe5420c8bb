//! Tests that an endless pipe of jobs is read only as far as the number of jobs in flight allows; the stages do
//! nothing.

use std::{io::Cursor, sync::Arc, time::Duration};

use echogen_ports::{Broker, Event, MemoryBroker, MemoryCache, MemoryObjectStore};
use echogen_protocol::{Job, JobId, StageTask};
use jiff::Timestamp;
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::*;

const IN_FLIGHT: usize = 8;

struct Bench {
    broker: Arc<MemoryBroker>,
    backends: Backends,
}

impl Bench {
    fn new() -> Self {
        let (broker, store) = (Arc::new(MemoryBroker::new()), Arc::new(MemoryObjectStore::new()));
        let (cache, fetcher) = (Arc::new(MemoryCache::new(1 << 20)), Arc::new(echogen_adapters::ImageFetchers::new()));
        let backends = Backends::new(broker.clone(), cache, store.clone(), store, fetcher, &TaskTracker::new());
        Self { broker, backends }
    }

    fn waiting(&self) -> usize {
        self.broker.waiting(&Job::new("dog.png".into(), "").queue())
    }

    async fn end(&self, number: usize, kind: EventKind) {
        let id = JobId(format!("job-{number}"));
        let event = JobEvent::new(kind, &id, Timestamp::UNIX_EPOCH, json!({}));
        self.broker.publish_event(Event::of_job(&event)).await.unwrap();
    }

    async fn until_waiting(&self, count: usize) {
        let all_sent = async {
            while self.waiting() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all_sent).await.expect("jobs are sent");
        // Any line beyond the limit would be read within this time.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(self.waiting(), count);
    }
}

fn lines(count: usize) -> JobLines {
    let line = |number| format!(r#"{{"id": "job-{number}", "subject": {{"image": "dog.png"}}, "prompt": "a dog"}}"#);
    let text: String = (0..count).map(|number| line(number) + "\n").collect();
    JobLines::new(Cursor::new(text.into_bytes()))
}

#[tokio::test]
async fn a_pipe_is_read_only_as_far_as_jobs_may_be_in_flight() {
    let (bench, shutdown) = (Bench::new(), CancellationToken::new());
    let mut refused = Vec::new();
    let each = |end| refused.push(end);
    let feed = Feed::open(&bench.backends, IN_FLIGHT, lines(10_000), each).await.unwrap();
    let feeding = feed.run(&shutdown);
    let checking = async {
        bench.until_waiting(IN_FLIGHT).await;
        bench.end(0, EventKind::Completed).await;
        bench.end(3, EventKind::Parked).await;
        bench.until_waiting(IN_FLIGHT + 2).await;
        shutdown.cancel();
    };
    let (ended, ()) = tokio::join!(feeding, checking);
    assert_eq!(ended.unwrap(), Exit::Interrupted);
    assert_eq!(refused.len(), 2, "both ends were reported");
}

#[tokio::test]
async fn a_pipe_ends_with_its_last_job() {
    let bench = Bench::new();
    let feed = Feed::open(&bench.backends, IN_FLIGHT, lines(3), |_| ()).await.unwrap();
    let shutdown = CancellationToken::new();
    let ending = async {
        bench.until_waiting(3).await;
        for number in 0..3 {
            bench.end(number, EventKind::Completed).await;
        }
    };
    let (ended, ()) = tokio::join!(feed.run(&shutdown), ending);
    assert_eq!(ended.unwrap(), Exit::Success);
}
