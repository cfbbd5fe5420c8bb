//! What is between two stages may be lost at any moment: the whole cache, or an object of the work store. The job takes
//! longer then, and ends as it would have.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use echogen_ports::{
    Broker, Consumer, Event, EventStream, Fault, MemoryBroker, MemoryCache, Message, ObjectKey, ObjectStore,
};
use echogen_protocol::{EventKind, JobEvent, JobResult, Partitions, QueueName, SampleTask, StageName, StageTask};
use echogen_tests::producer;

use crate::installation::{Installation, Store};

/// What is lost when a task is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// All that is in the cache.
    Cache,
    /// That, and the encoded subject.
    Subject,
}

/// A broker on whose way to some stages things are lost: before the stage can have the task, and after its sender has
/// stored all that it stores.
#[derive(Debug)]
struct Losing {
    broker: Arc<MemoryBroker>,
    cache: Arc<MemoryCache>,
    work: Store,
    before: Vec<StageName>,
    what: Lost,
    /// How often something will be lost.
    times: AtomicUsize,
}

impl Losing {
    async fn lose(&self, queue: &QueueName, message: &Message) {
        let is_before = self.before.iter().any(|stage| stage.queues(Partitions::default()).contains(queue));
        let take = |times: usize| times.checked_sub(1);
        if !is_before || self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
            return;
        }
        self.cache.forget_everything();
        if self.what == Lost::Subject {
            let task = SampleTask::parse(&message.body).expect("a task for the sampler");
            let subject = ObjectKey::new(task.encoded_subject).expect("a key");
            self.work.delete(&subject).await.expect("the twin deletes");
        }
    }
}

#[async_trait]
impl Broker for Losing {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.lose(queue, &message).await;
        self.broker.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.broker.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.broker.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        self.broker.consume(queue, prefetch).await
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.broker.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.broker.subscribe(prefix).await
    }
}

async fn losing(before: &[StageName], what: Lost, times: usize) -> Installation {
    let before = before.to_vec();
    Installation::start_behind(move |broker, cache, work| {
        Arc::new(Losing { broker, cache, work, before, what, times: times.into() })
    })
    .await
}

fn result(event: &JobEvent) -> JobResult {
    assert_eq!(event.kind, EventKind::Completed);
    serde_json::from_value(event.data.clone()).expect("the event has the result")
}

/// The stages that get a task from another stage.
const NEXT: [StageName; 4] = [StageName::Segmenter, StageName::Encoder, StageName::Sampler, StageName::Notifier];

#[tokio::test]
async fn a_cache_that_is_flushed_between_any_two_stages_costs_time_only() {
    let (new, known) = (producer::job("one", 1, "a dog"), producer::job("two", 1, "a dog at sea"));
    let mut undisturbed = Installation::start().await;
    let expected = [result(&undisturbed.run(&new).await), result(&undisturbed.run(&known).await)];
    let places = NEXT.iter().map(std::slice::from_ref).chain([&NEXT[..]]);
    for before in places {
        let mut installation = losing(before, Lost::Cache, usize::MAX).await;
        for (job, expected) in [&new, &known].into_iter().zip(&expected) {
            let got = result(&installation.run(job).await);
            assert_eq!((&got.images, &got.subject), (&expected.images, &expected.subject), "{before:?}");
            assert!(installation.broker.dead_letters(&job.queue()).is_empty());
        }
    }
}

#[tokio::test]
async fn an_encoded_subject_that_is_deleted_is_made_again_by_the_encoder() {
    let mut installation = losing(&[StageName::Sampler], Lost::Subject, 1).await;
    let got = result(&installation.run(&producer::job("one", 1, "a dog")).await);
    assert_eq!(got.cached.get("encoder"), Some(&false));
    let [work, _] = installation.take_calls();
    // Written, deleted, found to be gone, and written again.
    assert_eq!((work.get("put"), work.get("delete")), (Some(&2), Some(&1)), "{work:?}");
    assert_eq!(got.timings.keys().filter(|step| *step == "segmenter").count(), 1);
}
