//! Tests of the encoder stage with the in-memory ports and an encoder that records its inputs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use echogen_imaging::{ImageFormat, ImageLimits, PixelBox, RgbImage, SubjectMask, decode_image, encode_image};
use echogen_ports::{
    Cache, Fault, FaultKind, MemoryBroker, MemoryBudget, MemoryCache, MemoryObjectStore, ObjectKey, ObjectStore,
};
use echogen_protocol::{
    BoundingBox, ContentHash, CutOut, EncodeTask, FoundBy, Job, JobId, MaskRuns, NextTask, PixelBudget, Progress,
    SampleTask, SegmentTask, StageName, SubjectArea, SubjectFound, SubjectKeys, layout,
};
use echogen_worker::{CachedObjects, Outcome, ProductsConfig, Stage, StageContext};
use tokio::time::Instant;

use crate::{EncodeError, Encoder, SubjectEncoder};

#[derive(Debug, Default)]
struct FakeEncoder {
    runs: AtomicUsize,
    /// The last picture.
    seen: Mutex<Option<Arc<RgbImage>>>,
    /// The type in which it says it computes, if not f32.
    dtype: Option<&'static str>,
}

#[async_trait]
impl SubjectEncoder for FakeEncoder {
    async fn encode(&self, cut_out: Arc<RgbImage>, resolution: u32, _: Instant) -> Result<Vec<u8>, EncodeError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        *self.seen.lock().unwrap() = Some(cut_out.clone());
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        match cut_out.height() {
            1 => Err(EncodeError::BadPicture("picture is too flat; send a higher one".into())),
            2 => Err(EncodeError::Failed("out of memory".into())),
            height => Ok(format!("{} x {height} at {resolution}", cut_out.width()).into_bytes()),
        }
    }

    fn dtype(&self) -> &str {
        self.dtype.unwrap_or("f32")
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
    bench_with(FakeEncoder::default())
}

fn bench_with(encoder: FakeEncoder) -> Bench {
    let encoder = Arc::new(encoder);
    let (work, cache) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryCache::new(1_000_000)));
    let keys = SubjectKeys {
        finders: String::new(),
        encoders: "encoder".into(),
        dtypes: vec!["f32".into(), "bf16".into()],
        default_pixel_budget: PixelBudget::M0_06,
        resolutions: [(PixelBudget::M0_06, 256), (PixelBudget::M1, 512)].into(),
    };
    let stage = process(&keys, &encoder, &work, &cache);
    Bench { encoder, stage, work, cache, context: StageContext::for_test(Arc::new(MemoryBroker::new())) }
}

/// Creates a stage as a separate process would have it, on the shared store and cache.
fn process(
    keys: &SubjectKeys,
    encoder: &Arc<FakeEncoder>,
    work: &Arc<MemoryObjectStore>,
    cache: &Arc<MemoryCache>,
) -> Encoder {
    let config = ProductsConfig::default();
    let objects = CachedObjects::new(work.clone(), cache.clone(), &config);
    Encoder::new(keys, ImageLimits::default(), encoder.clone(), objects, &config)
}

fn job(id: &str) -> Job {
    Job { id: JobId(id.into()), ..Job::new("dog.png".into(), format!("a dog, {id}")) }
}

impl Bench {
    /// Stores a picture and keeps all of it.
    async fn put_whole(&self, width: u32, height: u32) -> CutOut {
        CutOut { image: self.put(&RgbImage::new(width, height)).await, area: SubjectArea::Whole }
    }

    async fn put(&self, picture: &RgbImage) -> ContentHash {
        let png = encode_image(picture, ImageFormat::Png, 100).unwrap();
        let image = ContentHash::of(&png);
        self.work.put(&ObjectKey::of_content(layout::IMAGES, &image).unwrap(), png.into()).await.unwrap();
        image
    }

    async fn run(&self, job: Job, cut_out: &CutOut) -> Result<SampleTask, Fault> {
        let task = EncodeTask::new(job, cut_out.clone(), Progress::default());
        Ok(self.outcome(task).await?.read().expect("to the sampler"))
    }

