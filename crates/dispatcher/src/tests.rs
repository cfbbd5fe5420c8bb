//! Tests of the dispatcher with the in-memory ports.

use std::sync::Arc;

use echogen_ports::{Fault, MemoryBroker, MemoryCache, MemoryImageFetcher, MemoryObjectStore, ObjectKey, ObjectStore};
use echogen_protocol::{
    BoundingBox, ContentHash, EncodeTask, FailureKind, FoundBy, Job, JobId, JobResult, NextTask, PixelBudget,
    SampleTask, SegmentTask, Segmentation, StageTask, SubjectFound, SubjectKeys, layout,
};
use echogen_worker::{CachedObjects, Clock, Outcome, ProductsConfig, ResultWriter, Stage, StageContext, TaskMetadata};

use crate::{Dispatcher, DispatcherConfig};

const PICTURE: &[u8] = b"the bytes of a picture";

struct Bench {
    dispatcher: Dispatcher,
    work: Arc<MemoryObjectStore>,
    fetcher: Arc<MemoryImageFetcher>,
    results: ResultWriter,
    context: StageContext,
    subjects: SubjectKeys,
}

fn bench() -> Bench {
    let broker = Arc::new(MemoryBroker::new());
    let work = Arc::new(MemoryObjectStore::new());
    let fetcher = Arc::new(MemoryImageFetcher::new());
    fetcher.insert("dog.png", PICTURE);
    fetcher.insert("data:,dog", PICTURE);
    fetcher.insert("empty.png", &b""[..]);
    let subjects = SubjectKeys {
        finders: "finders".to_owned(),
        encoders: "networks".into(),
        default_pixel_budget: PixelBudget::M0_06,
        resolutions: [(PixelBudget::M0_06, 256)].into(),
    };
    let config = DispatcherConfig { subjects: subjects.clone(), max_image_bytes: 1_000 };
    let results = ResultWriter::new(Arc::new(MemoryObjectStore::new()), broker.clone(), Clock::system(), "1.2.3");
    let cache = Arc::new(MemoryCache::new(1 << 20));
    let objects = CachedObjects::new(work.clone(), cache, &ProductsConfig::default());
    let dispatcher = Dispatcher::new(config, fetcher.clone(), objects, results.clone());
    Bench { dispatcher, work, fetcher, results, context: StageContext::for_test(broker), subjects }
}

fn job(image: &str) -> Job {
    Job { id: JobId("one".into()), ..Job::new(image.into(), "a dog") }
}

impl Bench {
    async fn run(&self, job: Job) -> Result<Outcome, Fault> {
        self.dispatcher.run(job, &self.context).await
    }

    async fn next(&self, job: Job) -> NextTask {
        match self.run(job).await.unwrap() {
            Outcome::Next(mut tasks) => tasks.remove(0),
            Outcome::Done => panic!("the job counts as done"),
        }
    }

    /// Runs the job and returns the next task, which must be of type `T`.
    async fn next_as<T: StageTask>(&self, job: Job) -> T {
        let next = self.next(job).await;
        next.read().unwrap_or_else(|| panic!("not for the {}: {}", T::STAGE, next.stage))
    }

    async fn put(&self, kind: &str, hash: ContentHash, bytes: Vec<u8>) {
        let key = ObjectKey::of_content(kind, &hash).unwrap();
        self.work.put(&key, bytes.into()).await.unwrap();
    }

    /// Stores a segmentation in the way the dispatcher and the segmenter would store it.
    async fn put_segmentation(&self, job: &Job) -> ContentHash {
        self.put(layout::IMAGES, ContentHash::of(PICTURE), PICTURE.to_vec()).await;
        let (image, cutout) = (ContentHash::of(PICTURE), ContentHash::of(b"cut-out"));
        let area = BoundingBox { left: 0, top: 0, right: 8, bottom: 8 };
        let subject = SubjectFound { image, name: None, bounding_box: area, score: None, how: FoundBy::WholeImage };
        let record = serde_json::to_vec(&Segmentation { cutout, subject }).unwrap();
        self.put(layout::SEGMENTATIONS, layout::segmentation_inputs(image, job, "finders"), record).await;
        cutout
    }
}

fn failure(result: Result<Outcome, Fault>) -> (FailureKind, String) {
    let fault = result.unwrap_err();
    assert!(fault.is_permanent(), "{fault}");
    (fault.kind().failure(), fault.to_string())
}

