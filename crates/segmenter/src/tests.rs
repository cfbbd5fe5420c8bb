//! Tests of the segmenter with the in-memory ports, real pictures and no networks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use echogen_imaging::{ImageFormat, ImageLimits, RgbImage, decode_image, encode_image};
use echogen_ports::{
    Fault, FaultKind, MemoryBroker, MemoryBudget, MemoryCache, MemoryObjectStore, ObjectKey, ObjectStore,
};
use echogen_protocol::{
    BoundingBox, ContentHash, EncodeTask, FailureKind, FoundBy, Job, JobId, MaskMode, Progress, SegmentTask, StageName,
    layout,
};
use echogen_worker::{CachedObjects, Outcome, ProductsConfig, Stage, StageContext};
use tokio::time::Instant;

use crate::{DetectError, Detector, Found, GivenBox, Segmenter};

/// Counts the calls of `detect`.
#[derive(Debug, Default)]
struct CountingDetector(AtomicUsize);

#[async_trait]
impl Detector for CountingDetector {
    async fn detect(&self, picture: Arc<RgbImage>, job: &Job, deadline: Instant) -> Result<Found, DetectError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        GivenBox.detect(picture, job, deadline).await
    }

    fn version(&self) -> String {
        GivenBox.version()
    }

    fn models(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("detector".to_owned(), "ab".to_owned())])
    }
}

struct Bench {
    segmenter: Segmenter,
    detector: Arc<CountingDetector>,
    work: Arc<MemoryObjectStore>,
    context: StageContext,
}

fn bench() -> Bench {
    let (work, detector) = (Arc::new(MemoryObjectStore::new()), Arc::new(CountingDetector::default()));
    let segmenter = process(&detector, &work, &Arc::new(MemoryCache::new(1 << 20)));
    Bench { segmenter, detector, work, context: StageContext::for_test(Arc::new(MemoryBroker::new())) }
}

/// Creates a stage as a separate process would have it, on the shared store and cache.
fn process(detector: &Arc<CountingDetector>, work: &Arc<MemoryObjectStore>, cache: &Arc<MemoryCache>) -> Segmenter {
    let config = ProductsConfig::default();
    let objects = CachedObjects::new(work.clone(), cache.clone(), &config);
    Segmenter::new(ImageLimits::default(), detector.clone(), objects, &config)
}

fn picture() -> RgbImage {
    RgbImage::from_fn(8, 6, |x, y| [x as u8 * 20, y as u8 * 20, 99].into())
}

fn job(bounding_box: Option<[u32; 4]>) -> Job {
    let mut job = Job { id: JobId("one".into()), ..Job::new("dog.png".into(), "a dog") };
    job.subject.bounding_box = bounding_box.map(|[left, top, right, bottom]| BoundingBox { left, top, right, bottom });
    job
}

impl Bench {
    async fn run(&self, job: Job, bytes: &[u8]) -> Result<EncodeTask, Fault> {
        let image = ContentHash::of(bytes);
        let key = ObjectKey::of_content(layout::IMAGES, &image).unwrap();
        self.work.put(&key, bytes.to_vec().into()).await.unwrap();
        let task = SegmentTask { job, image, progress: Progress::default() };
        match self.segmenter.run(task, &self.context).await? {
            Outcome::Next(tasks) => Ok(tasks[0].read().expect("to the encoder")),
            Outcome::Done => panic!("done too early"),
        }
    }

    async fn run_png(&self, job: Job) -> Result<EncodeTask, Fault> {
        self.run(job, &encode_image(&picture(), ImageFormat::Png, 100).unwrap()).await
    }

    async fn cutout(&self, task: &EncodeTask) -> RgbImage {
        let key = ObjectKey::of_content(layout::CUTOUTS, &task.cutout).unwrap();
        let bytes = self.work.get(&key, 1_000_000).await.unwrap().unwrap();
        assert_eq!(ContentHash::of(&bytes), task.cutout);
        decode_image(&bytes, &ImageLimits::default()).unwrap()
    }
}

#[track_caller]
fn check_failure(result: Result<EncodeTask, Fault>, expected: FailureKind, part: &str) {
    let fault = result.unwrap_err();
    assert_eq!((fault.is_permanent(), fault.kind().failure()), (true, expected), "{fault}");
    assert!(fault.to_string().contains(part), "{fault}");
}

#[tokio::test]
async fn the_box_is_kept_and_the_rest_turns_white() {
    let bench = bench();
    let task = bench.run_png(job(Some([1, 2, 5, 4]))).await.unwrap();
    let cutout = bench.cutout(&task).await;
    for (x, y, pixel) in cutout.enumerate_pixels() {
        let inside = (1..5).contains(&x) && (2..4).contains(&y);
        let expected = if inside { *picture().get_pixel(x, y) } else { [255; 3].into() };
        assert_eq!(*pixel, expected, "{x} {y}");
    }
    assert_eq!(task.progress.subject.unwrap().how, FoundBy::Job);
}

#[tokio::test]
async fn without_a_box_the_whole_picture_is_the_subject() {
    let bench = bench();
    let task = bench.run_png(job(None)).await.unwrap();
    assert_eq!(bench.cutout(&task).await, picture());
    let subject = task.progress.subject.unwrap();
    assert_eq!(subject.how, FoundBy::WholeImage);
    assert_eq!(subject.bounding_box, BoundingBox { left: 0, top: 0, right: 8, bottom: 6 });
}