    async fn outcome(&self, task: EncodeTask) -> Result<NextTask, Fault> {
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
    let cut_out = bench.put_whole(8, 6).await;
    let task = bench.run(job("one"), &cut_out).await.unwrap();
    let key = ObjectKey::new(task.encoded_subject.clone()).unwrap();
    assert_eq!(bench.work.get(&key, 1_000).await.unwrap().unwrap(), "8 x 6 at 256");
    assert_eq!(bench.cache.get(key.as_str()).await.unwrap().unwrap(), "8 x 6 at 256");
    assert_eq!(task.progress.cached.get("encoder"), Some(&false));
    assert_eq!(task.progress.models.get("encoder").map(String::as_str), Some("abc"));
}

#[tokio::test]
async fn many_prompts_at_the_same_moment_encode_once() {
    let bench = bench();
    let cut_out = bench.put_whole(8, 6).await;
    let (first, second, third) = tokio::join!(
        bench.run(job("one"), &cut_out),
        bench.run(job("two"), &cut_out),
        bench.run(job("three"), &cut_out)
    );
    assert_eq!(bench.runs(), 1);
    let cached = [first, second, third].map(|task| *task.unwrap().progress.cached.get("encoder").unwrap());
    assert_eq!(cached.iter().filter(|cached| !**cached).count(), 1);
}

#[tokio::test]
async fn a_cut_out_waits_for_memory_and_all_get_their_turn() {
    let mut bench = bench();
    bench.stage.memory = MemoryBudget::new(1);
    let (low, middle, high) = (bench.put_whole(8, 6).await, bench.put_whole(8, 7).await, bench.put_whole(8, 8).await);
    let permit = bench.stage.memory.acquire(1).await;
    let wait = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(wait, bench.run(job("none"), &low)).await.is_err());
    assert_eq!(bench.runs(), 0);
    drop(permit);
    let (one, two, three) =
        tokio::join!(bench.run(job("one"), &low), bench.run(job("two"), &middle), bench.run(job("three"), &high));
    assert!([one, two, three].iter().all(Result::is_ok));
    assert_eq!(bench.runs(), 3);
}

/// Four processes, each with its own stage and its own in-process single flight, on one store and one cache.
#[tokio::test(start_paused = true)]
async fn two_hundred_jobs_in_four_processes_at_once_encode_once() {
    let first = bench();
    let cut_out = first.put_whole(8, 6).await;
    let stage = || process(&first.stage.keys, &first.encoder, &first.work, &first.cache);
    let stages: Vec<Arc<Encoder>> = (0..4).map(|_| Arc::new(stage())).collect();
    let mut jobs = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (stage, context) = (stages[number % 4].clone(), first.context.clone());
        // For all jobs but the first, the dispatcher found the picture in the store.
        let mut progress = Progress::default();
        progress.note(StageName::Dispatcher, 0.1, number > 0);
        let task = EncodeTask::new(job(&number.to_string()), cut_out.clone(), progress);
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
    let cut_out = bench.put_whole(8, 6).await;
    let first = bench.run(job("one"), &cut_out).await.unwrap();
    let second = bench.run(job("two"), &cut_out).await.unwrap();
    assert_eq!(first.encoded_subject, second.encoded_subject);
    assert_eq!(second.progress.cached.get("encoder"), Some(&true));
    assert_eq!(bench.runs(), 1);
    let large = Job { pixel_budget: Some(PixelBudget::M1), ..job("three") };
    let third = bench.run(large, &cut_out).await.unwrap();
    assert_ne!(first.encoded_subject, third.encoded_subject);
    assert_eq!(bench.runs(), 2);
}

#[tokio::test]
async fn other_networks_than_the_senders_are_refused() {
    let mut bench = bench();
    let cut_out = bench.put_whole(8, 6).await;
    bench.context.metadata.settings = Some("others".to_owned());
    let fault = bench.run(job("one"), &cut_out).await.unwrap_err();
    assert_eq!((fault.kind(), bench.runs()), (FaultKind::Refused, 0), "{fault}");
    assert!(fault.to_string().contains("\"others\" there") && fault.to_string().contains(" here"), "{fault}");
    bench.context.metadata.settings = Some("encoder bf16".to_owned());
    let fault = bench.run(job("one"), &cut_out).await.unwrap_err();
    assert!(fault.to_string().contains("\"encoder f32\" here"), "another type: {fault}");
    for settings in ["encoder f32", "encoder bf16|f32"] {
        bench.context.metadata.settings = Some(settings.to_owned());
        bench.run(job("one"), &cut_out).await.expect("the sender finds what is made");
    }
}

#[tokio::test]
async fn encoders_of_two_types_share_nothing() {
    let (single, mut half) = (bench(), bench_with(FakeEncoder { dtype: Some("bf16"), ..FakeEncoder::default() }));
    let cut_out = single.put_whole(8, 6).await;
    let keys = half.stage.keys.clone();
    half.stage = process(&keys, &half.encoder, &single.work, &single.cache);
    let (one, two) = (single.run(job("one"), &cut_out).await.unwrap(), half.run(job("two"), &cut_out).await.unwrap());
    assert_ne!(one.encoded_subject, two.encoded_subject);
    assert_eq!((single.runs(), half.runs()), (1, 1));
}

