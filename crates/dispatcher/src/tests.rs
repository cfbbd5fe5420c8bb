//! Tests of the dispatcher with the in-memory ports.

use std::{sync::Arc, time::Duration};

use echogen_ports::{
    Cache, Fault, FaultKind, GateContent, GatePlace, MemoryBroker, MemoryCache, MemoryContentGate, MemoryImageFetcher,
    MemoryObjectStore, ObjectKey, ObjectStore, WhenUnreachable,
};
use echogen_protocol::{
    BoundingBox, ContentHash, CutOut, EncodeTask, FailureKind, FoundBy, Job, JobId, JobResult, NextTask, PixelBudget,
    SampleTask, SegmentTask, Segmentation, StageTask, SubjectArea, SubjectFound, SubjectKeys, layout,
};
use echogen_worker::{CachedObjects, Clock, Outcome, ProductsConfig, ResultWriter, Stage, StageContext, TaskMetadata};

use crate::{Dispatcher, DispatcherConfig};

const PICTURE: &[u8] = b"the bytes of a picture";

struct Bench {
    dispatcher: Dispatcher,
    work: Arc<MemoryObjectStore>,
    cache: Arc<MemoryCache>,
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
        dtypes: vec!["bf16".into(), "f32".into()],
        default_pixel_budget: PixelBudget::M0_06,
        resolutions: [(PixelBudget::M0_06, 256)].into(),
    };
    let config = DispatcherConfig { subjects: subjects.clone(), max_image_bytes: 1_000 };
    let results = ResultWriter::new(Arc::new(MemoryObjectStore::new()), broker.clone(), Clock::system(), "1.2.3");
    let cache = Arc::new(MemoryCache::new(1 << 20));
    let objects = CachedObjects::new(work.clone(), cache.clone(), &ProductsConfig::default());
    let dispatcher = Dispatcher::new(config, fetcher.clone(), objects, results.clone());
    Bench { dispatcher, work, cache, fetcher, results, context: StageContext::for_test(broker), subjects }
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

    /// Stores the picture, and its segmentation in the cache as the segmenter would.
    async fn put_segmentation(&self, job: &Job) -> CutOut {
        self.put(layout::IMAGES, ContentHash::of(PICTURE), PICTURE.to_vec()).await;
        let image = ContentHash::of(PICTURE);
        let area = BoundingBox { left: 0, top: 0, right: 8, bottom: 8 };
        let subject = SubjectFound { image, name: None, bounding_box: area, score: None, how: FoundBy::WholeImage };
        let found = Segmentation { subject, area: SubjectArea::Whole };
        self.cache_segmentation(job, serde_json::to_vec(&found).unwrap()).await;
        found.cut_out()
    }

    async fn cache_segmentation(&self, job: &Job, bytes: Vec<u8>) {
        let inputs = layout::segmentation_inputs(ContentHash::of(PICTURE), job, "finders");
        self.cache_value(&ObjectKey::of_content(layout::SEGMENTATIONS, &inputs).unwrap(), bytes).await;
    }

    async fn cache_value(&self, key: &ObjectKey, bytes: Vec<u8>) {
        self.cache.put(key.as_str(), bytes.into(), Duration::from_secs(60)).await.unwrap();
    }

    async fn has_picture(&self) -> bool {
        self.work.exists(&picture_key()).await.unwrap()
    }
}

