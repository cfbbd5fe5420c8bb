//! Tests of roles that start and stop together.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use echogen_encoder::SubjectEncoder;
use echogen_ports::{Broker, Fault, ImageFetcher, MemoryBroker, MemoryCache, MemoryObjectStore, Message};
use echogen_protocol::{ImageSource, Job, PixelBudget, QueueName, RoleName, StageName, StageTask, SubjectKeys};
use echogen_sampler::{ImageSampler, SamplerConfig};
use echogen_segmenter::{Detector, GivenBox};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::*;

/// A fetcher that signals when it has begun, and takes some time.
#[derive(Debug, Default)]
struct SlowFetcher {
    begun: Notify,
}

#[async_trait]
impl ImageFetcher for SlowFetcher {
    async fn fetch(&self, _: &ImageSource, _: u64) -> Result<Bytes, Fault> {
        self.begun.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(Bytes::from_static(b"picture"))
    }
}

/// A source whose encoder cannot be loaded; the error occurs when the dispatcher is already running.
struct BrokenEncoder(Arc<SlowFetcher>);

#[async_trait]
impl NetworkSource for BrokenEncoder {
    fn name(&self) -> &str {
        "broken"
    }

    async fn subjects(&self) -> Result<SubjectKeys, Failure> {
        Ok(SubjectKeys {
            encoders: "broken".to_owned(),
            dtypes: Vec::new(),
            finders: GivenBox.version(),
            default_pixel_budget: PixelBudget::M0_06,
            resolutions: [(PixelBudget::M0_06, 256)].into(),
        })
    }

    async fn detector(&self) -> Result<Arc<dyn Detector>, Failure> {
        Ok(Arc::new(GivenBox))
    }

    async fn encoder(&self) -> Result<Arc<dyn SubjectEncoder>, Failure> {
        self.0.begun.notified().await;
        Err(Failure::usage("a file is torn"))
    }

    async fn sampler(&self, _: &SamplerConfig) -> Result<Arc<dyn ImageSampler>, Failure> {
        Err(Failure::usage("it is not asked for"))
    }
}

#[tokio::test]
async fn a_role_at_work_drains_when_a_later_one_cannot_be_loaded() {
    let (broker, fetcher) = (Arc::new(MemoryBroker::new()), Arc::new(SlowFetcher::default()));
    let (cache, store) = (Arc::new(MemoryCache::new(1 << 20)), Arc::new(MemoryObjectStore::new()));
    let tracker = TaskTracker::new();
    let backends = Backends::new(broker.clone(), cache, store.clone(), store, fetcher.clone(), &tracker);
    let job = Job::new("dog.png".into(), "a dog").with_id();
    let intake = job.queue();
    broker.publish(&intake, Message::of_job(&job, Timestamp::now())).await.unwrap();

    let roles = [RoleName::Dispatcher, RoleName::Encoder];
    let (networks, shutdown) = (BrokenEncoder(fetcher), CancellationToken::new());
    let ended = work(&roles, &networks, &backends, &ServiceConfig::default(), &shutdown).await;
    assert_eq!(ended.unwrap_err().message, "a file is torn");
    assert_eq!((broker.waiting(&intake), broker.unsettled()), (0, 0), "the job was neither dropped nor given back");
    assert_eq!(broker.waiting(&QueueName::of(StageName::Segmenter, job.lane)), 1, "it went on its way");
}