/// The cut-out as version 0.1.0 made it: painted by the segmenter, stored as PNG, read by the encoder.
fn stored_cut_out(picture: &RgbImage, area: Option<PixelBox>, mask: Option<&SubjectMask>) -> RgbImage {
    let painted = match (area, mask) {
        (_, Some(mask)) => echogen_imaging::white_outside_mask(picture, mask),
        (Some(area), None) => echogen_imaging::white_outside(picture, area).unwrap(),
        (None, None) => picture.clone(),
    };
    let png = encode_image(&painted, ImageFormat::Png, 100).unwrap();
    decode_image(&png, &ImageLimits::default()).unwrap()
}

#[tokio::test]
async fn the_networks_see_the_pixels_of_a_stored_cut_out() {
    let bench = bench();
    let (width, height) = (31, 17);
    let picture = RgbImage::from_fn(width, height, |x, y| [(x * 8) as u8, (y * 15) as u8, (x * y) as u8].into());
    let image = bench.put(&picture).await;
    let (left, top, right, bottom) = (3, 2, 20, 11);
    let area = PixelBox { left, top, right, bottom };
    let blob = |at: u32| ((at % width).abs_diff(14) + (at / width).abs_diff(8)) < 8 || at % 13 == 5;
    let mask = SubjectMask::new(width, height, (0..width * height).map(blob).collect()).unwrap();
    let runs = MaskRuns::new(width, height, mask.runs()).unwrap();
    for (area, expected) in [
        (SubjectArea::Whole, stored_cut_out(&picture, None, None)),
        (SubjectArea::Box(BoundingBox { left, top, right, bottom }), stored_cut_out(&picture, Some(area), None)),
        (SubjectArea::Mask(runs), stored_cut_out(&picture, Some(area), Some(&mask))),
    ] {
        let cut_out = CutOut { image, area };
        bench.run(job("one"), &cut_out).await.unwrap();
        let seen = bench.encoder.seen.lock().unwrap().take().unwrap();
        assert_eq!(*seen, expected, "{cut_out:?}");
    }
    assert_eq!(bench.runs(), 3, "each has a key of its own");
}

#[tokio::test]
async fn an_area_that_does_not_fit_its_picture_fails_for_good() {
    let bench = bench();
    let image = bench.put(&RgbImage::new(8, 6)).await;
    let area = BoundingBox { left: 0, top: 0, right: 9, bottom: 6 };
    let outside = CutOut { image, area: SubjectArea::Box(area) };
    let error = bench.run(job("one"), &outside).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::BadImage, "{error}");
    let other = CutOut { image, area: SubjectArea::Mask(MaskRuns::new(6, 8, vec![40, 8]).unwrap()) };
    let error = bench.run(job("one"), &other).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::BadImage, "{error}");
}

#[tokio::test]
async fn failures_keep_their_kind() {
    let bench = bench();
    let flat = bench.put_whole(8, 1).await;
    let error = bench.run(job("one"), &flat).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::BadImage, "{error}");
    let heavy = bench.put_whole(8, 2).await;
    let error = bench.run(job("one"), &heavy).await.unwrap_err();
    assert!(!error.is_permanent());
    assert_eq!(error.to_string(), "the subject encoder failed: out of memory");
    let unknown = Job { pixel_budget: Some(PixelBudget::M0_25), ..job("one") };
    let error = bench.run(unknown, &heavy).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::Unsupported, "{error}");
}

#[tokio::test]
async fn a_task_of_an_earlier_version_goes_back_to_the_segmenter() {
    let bench = bench();
    let image = ContentHash::of(b"picture");
    let area = BoundingBox { left: 0, top: 0, right: 1, bottom: 1 };
    let subject = SubjectFound { image, name: None, bounding_box: area, score: None, how: FoundBy::WholeImage };
    let progress = Progress { subject: Some(subject), ..Progress::default() };
    let cutout = Some(ContentHash::of(b"a stored cut-out"));
    let task = EncodeTask { job: job("one"), cutout, cut_out: None, progress };
    let next = bench.outcome(task.clone()).await.unwrap();
    assert!(next.read().is_some_and(|task: SegmentTask| task.image == image));
    let error = bench.outcome(EncodeTask { progress: Progress::default(), ..task }).await.unwrap_err();
    assert!(error.to_string().contains("run the job again"), "without a picture there is no way back: {error}");
}

#[tokio::test]
async fn a_picture_that_is_gone_is_an_error_that_says_so() {
    let bench = bench();
    let gone = CutOut { image: ContentHash::of(b"gone"), area: SubjectArea::Whole };
    let error = bench.run(job("one"), &gone).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::NotFound, "{error}");
    assert!(error.to_string().contains("run the job again"), "{error}");
}