fn picture_key() -> ObjectKey {
    ObjectKey::of_content(layout::IMAGES, &ContentHash::of(PICTURE)).unwrap()
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
    bench.put_segmentation(&job).await;
    let settings = bench.next(job).await.settings.unwrap();
    assert_eq!(settings, "networks bf16|f32");
    assert!(bench.subjects.in_dtype("f32").are_among(&settings), "an encoder on the CPU");
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
    let cut_out = bench.put_segmentation(&job).await;
    let task: EncodeTask = bench.next_as(job.clone()).await;
    assert_eq!(task.cut_out.as_ref(), Some(&cut_out));
    assert_eq!(task.progress.cached.get("segmenter"), Some(&true));

    // In each of the types in which the encoder may have computed.
    for inputs in bench.subjects.inputs(&cut_out, 256) {
        bench.put(layout::SUBJECTS, inputs, b"subject".to_vec()).await;
        let task: SampleTask = bench.next_as(job.clone()).await;
        assert!(task.encoded_subject.ends_with(&inputs.to_string()));
        assert_eq!(task.cut_out.as_ref(), Some(&cut_out), "for the case that the subject is deleted");
        assert_eq!(task.progress.cached.get("encoder"), Some(&true));
        assert!(task.progress.subject.is_some());
        bench.work.delete(&ObjectKey::new(task.encoded_subject).unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn of_a_known_subject_the_picture_is_stored_unless_it_was_lately() {
    let bench = bench();
    let job = job("data:,dog");
    let cut_out = bench.put_segmentation(&job).await;
    let subject = ObjectKey::of_content(layout::SUBJECTS, &bench.subjects.inputs(&cut_out, 256)[1]).unwrap();
    bench.cache_value(&subject, b"subject".to_vec()).await;
    bench.work.delete(&picture_key()).await.unwrap();
    bench.next_as::<SegmentTask>(job.clone()).await;
    assert!(bench.has_picture().await, "it was not noted to be stored");

    bench.work.delete(&picture_key()).await.unwrap();
    bench.next_as::<SampleTask>(job.clone()).await;
    assert!(!bench.has_picture().await, "it was stored a moment ago");

    bench.cache.forget_everything();
    bench.next(job.clone()).await;
    bench.put_segmentation(&job).await;
    bench.work.delete(&picture_key()).await.unwrap();
    bench.next_as::<SegmentTask>(job).await;
    assert!(bench.has_picture().await, "without its encoded subject it is needed");

    bench.cache.forget_everything();
    bench.next_as::<SegmentTask>(self::job(&format!("sha256:{}", ContentHash::of(PICTURE)))).await;
    assert!(bench.dispatcher.objects.was_stored(&picture_key()).await, "a look at the store is noted too");
}

#[tokio::test]
async fn a_broken_segmentation_is_made_again() {
    let bench = bench();
    let job = job("dog.png");
    bench.put(layout::IMAGES, ContentHash::of(PICTURE), PICTURE.to_vec()).await;
    bench.cache_segmentation(&job, b"{".to_vec()).await;
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

/// A dispatcher behind a gate that withholds [`PICTURE`].
fn gated(places: &[GatePlace]) -> (Bench, Arc<MemoryContentGate>) {
    let (bench, gate) = (bench(), Arc::new(MemoryContentGate::at(places).withholding(b"picture", "no pictures")));
    let dispatcher = bench.dispatcher.clone().with_gate(Some(gate.clone()));
    (Bench { dispatcher, ..bench }, gate)
}

#[tokio::test]
async fn a_picture_that_the_gate_withholds_fails_its_job_and_is_not_stored() {
    let (bench, gate) = gated(&GatePlace::ALL);
    let acme = Job { tenant: Some("acme".to_owned()), ..job("dog.png") };
    let (kind, message) = failure(bench.run(acme).await);
    assert_eq!((kind, message.as_str()), (FailureKind::Withheld, "the subject's picture is withheld: no pictures"));
    assert!(!bench.has_picture().await);
    let checked = gate.checked().remove(0);
    assert_eq!((checked.job.as_str(), checked.tenant.as_deref()), ("one", Some("acme")));
    assert_eq!(checked.content, GateContent::SubjectImage(PICTURE.into()));
    bench.fetcher.insert("cat.png", &b"of a cat"[..]);
    bench.next_as::<SegmentTask>(job("cat.png")).await;
}

#[tokio::test]
async fn a_stored_picture_is_checked_for_every_job_that_names_it() {
    let (bench, _) = gated(&[GatePlace::Subject]);
    let stored = || job(&format!("sha256:{}", ContentHash::of(PICTURE)));
    assert_eq!(failure(bench.run(stored()).await).0, FailureKind::BadImage, "what is not there cannot be checked");
    bench.put_segmentation(&stored()).await;
    assert_eq!(failure(bench.run(stored()).await).0, FailureKind::Withheld);
}

#[tokio::test]
async fn a_gate_without_a_verdict_lets_the_job_wait_and_one_for_other_places_is_not_asked() {
    let (bench, gate) = gated(&[GatePlace::Subject]);
    gate.let_away(Some(WhenUnreachable::Closed));
    assert_eq!(bench.run(job("dog.png")).await.unwrap_err().kind(), FaultKind::CircuitOpen);
    assert!(!bench.has_picture().await);
    gate.let_away(Some(WhenUnreachable::Open));
    bench.next_as::<SegmentTask>(job("dog.png")).await;
    let (bench, gate) = gated(&[GatePlace::Words, GatePlace::Result]);
    bench.next_as::<SegmentTask>(job("dog.png")).await;
    assert!(gate.checked().is_empty());
}