#[tokio::test]
async fn the_mask_mode_none_keeps_the_background() {
    let bench = bench();
    let mut job = job(Some([1, 2, 5, 4]));
    job.subject.mask = MaskMode::None;
    let task = bench.run_png(job).await.unwrap();
    assert_eq!(bench.cutout(&task).await, picture());
}

#[tokio::test]
async fn many_prompts_cut_out_once() {
    let bench = bench();
    let first = bench.run_png(job(None)).await.unwrap();
    let second = bench.run_png(Job { prompt: "a dog at sea".into(), ..job(None) }).await.unwrap();
    assert_eq!(first.cutout, second.cutout);
    assert_eq!(bench.detector.0.load(Ordering::Relaxed), 1);
    assert_eq!(first.progress.cached.get("segmenter"), Some(&false));
    assert_eq!(second.progress.cached.get("segmenter"), Some(&true));
}

#[tokio::test]
async fn other_finder_settings_than_the_senders_are_refused_where_they_matter() {
    let mut bench = bench();
    bench.context.metadata.settings = Some("detector=ab threshold 0.5".to_owned());
    let fault = bench.run_png(job(None)).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Refused, "{fault}");
    assert!(fault.to_string().contains("\"detector=ab threshold 0.5\" there, none here"), "it names both: {fault}");
    assert_eq!(bench.detector.0.load(Ordering::Relaxed), 0, "nothing is made in vain");
    bench.run_png(job(Some([1, 2, 5, 4]))).await.expect("a given box is the same by any settings");
    bench.context.metadata.settings = Some(GivenBox.version());
    bench.run_png(job(None)).await.expect("the same settings");
    bench.context.metadata.settings = None;
    bench.run_png(job(None)).await.expect("a sender of an earlier version does not say");
}

#[tokio::test]
async fn a_deleted_cutout_is_made_again() {
    let bench = bench();
    let first = bench.run_png(job(None)).await.unwrap();
    bench.work.delete(&ObjectKey::of_content(layout::CUTOUTS, &first.cutout).unwrap()).await.unwrap();
    let second = bench.run_png(job(None)).await.unwrap();
    assert_eq!(second.progress.cached.get("segmenter"), Some(&false));
    bench.cutout(&second).await;
}

#[tokio::test]
async fn boxes_that_cannot_be_are_refused_with_numbers() {
    let bench = bench();
    check_failure(bench.run_png(job(Some([0, 0, 9, 6]))).await, FailureKind::BadImage, "outside the picture of 8 x 6");
    check_failure(bench.run_png(job(Some([3, 0, 3, 6]))).await, FailureKind::BadImage, "is empty");
    let mut outside = job(Some([0, 0, 9, 6]));
    outside.subject.mask = MaskMode::None;
    check_failure(bench.run_png(outside).await, FailureKind::BadImage, "outside the picture");
}

#[tokio::test]
async fn what_is_no_picture_fails_for_good() {
    let bench = bench();
    check_failure(bench.run(job(None), b"hello").await, FailureKind::BadImage, "");
    let png = encode_image(&picture(), ImageFormat::Png, 100).unwrap();
    check_failure(bench.run(job(None), &png[..png.len() / 2]).await, FailureKind::BadImage, "png");
    let mut sam = job(None);
    sam.subject.mask = MaskMode::Sam;
    check_failure(bench.run(sam, &png).await, FailureKind::Unsupported, "use \"box\" or \"none\"");
}

#[tokio::test]
async fn a_picture_waits_for_memory_and_all_get_their_turn() {
    let mut bench = bench();
    bench.segmenter.memory = MemoryBudget::new(1);
    let permit = bench.segmenter.memory.acquire(1).await;
    let wait = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(wait, bench.run_png(job(None))).await.is_err());
    assert_eq!(bench.detector.0.load(Ordering::Relaxed), 0);
    drop(permit);
    let png = |level: u8| encode_image(&RgbImage::from_pixel(8, 6, [level; 3].into()), ImageFormat::Png, 100).unwrap();
    let (one, two, three) = (png(1), png(2), png(3));
    let (one, two, three) =
        tokio::join!(bench.run(job(None), &one), bench.run(job(None), &two), bench.run(job(None), &three));
    for task in [one, two, three] {
        bench.cutout(&task.unwrap()).await;
    }
    check_failure(bench.run(job(None), b"hello").await, FailureKind::BadImage, "not a picture");
}

/// Four processes, each with its own stage and its own in-process single flight, on one store and one cache.
#[tokio::test(start_paused = true)]
async fn two_hundred_jobs_in_four_processes_at_once_cut_out_once() {
    let bench = bench();
    let bytes = encode_image(&picture(), ImageFormat::Png, 100).unwrap();
    let image = ContentHash::of(&bytes);
    bench.work.put(&ObjectKey::of_content(layout::IMAGES, &image).unwrap(), bytes.into()).await.unwrap();
    let cache = Arc::new(MemoryCache::new(1 << 20));
    let stage = || process(&bench.detector, &bench.work, &cache);
    let stages: Vec<Arc<Segmenter>> = (0..4).map(|_| Arc::new(stage())).collect();
    let mut jobs = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (stage, context) = (stages[number % 4].clone(), bench.context.clone());
        let job = Job { id: JobId(number.to_string()), ..job(None) };
        // For all jobs but the first, the dispatcher found the picture in the store.
        let mut progress = Progress::default();
        progress.note(StageName::Dispatcher, 0.1, number > 0);
        let task = SegmentTask { job, image, progress };
        jobs.spawn(async move { stage.run(task, &context).await });
    }
    let outcomes = jobs.join_all().await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(bench.detector.0.load(Ordering::Relaxed), 1);
}
