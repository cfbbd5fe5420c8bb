//! Tests of the encoder stage with the in-memory ports and an encoder that records its inputs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use echogen_ports::{
    Cache, Fault, FaultKind, MemoryBroker, MemoryBudget, MemoryCache, MemoryObjectStore, ObjectKey, ObjectStore,
};
use echogen_protocol::{
    BoundingBox, ContentHash, EncodeTask, FoundBy, Job, JobId, NextTask, PixelBudget, Progress, SampleTask,
    SegmentTask, StageName, SubjectFound, SubjectKeys, layout,
};
use echogen_worker::{CachedObjects, Outcome, ProductsConfig, Stage, StageContext};
use tokio::time::Instant;

use crate::{EncodeError, Encoder, SubjectEncoder};

#[derive(Debug, Default)]
struct FakeEncoder {
    runs: AtomicUsize,
}

#[async_trait]
impl SubjectEncoder for FakeEncoder {
    async fn encode(&self, cutout: Arc<RgbImage>, resolution: u32, _: Instant) -> Result<Vec<u8>, EncodeError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        match cutout.height() {
            1 => Err(EncodeError::BadPicture("picture is too flat; send a higher one".into())),
            2 => Err(EncodeError::Failed("out of memory".into())),
            height => Ok(format!("{} x {height} at {resolution}", cutout.width()).into_bytes()),
        }
    }

    fn models(&self) -> BTreeMap<String, String> {
        [("encoder".to_owned(), "abc".to_owned())].into()
    }
}

struct Bench {
    encoder: Arc<FakeEncoder>,
    stage: Encoder,
    work: Arc<MemoryObjectStore>,
    cache: Arc<MemoryCache>,
    context: StageContext,
}

fn bench() -> Bench {
    let encoder = Arc::new(FakeEncoder::default());
    let (work, cache) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryCache::new(1_000_000)));
    let keys = SubjectKeys {
        finders: String::new(),
        encoders: "encoder".into(),
        default_pixel_budget: PixelBudget::M0_06,
        resolutions: [(PixelBudget::M0_06, 256), (PixelBudget::M1, 512)].into(),
    };
    let stage = process(keys, &encoder, &work, &cache);
    Bench { encoder, stage, work, cache, context: StageContext::for_test(Arc::new(MemoryBroker::new())) }
}

/// Creates a stage as a separate process would have it, on the shared store and cache.
fn process(
    keys: SubjectKeys,
    encoder: &Arc<FakeEncoder>,
    work: &Arc<MemoryObjectStore>,
    cache: &Arc<MemoryCache>,
) -> Encoder {
    let config = ProductsConfig::default();
    let objects = CachedObjects::new(work.clone(), cache.clone(), &config);
    Encoder::new(keys, encoder.clone(), objects, &config)
}

fn job(id: &str) -> Job {
    Job { id: JobId(id.into()), ..Job::new("dog.png".into(), format!("a dog, {id}")) }
}

impl Bench {
    async fn put_cutout(&self, width: u32, height: u32) -> ContentHash {
        let png = encode_image(&RgbImage::new(width, height), ImageFormat::Png, 100).unwrap();
        let cutout = ContentHash::of(&png);
        self.work.put(&ObjectKey::of_content(layout::CUTOUTS, &cutout).unwrap(), png.into()).await.unwrap();
        cutout
    }

    async fn run(&self, job: Job, cutout: ContentHash) -> Result<SampleTask, Fault> {
        let next = self.outcome(job, cutout, Progress::default()).await?;
        Ok(next.read().expect("to the sampler"))
    }

    async fn outcome(&self, job: Job, cutout: ContentHash, progress: Progress) -> Result<NextTask, Fault> {
        let task = EncodeTask { job, cutout, progress };
        match self.stage.run(task, &self.context).await? {
            Outcome::Next(mut tasks) => Ok(tasks.remove(0)),
            Outcome::Done => panic!("done too early"),
        }
    }