#[tokio::test]
async fn a_new_picture_is_stored_and_goes_to_the_segmenter() {
    let bench = bench();
    let task: SegmentTask = bench.next_as(job("dog.png")).await;
    assert_eq!(task.image, ContentHash::of(PICTURE));
    assert_eq!(task.progress.cached.get("dispatcher"), Some(&false));
    let key = ObjectKey::of_content(layout::IMAGES, &task.image).unwrap();
    assert_eq!(bench.work.get(&key, 1_000).await.unwrap().unwrap(), PICTURE);
}

#[tokio::test]
async fn the_next_task_says_by_which_settings_its_product_will_be_looked_for() {
    let bench = bench();
    let job = job("dog.png");
    assert_eq!(bench.next(job.clone()).await.settings.as_deref(), Some("finders"));
    let cutout = bench.put_segmentation(&job).await;
    bench.put(layout::CUTOUTS, cutout, b"cut-out".to_vec()).await;
    assert_eq!(bench.next(job).await.settings.as_deref(), Some("networks"));
}

#[tokio::test]
async fn a_picture_inside_the_job_does_not_travel_on() {
    let bench = bench();
    let task: SegmentTask = bench.next_as(job("data:,dog")).await;
    assert_eq!(task.job.subject.image.0, format!("sha256:{}", ContentHash::of(PICTURE)));
}

#[tokio::test]
async fn what_exists_is_skipped() {
    let bench = bench();
    let job = job("dog.png");
    let cutout = bench.put_segmentation(&job).await;
    let next = bench.next(job.clone()).await;
    assert!(next.read::<SegmentTask>().is_some(), "the cut-out itself is gone");

    bench.put(layout::CUTOUTS, cutout, b"cut-out".to_vec()).await;
    let task: EncodeTask = bench.next_as(job.clone()).await;
    assert_eq!(task.cutout, cutout);
    assert_eq!(task.progress.cached.get("segmenter"), Some(&true));

    let inputs = bench.subjects.inputs(cutout, 256);
    bench.put(layout::SUBJECTS, inputs, b"subject".to_vec()).await;
    let task: SampleTask = bench.next_as(job).await;
    assert!(task.encoded_subject.ends_with(&inputs.to_string()));
    assert_eq!(task.progress.cached.get("encoder"), Some(&true));
    assert!(task.progress.subject.is_some());
}

#[tokio::test]
async fn a_broken_record_is_made_again() {
    let bench = bench();
    let job = job("dog.png");
    let inputs = layout::segmentation_inputs(ContentHash::of(PICTURE), &job, "finders");
    bench.put(layout::SEGMENTATIONS, inputs, b"{".to_vec()).await;
    assert!(bench.next(job).await.read::<SegmentTask>().is_some());
}

#[tokio::test]
async fn a_finished_job_is_done_at_once_and_fetches_nothing() {
    let bench = bench();
    let job = job("dog.png");
    let result = JobResult::completed(&job, Vec::new(), "1.2.3", Clock::system().now());
    bench.results.commit(&job, result, &TaskMetadata::default()).await.unwrap();
    assert_eq!(bench.run(job).await.unwrap(), Outcome::Done);
    assert_eq!(bench.fetcher.fetched(), 0);
}

#[tokio::test]
async fn bad_jobs_fail_for_good_and_say_what_to_change() {
    let bench = bench();
    let (kind, _) = failure(bench.run(job("cat.png")).await);
    assert_eq!(kind, FailureKind::BadImage);

    let (kind, message) = failure(bench.run(job("empty.png")).await);
    assert_eq!(kind, FailureKind::BadImage);
    assert!(message.contains("is empty"), "{message}");

    let (kind, message) = failure(bench.run(Job { pixel_budget: Some(PixelBudget::M1), ..job("dog.png") }).await);
    assert_eq!(kind, FailureKind::Unsupported);
    assert!(message.ends_with("use one of: 0.06M"), "{message}");

    let unknown = format!("sha256:{}", ContentHash::of(b"never seen"));
    let (kind, message) = failure(bench.run(job(&unknown)).await);
    assert_eq!(kind, FailureKind::BadImage);
    assert!(message.contains("send the picture itself"), "{message}");
}

#[tokio::test]
async fn a_picture_over_the_limit_is_refused() {
    let bench = bench();
    bench.fetcher.insert("large.png", vec![0; 1_001]);
    assert_eq!(failure(bench.run(job("large.png")).await).0, FailureKind::BadImage);
}
