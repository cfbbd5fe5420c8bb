//! `retry`: what has failed or is parked runs again by its id alone, on real servers.

use std::{sync::Arc, time::Duration};

use echogen_adapters::{DirectoryObjectStore, ImageFetchers, RedisCache, amqp::AmqpBroker};
use echogen_ports::{Broker, EventStream, Message};
use echogen_protocol::{ContentHash, EventKind, ImageSource, Job, JobId, JobStatus, RoleName, StageTask};
use echogen_service::{
    Backends,
    config::ServiceConfig,
    operations::retry::{Retried, Retrier},
    work,
};
use echogen_testkit::{RabbitMq, Redis};
use echogen_tests::{constant, producer};
use jiff::Timestamp;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::program::Folder;

/// Timeout of every wait, for a machine that is busy with other work.
const TIMEOUT: Duration = Duration::from_secs(60);

/// All roles on RabbitMQ, Redis and a folder.
struct Installation {
    config: ServiceConfig,
    broker: Arc<AmqpBroker>,
    events: Box<dyn EventStream>,
    _folder: Folder,
    _redis: Redis,
}

impl Installation {
    async fn start() -> Self {
        let (server, redis, folder) = (RabbitMq::shared().await, Redis::start().expect("Redis starts"), Folder::new());
        let mut config = ServiceConfig::default();
        config.broker.url = Some(server.amqp_url().as_str().into());
        config.broker.prefix = RabbitMq::fresh_prefix();
        config.cache.redis.url = Some(redis.url().as_str().into());
        config.store.url = Some(folder.path("store").display().to_string());
        let store =
            |part: &str| Arc::new(DirectoryObjectStore::open(folder.path("store").join(part)).expect("a folder"));
        let broker = AmqpBroker::connect(config.broker.clone()).await.expect("the broker takes connections");
        let (broker, cache) = (Arc::new(broker), RedisCache::open(config.cache.redis.clone()).expect("Redis is there"));
        let (tracker, fetcher) = (TaskTracker::new(), Arc::new(ImageFetchers::new()));
        let backends =
            Backends::new(broker.clone(), Arc::new(cache), store("work"), store("results"), fetcher, &tracker);
        let events = broker.subscribe("job").await.expect("subscribe works");
        let (settings, networks) = (config.clone(), constant::networks(Duration::ZERO));
        tracker.spawn(async move {
            work(&RoleName::WORKERS, &networks, &backends, &settings, &CancellationToken::new()).await
        });
        Self { config, broker, events, _folder: folder, _redis: redis }
    }

    /// Waits for the next end of a job.
    async fn end(&mut self, id: &JobId) -> EventKind {
        let ended = async {
            loop {
                let event = self.events.next().await.expect("the subscription goes on");
                match event.to_job() {
                    Some(event) if event.kind.ends_job() && event.subject == *id => return event.kind,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(TIMEOUT, ended).await.expect("the job ends")
    }

    async fn run(&mut self, job: &Job) -> EventKind {
        producer::send(&self.broker, job).await.expect("the job is sent");
        self.end(&job.id).await
    }
}

#[tokio::test]
async fn what_failed_or_is_parked_runs_again_by_its_id_and_what_completed_does_not() {
    let mut installation = Installation::start().await;
    let known = producer::job("known", 1, "a dog");
    let picture = ContentHash::of(&constant::picture(1));
    let by_hash =
        |id: &str| Job { id: JobId(id.to_owned()), ..Job::new(ImageSource(format!("sha256:{picture}")), "a cat") };
    let (failing, parked) = (by_hash("failing"), by_hash("parked"));
    assert_eq!(installation.run(&failing).await, EventKind::Failed, "its picture is not stored yet");
    assert_eq!(installation.run(&known).await, EventKind::Completed);
    let letter = Message::of_job(&parked, Timestamp::now());
    installation.broker.dead_letter(&parked.queue(), letter, "for a test").await.expect("it is parked");

    let retrier = Retrier::open(&installation.config).await.expect("the servers are there");
    let retry = async |id: &str| retrier.retry(&JobId(id.to_owned()), None).await;
    assert_eq!(retry("failing").await.expect("it is sent"), Retried::Sent(JobStatus::Failed));
    assert_eq!(installation.end(&failing.id).await, EventKind::Completed);
    assert_eq!(retry("parked").await.expect("it is sent back"), Retried::Redriven(1));
    assert_eq!(installation.end(&parked.id).await, EventKind::Completed);
    for (id, part) in [("failing", "has completed"), ("parked", "has completed"), ("other", "nothing is known")] {
        let failure = retry(id).await.expect_err("there is nothing to retry").to_string();
        assert!(failure.contains(part), "{failure}");
    }
    retrier.close().await;
}