    fn runs(&self) -> usize {
        self.encoder.runs.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn the_encoded_subject_lies_in_store_and_cache() {
    let bench = bench();
    let cutout = bench.put_cutout(8, 6).await;
    let task = bench.run(job("one"), cutout).await.unwrap();
    let key = ObjectKey::new(task.encoded_subject.clone()).unwrap();
    assert_eq!(bench.work.get(&key, 1_000).await.unwrap().unwrap(), "8 x 6 at 256");
    assert_eq!(bench.cache.get(key.as_str()).await.unwrap().unwrap(), "8 x 6 at 256");
    assert_eq!(task.progress.cached.get("encoder"), Some(&false));
    assert_eq!(task.progress.models.get("encoder").map(String::as_str), Some("abc"));
}

#[tokio::test]
async fn many_prompts_at_the_same_moment_encode_once() {
    let bench = bench();
    let cutout = bench.put_cutout(8, 6).await;
    let (first, second, third) =
        tokio::join!(bench.run(job("one"), cutout), bench.run(job("two"), cutout), bench.run(job("three"), cutout));
    assert_eq!(bench.runs(), 1);
    let cached = [first, second, third].map(|task| *task.unwrap().progress.cached.get("encoder").unwrap());
    assert_eq!(cached.iter().filter(|cached| !**cached).count(), 1);
}

#[tokio::test]
async fn a_cutout_waits_for_memory_and_all_get_their_turn() {
    let mut bench = bench();
    bench.stage.memory = MemoryBudget::new(1);
    let (low, middle, high) =
        (bench.put_cutout(8, 6).await, bench.put_cutout(8, 7).await, bench.put_cutout(8, 8).await);
    let permit = bench.stage.memory.acquire(1).await;
    let wait = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(wait, bench.run(job("none"), low)).await.is_err());
    assert_eq!(bench.runs(), 0);
    drop(permit);
    let (one, two, three) =
        tokio::join!(bench.run(job("one"), low), bench.run(job("two"), middle), bench.run(job("three"), high));
    assert!([one, two, three].iter().all(Result::is_ok));
    assert_eq!(bench.runs(), 3);
}

/// Four processes, each with its own stage and its own in-process single flight, on one store and one cache.
#[tokio::test(start_paused = true)]
async fn two_hundred_jobs_in_four_processes_at_once_encode_once() {
    let first = bench();
    let cutout = first.put_cutout(8, 6).await;
    let stage = || process(first.stage.keys.clone(), &first.encoder, &first.work, &first.cache);
    let stages: Vec<Arc<Encoder>> = (0..4).map(|_| Arc::new(stage())).collect();
    let mut jobs = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (stage, context) = (stages[number % 4].clone(), first.context.clone());
        // For all jobs but the first, the dispatcher found the picture in the store.
        let mut progress = Progress::default();
        progress.note(StageName::Dispatcher, 0.1, number > 0);
        let task = EncodeTask { job: job(&number.to_string()), cutout, progress };
        jobs.spawn(async move { stage.run(task, &context).await });
    }
    let mut made = 0;
    for outcome in jobs.join_all().await {
        let Ok(Outcome::Next(tasks)) = outcome else { panic!("no next task: {outcome:?}") };
        let task: SampleTask = tasks[0].read().expect("to the sampler");
        made += u32::from(task.progress.cached.get("encoder") == Some(&false));
    }
    assert_eq!((first.encoder.runs.load(Ordering::Relaxed), made), (1, 1));
}

#[tokio::test]
async fn later_prompts_find_it_and_another_resolution_does_not() {
    let bench = bench();
    let cutout = bench.put_cutout(8, 6).await;
    let first = bench.run(job("one"), cutout).await.unwrap();
    let second = bench.run(job("two"), cutout).await.unwrap();
    assert_eq!(first.encoded_subject, second.encoded_subject);
    assert_eq!(second.progress.cached.get("encoder"), Some(&true));
    assert_eq!(bench.runs(), 1);
    let large = Job { pixel_budget: Some(PixelBudget::M1), ..job("three") };
    let third = bench.run(large, cutout).await.unwrap();
    assert_ne!(first.encoded_subject, third.encoded_subject);
    assert_eq!(bench.runs(), 2);
}

#[tokio::test]
async fn failures_keep_their_kind() {
    let bench = bench();
    let flat = bench.put_cutout(8, 1).await;
    let error = bench.run(job("one"), flat).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::BadImage, "{error}");
    let heavy = bench.put_cutout(8, 2).await;
    let error = bench.run(job("one"), heavy).await.unwrap_err();
    assert!(!error.is_permanent());
    assert_eq!(error.to_string(), "the subject encoder failed: out of memory");
    let unknown = Job { pixel_budget: Some(PixelBudget::M0_25), ..job("one") };
    let error = bench.run(unknown, heavy).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::Unsupported, "{error}");
}

#[tokio::test]
async fn a_deleted_cutout_is_made_again() {
    let bench = bench();
    let image = ContentHash::of(b"picture");
    let area = BoundingBox { left: 0, top: 0, right: 1, bottom: 1 };
    let subject = SubjectFound { image, name: None, bounding_box: area, score: None, how: FoundBy::WholeImage };
    let progress = Progress { subject: Some(subject), ..Progress::default() };
    let next = bench.outcome(job("one"), ContentHash::of(b"gone"), progress).await.unwrap();
    assert!(next.read().is_some_and(|task: SegmentTask| task.image == image));
    assert!(bench.run(job("one"), ContentHash::of(b"gone")).await.is_err(), "without a picture there is no way back");
}
