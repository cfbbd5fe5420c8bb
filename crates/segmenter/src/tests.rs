//! Tests of the segmenter with the in-memory ports, real pictures and no networks.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use echogen_imaging::{ImageFormat, ImageLimits, RgbImage, SubjectMask, encode_image, white_outside_mask};
use echogen_ports::{
    Fault, FaultKind, MemoryBroker, MemoryBudget, MemoryCache, MemoryObjectStore, ObjectKey, ObjectStore,
};
use echogen_protocol::{
    BoundingBox, ContentHash, EncodeTask, FailureKind, FoundBy, Job, JobId, MaskMode, Progress, SegmentTask, StageName,
    SubjectArea, layout, limits,
};
use echogen_worker::{CachedObjects, Outcome, ProductsConfig, Stage, StageContext};
use tokio::time::Instant;

use crate::{DetectError, Detector, Found, GivenBox, Segmenter, area_of};

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
    cache: Arc<MemoryCache>,
    context: StageContext,
}

fn bench() -> Bench {
    let (work, detector) = (Arc::new(MemoryObjectStore::new()), Arc::new(CountingDetector::default()));
    let cache = Arc::new(MemoryCache::new(1 << 20));
    let segmenter = process(&detector, &work, &cache);
    Bench { segmenter, detector, work, cache, context: StageContext::for_test(Arc::new(MemoryBroker::new())) }
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

    fn detected(&self) -> usize {
        self.detector.0.load(Ordering::Relaxed)
    }
}

fn area(task: &EncodeTask) -> &SubjectArea {
    &task.cut_out.as_ref().expect("it says what to encode").area
}

#[track_caller]
fn check_failure(result: Result<EncodeTask, Fault>, expected: FailureKind, part: &str) {
    let fault = result.unwrap_err();
    assert_eq!((fault.is_permanent(), fault.kind().failure()), (true, expected), "{fault}");
    assert!(fault.to_string().contains(part), "{fault}");
}

#[tokio::test]
async fn a_box_is_kept() {
    let bench = bench();
    let task = bench.run_png(job(Some([1, 2, 5, 4]))).await.unwrap();
    assert_eq!(*area(&task), SubjectArea::Box(BoundingBox { left: 1, top: 2, right: 5, bottom: 4 }));
    assert_eq!(task.progress.subject.unwrap().how, FoundBy::Job);
    let task = bench.run_png(job(Some([0, 0, 8, 6]))).await.unwrap();
    assert_eq!(*area(&task), SubjectArea::Whole, "one area has one name");
}

#[tokio::test]
async fn without_a_box_the_whole_picture_is_the_subject() {
    let bench = bench();
    let task = bench.run_png(job(None)).await.unwrap();
    assert_eq!(*area(&task), SubjectArea::Whole);
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
    assert_eq!(*area(&task), SubjectArea::Whole);
}

#[tokio::test]
async fn many_prompts_segment_once() {
    let bench = bench();
    let first = bench.run_png(job(None)).await.unwrap();
    let second = bench.run_png(Job { prompt: "a dog at sea".into(), ..job(None) }).await.unwrap();
    assert_eq!(first.cut_out, second.cut_out);
    assert_eq!(bench.detected(), 1);
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
    assert_eq!(bench.detected(), 0, "nothing is made in vain");
    bench.run_png(job(Some([1, 2, 5, 4]))).await.expect("a given box is the same by any settings");
    bench.context.metadata.settings = Some(GivenBox.version());
    bench.run_png(job(None)).await.expect("the same settings");
    bench.context.metadata.settings = None;
    bench.run_png(job(None)).await.expect("a sender of an earlier version does not say");
}

#[tokio::test]
async fn a_segmentation_that_the_cache_lost_is_made_again() {
    let bench = bench();
    let first = bench.run_png(job(None)).await.unwrap();
    bench.cache.forget_everything();
    let second = bench.run_png(job(None)).await.unwrap();
    assert_eq!(second.progress.cached.get("segmenter"), Some(&false));
    assert_eq!((second.cut_out, bench.detected()), (first.cut_out, 2));
}

#[tokio::test]
async fn each_job_has_its_own_name_for_what_they_share() {
    let bench = bench();
    let named = |name: &str| {
        let mut job = job(Some([1, 2, 5, 4]));
        job.subject.name = Some(name.to_owned());
        job
    };
    let (dog, puppy) = (bench.run_png(named("dog")).await.unwrap(), bench.run_png(named("puppy")).await.unwrap());
    assert_eq!((dog.cut_out, bench.detected()), (puppy.cut_out, 1));
    assert_eq!(puppy.progress.subject.unwrap().name.as_deref(), Some("puppy"));
}

/// Every second pixel of so many rows, and dots in all others.
fn ragged(width: u32, height: u32, rows: u32) -> SubjectMask {
    let inside = |at: u32| (at / width < rows && at.is_multiple_of(2)) || at % width == 40;
    SubjectMask::new(width, height, (0..width * height).map(inside).collect()).unwrap()
}

#[test]
fn an_outline_is_kept_as_it_is_or_with_less_detail_and_always_contains_the_subject() {
    let (width, height) = (700, 400);
    let picture = RgbImage::from_pixel(width, height, [1, 2, 3].into());
    let whole = BoundingBox { left: 0, top: 0, right: width, bottom: height };
    for (rows, is_exact) in [(1, true), (90, true), (400, false)] {
        let mask = ragged(width, height, rows);
        let area = area_of(&picture, whole, Some(mask.clone()), MaskMode::Sam).unwrap();
        assert!(serde_json::to_vec(&area).unwrap().len() < 2 * limits::MAX_MASK_BYTES);
        let SubjectArea::Mask(runs) = area else { panic!("{area:?}") };
        let (mut painted, expected) = (picture.clone(), white_outside_mask(&picture, &mask));
        echogen_imaging::paint_outside_runs_white(&mut painted, runs.dimensions(), runs.runs()).unwrap();
        assert_eq!(painted == expected, is_exact, "{rows} rows");
        let kept = painted
            .pixels()
            .zip(expected.pixels())
            .all(|(painted, expected)| expected.0 == [255; 3] || painted == expected);
        assert!(kept, "no pixel of the subject is lost");
    }
    // Dots so far from each other that no gap between them is closed.
    let far = |at: u32| at.is_multiple_of(3);
    let picture = RgbImage::new(3, 70_000);
    let mask = SubjectMask::new(3, 70_000, (0..210_000).map(far).collect()).unwrap();
    let inner = BoundingBox { left: 0, top: 0, right: 1, bottom: 70_000 };
    let area = area_of(&picture, inner, Some(mask), MaskMode::Sam).unwrap();
    assert_eq!(area, SubjectArea::Box(inner), "the box contains the outline");
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
    assert_eq!(bench.detected(), 0);
    drop(permit);
    let png = |level: u8| encode_image(&RgbImage::from_pixel(8, 6, [level; 3].into()), ImageFormat::Png, 100).unwrap();
    let (one, two, three) = (png(1), png(2), png(3));
    let (one, two, three) =
        tokio::join!(bench.run(job(None), &one), bench.run(job(None), &two), bench.run(job(None), &three));
    assert!([one, two, three].iter().all(Result::is_ok));
    check_failure(bench.run(job(None), b"hello").await, FailureKind::BadImage, "not a picture");
}

/// Four processes, each with its own stage and its own in-process single flight, on one store and one cache.
#[tokio::test(start_paused = true)]
async fn two_hundred_jobs_in_four_processes_at_once_segment_once() {
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
    assert_eq!(bench.detected(), 1);
}
