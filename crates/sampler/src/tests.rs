//! Tests of the sampler stage with the in-memory ports and a sampler that paints its seed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use echogen_imaging::{ImageFormat, ImageLimits, RgbImage, decode_image, encode_image};
use echogen_ports::{
    Broker, Cache, FaultKind, GatePlace, MemoryBroker, MemoryCache, MemoryContentGate, MemoryObjectStore, ObjectKey,
    ObjectStore, WhenUnreachable,
};
use echogen_protocol::{
    BoundingBox, ContentHash, CutOut, EncodeTask, EventKind, FoundBy, Job, JobId, JobStatus, Lane, NotifyTask,
    OutputFormat, Parameters, Progress, QueueName, Safety, SafetyVerdict, SampleTask, Seeds, SegmentTask, StageName,
    StageTask, SubjectArea, SubjectFound, WithheldImage,
};
use echogen_testkit::{FailFirst, parameters};
use echogen_worker::{CachedObjects, Clock, Outcome, ProductsConfig, ResultWriter, Stage, StageContext};

use tokio::{sync::Notify, time::Instant};

use crate::{
    ImageSampler, Made, Previews, SampleError, SampleRequest, Sampled, Sampler, SamplerConfig, ScaleDone, Step,
};

#[derive(Debug, Default)]
struct FakeSampler {
    runs: AtomicUsize,
    /// After so many pictures a request fails; 0 for none.
    stops_after: AtomicUsize,
    /// If there is one, a request waits for it between two batches.
    next_turn: Mutex<Option<Arc<Notify>>>,
    /// If there is one, a request with previews waits for it before it sends its pictures.
    previewed: Mutex<Option<Arc<Notify>>>,
    /// The requests with previews.
    with_previews: AtomicUsize,
    /// The seeds of each request.
    asked: Mutex<Vec<Vec<u64>>>,
}

#[async_trait]
impl ImageSampler for FakeSampler {
    fn plan(&self, job: &Job) -> Result<Parameters, SampleError> {
        if job.prompt == "impossible" {
            return Err(SampleError::Unsupported("prompt: is impossible; ask for less".into()));
        }
        Ok(parameters(job, "paint", 4))
    }

    async fn sample(&self, request: SampleRequest) -> Result<Sampled, SampleError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.asked.lock().unwrap().push(request.seeds.clone());
        for done in 1..=2 {
            let step = Step::Scale(ScaleDone { done, total: 2 });
            request.progress.send(step).map_err(|error| SampleError::Failed(error.into()))?;
            tokio::task::yield_now().await;
        }
        let turn = self.next_turn.lock().unwrap().clone();
        if let Some(turn) = turn {
            request.report(Step::Waits);
            turn.notified().await;
            request.report(Step::Scale(ScaleDone { done: 1, total: 2 }));
            tokio::task::yield_now().await;
        }
        if request.subject.is_empty() {
            return Err(SampleError::Failed("out of memory".into()));
        }
        if let Some(wanted) = &request.previews {
            self.with_previews.fetch_add(1, Ordering::Relaxed);
            let images = (0..request.seeds.len()).map(|index| (index, RgbImage::new(1_000, 500))).collect();
            let previews = Previews { progress: ScaleDone { done: 1, total: 2 }, scale: 1, images };
            wanted.made.try_send(previews).ok();
            let previewed = self.previewed.lock().unwrap().clone();
            if let Some(previewed) = previewed {
                previewed.notified().await;
            }
        }
        for (index, seed) in request.seeds.iter().enumerate() {
            let image = RgbImage::from_pixel(4, 4, [*seed as u8, 0, 0].into());
            request.deliver(Made { index, image, device_time: Duration::from_millis(250) });
            if self.stops_after.load(Ordering::Relaxed) == index + 1 {
                return Err(SampleError::Failed("stopped".into()));
            }
        }
        Ok(Sampled { timings: [("text".to_owned(), 0.5)].into() })
    }

    fn models(&self) -> BTreeMap<String, String> {
        [("brush".to_owned(), "abc".to_owned())].into()
    }
}

struct Bench {
    sampler: Arc<FakeSampler>,
    stage: Sampler,
    broker: Arc<MemoryBroker>,
    work: Arc<MemoryObjectStore>,
    cache: Arc<MemoryCache>,
    pictures: Arc<MemoryObjectStore>,
    results: ResultWriter,
    context: StageContext,
}

async fn bench() -> Bench {
    bench_with(&SamplerConfig { scale_events: true, ..SamplerConfig::default() }).await
}

async fn bench_with(config: &SamplerConfig) -> Bench {
    let sampler = Arc::new(FakeSampler::default());
    let broker = Arc::new(MemoryBroker::new());
    let (work, pictures) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryObjectStore::new()));
    let cache = Arc::new(MemoryCache::new(1_000_000));
    let results = ResultWriter::new(pictures.clone(), broker.clone(), Clock::system(), "1.2.3");
    let objects = CachedObjects::new(work.clone(), cache.clone(), &ProductsConfig::default());
    let stage = Sampler::new(sampler.clone(), objects, pictures.clone(), results.clone(), config);
    work.put(&key("subjects/dog"), "a dog".into()).await.unwrap();
    let context = StageContext::for_test(broker.clone());
    Bench { sampler, stage, broker, work, cache, pictures, results, context }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn job() -> Job {
    let seeds = Seeds::List(vec![7, 9]);
    Job { id: JobId("one".into()), seeds, ..Job::new("dog.png".into(), "a dog") }
}

fn task(job: Job) -> SampleTask {
    let (encoded_subject, progress) = ("subjects/dog".into(), Progress::default());
    SampleTask { job, encoded_subject, cut_out: Some(cut_out()), progress }
}

fn cut_out() -> CutOut {
    CutOut { image: ContentHash::of(b"picture"), area: SubjectArea::Whole }
}

#[tokio::test]
async fn pictures_result_and_event_come_out() {
    let bench = bench().await;
    let mut events = bench.broker.subscribe("job").await.unwrap();
    assert_eq!(bench.stage.run(task(job()), &bench.context).await.unwrap(), Outcome::Done);

    let result = bench.results.find(&job()).await.unwrap().unwrap();
    assert_eq!(result.images.iter().map(|image| image.seed).collect::<Vec<_>>(), [7, 9]);
    assert_eq!(result.models.get("brush").map(String::as_str), Some("abc"));
    assert_eq!(result.timings.get("sampler.text"), Some(&0.5));
    assert_eq!(result.cached.get("sampler"), Some(&false));
    for image in &result.images {
        let bytes = bench.pictures.get(&key(&image.key), 10_000).await.unwrap().unwrap();
        assert_eq!(ContentHash::of(&bytes), image.sha256);
        let picture = decode_image(&bytes, &ImageLimits::default()).unwrap();
        assert_eq!(u64::from(picture.get_pixel(0, 0).0[0]), image.seed);
    }

    for _ in 0..2 {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap().unwrap();
        assert_eq!(event.to_job().unwrap().kind, EventKind::Sampling);
    }
    let mut ends = bench.broker.consume(&QueueName::of(StageName::Notifier, Lane::default()), 1).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), ends.receive()).await.unwrap().unwrap().unwrap();
    assert_eq!(NotifyTask::parse(&end.message.body).unwrap().event.kind, EventKind::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_its_next_batch_takes_no_time_of_its_attempt() {
    let bench = bench().await;
    let (turn, limit) = (Arc::new(Notify::new()), bench.context.time_limit.clone());
    *bench.sampler.next_turn.lock().unwrap() = Some(turn.clone());
    let hours = |hours: u64| Instant::now() + Duration::from_secs(hours * 3_600);
    let until = async |is_running: bool| {
        for _ in 0..1_000 {
            if (limit.until() < hours(2)) == is_running {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the limit runs: {}", !is_running);
    };
    let waiting = async {
        until(false).await;
        turn.notify_one();
        until(true).await;
    };
    let (outcome, ()) = tokio::join!(bench.stage.run(task(job()), &bench.context), waiting);
    assert_eq!(outcome.unwrap(), Outcome::Done);
}

#[tokio::test]
async fn previews_are_kept_small_and_named_in_an_event_of_their_scale() {
    let bench = bench_with(&SamplerConfig::default()).await;
    let previewed = Arc::new(Notify::new());
    *bench.sampler.previewed.lock().unwrap() = Some(Arc::clone(&previewed));
    let mut events = bench.broker.subscribe("job").await.unwrap();
    let job = Job { previews: 1, ..job() };
    let heard = async {
        let mut heard = Vec::new();
        for _ in 0..2 {
            heard.push(events.next().await.unwrap().to_job().unwrap());
        }
        previewed.notify_one();
        heard
    };
    let (outcome, heard) = tokio::join!(bench.stage.run(task(job.clone()), &bench.context), heard);
    assert_eq!(outcome.unwrap(), Outcome::Done);
    assert_eq!((heard[0].id.as_str(), heard[1].id.as_str()), ("one/sampling/1", "one/sampling/1/previews"));
    assert!(heard[0].data.get("previews").is_none(), "{heard:?}");
    let names = serde_json::json!([{ "image": 0, "scale": 1 }, { "image": 1, "scale": 1 }]);
    assert_eq!(heard[1].data, serde_json::json!({ "scale": 1, "scales": 2, "previews": names }));
    for key in ["previews/one/0/1", "previews/one/0", "previews/one/1/1", "previews/one/1"] {
        let bytes = bench.cache.get(key).await.unwrap().unwrap();
        assert!(bytes.starts_with(&[0xff, 0xd8]), "a JPEG");
        assert_eq!(decode_image(&bytes, &ImageLimits::default()).unwrap().dimensions(), (256, 128));
    }
    let usage = bench.results.find(&job).await.unwrap().unwrap().usage.unwrap();
    assert_eq!((usage.images, usage.previews, usage.device_seconds), (2, 2, 0.5));
    assert!((usage.megapixels - 0.000_032).abs() < 1e-12, "{usage:?}");
}

/// A cache that is away.
async fn without_cache(config: &SamplerConfig) -> Bench {
    let bench = bench_with(config).await;
    let cache = Arc::new(FailFirst::new(MemoryCache::new(1_000_000), u32::MAX));
    let objects = CachedObjects::new(bench.work.clone(), cache, &ProductsConfig::default());
    let stage = Sampler::new(bench.sampler.clone(), objects, bench.pictures.clone(), bench.results.clone(), config);
    Bench { stage, ..bench }
}

#[tokio::test]
async fn a_job_completes_without_the_previews_that_nobody_keeps_or_that_come_too_late() {
    for bench in [bench().await, without_cache(&SamplerConfig::default()).await] {
        let job = Job { previews: 16, ..job() };
        assert_eq!(bench.stage.run(task(job.clone()), &bench.context).await.unwrap(), Outcome::Done);
        let result = bench.results.find(&job).await.unwrap().unwrap();
        assert_eq!((result.images.len(), result.usage.unwrap().images), (2, 2));
    }
}

#[tokio::test]
async fn a_job_with_a_result_is_not_sampled_again() {
    let bench = bench().await;
    bench.stage.run(task(job()), &bench.context).await.unwrap();
    bench.stage.run(task(job()), &bench.context).await.unwrap();
    assert_eq!(bench.sampler.runs.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_picture_that_another_try_left_is_not_written_over() {
    let bench = bench().await;
    bench.pictures.put(&key("one/image-0.png"), "of another device".into()).await.unwrap();
    bench.stage.run(task(job()), &bench.context).await.unwrap();
    let there = bench.pictures.get(&key("one/image-0.png"), 10_000).await.unwrap().unwrap();
    assert_eq!(there, "of another device");
    let result = bench.results.find(&job()).await.unwrap().unwrap();
    let [first, second] = &result.images[..] else { panic!("{result:?}") };
    let mark = &first.sha256.to_string()[..8];
    assert_eq!((first.key.as_str(), second.key.as_str()), (&*format!("one/image-0-{mark}.png"), "one/image-1.png"));
    let bytes = bench.pictures.get(&key(&first.key), 10_000).await.unwrap().unwrap();
    assert_eq!(ContentHash::of(&bytes), first.sha256);
    // The same picture again, stored by an attempt that crashed before it wrote the result, keeps its name.
    bench.pictures.delete(&ObjectKey::of_result(&job()).unwrap()).await.unwrap();
    bench.stage.run(task(job()), &bench.context).await.unwrap();
    let again = bench.results.find(&job()).await.unwrap().unwrap();
    assert_eq!(again.images, result.images);
}

#[tokio::test]
async fn the_format_names_the_file() {
    let bench = bench().await;
    let mut job = job();
    job.output.format = OutputFormat::Jpeg;
    bench.stage.run(task(job.clone()), &bench.context).await.unwrap();
    let bytes = bench.pictures.get(&key("one/image-1.jpg"), 10_000).await.unwrap().unwrap();
    assert!(bytes.starts_with(&[0xff, 0xd8]));
}

#[tokio::test]
async fn the_cache_is_filled_and_then_used() {
    let bench = bench().await;
    bench.stage.run(task(job()), &bench.context).await.unwrap();
    assert_eq!(bench.cache.get("subjects/dog").await.unwrap().unwrap(), "a dog");
    bench.work.delete(&key("subjects/dog")).await.unwrap();
    let other = Job { id: JobId("two".into()), ..job() };
    assert_eq!(bench.stage.run(task(other), &bench.context).await.unwrap(), Outcome::Done);
}

#[tokio::test]
async fn a_deleted_subject_is_encoded_again() {
    let bench = bench().await;
    bench.work.delete(&key("subjects/dog")).await.unwrap();
    let Outcome::Next(tasks) = bench.stage.run(task(job()), &bench.context).await.unwrap() else { panic!("done") };
    assert!(tasks[0].read().is_some_and(|task: EncodeTask| task.cut_out == Some(cut_out())));
}

#[tokio::test]
async fn a_deleted_subject_of_an_earlier_version_is_segmented_again() {
    let bench = bench().await;
    bench.work.delete(&key("subjects/dog")).await.unwrap();
    let mut task = SampleTask { cut_out: None, ..task(job()) };
    let error = bench.stage.run(task.clone(), &bench.context).await.unwrap_err();
    assert!(error.to_string().contains("run the job again"), "nobody knows the picture: {error}");
    let (image, bounding_box) = (cut_out().image, BoundingBox { left: 0, top: 0, right: 1, bottom: 1 });
    let subject = SubjectFound { image, name: None, bounding_box, score: None, how: FoundBy::WholeImage };
    task.progress.subject = Some(subject);
    let Outcome::Next(tasks) = bench.stage.run(task, &bench.context).await.unwrap() else { panic!("done") };
    assert!(tasks[0].read().is_some_and(|task: SegmentTask| task.image == image));
}

#[tokio::test]
async fn what_is_not_offered_fails_for_good() {
    let bench = bench().await;
    let error = bench.stage.run(task(Job { prompt: "impossible".into(), ..job() }), &bench.context).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::Unsupported, "{error}");
}

#[tokio::test]
async fn a_failure_of_the_networks_leaves_no_result_and_may_be_tried_again() {
    let bench = bench().await;
    bench.work.put(&key("subjects/dog"), "".into()).await.unwrap();
    let error = bench.stage.run(task(job()), &bench.context).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    assert_eq!(error.to_string(), "the sampler failed: out of memory");
    assert_eq!(bench.results.find(&job()).await.unwrap(), None);
}

#[tokio::test]
async fn a_job_that_comes_again_keeps_the_pictures_that_it_has() {
    let mut bench = bench().await;
    bench.sampler.stops_after.store(3, Ordering::Relaxed);
    let job = Job { seeds: Seeds::List(vec![1, 2, 3, 4, 5]), ..job() };
    assert!(bench.stage.run(task(job.clone()), &bench.context).await.is_err());
    assert_eq!(bench.pictures.keys().len(), 3, "each is stored as soon as it is made");
    bench.sampler.stops_after.store(0, Ordering::Relaxed);
    bench.context.came_before = true;
    assert_eq!(bench.stage.run(task(job.clone()), &bench.context).await.unwrap(), Outcome::Done);
    assert_eq!(*bench.sampler.asked.lock().unwrap(), [vec![1, 2, 3, 4, 5], vec![4, 5]]);
    let result = bench.results.find(&job).await.unwrap().unwrap();
    let usage = result.usage.unwrap();
    assert_eq!((usage.images, usage.device_seconds), (5, 1.25), "no picture is charged twice, and none forgotten");
    assert_eq!(result.images.iter().map(|image| image.seed).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    for image in &result.images {
        let bytes = bench.pictures.get(&key(&image.key), 10_000).await.unwrap().unwrap();
        assert_eq!(ContentHash::of(&bytes), image.sha256);
    }
}

#[tokio::test]
async fn pictures_made_with_other_parameters_are_made_again() {
    let mut bench = bench().await;
    bench.sampler.stops_after.store(1, Ordering::Relaxed);
    assert!(bench.stage.run(task(job()), &bench.context).await.is_err());
    bench.sampler.stops_after.store(0, Ordering::Relaxed);
    bench.context.came_before = true;
    let other = Job { prompt: "another dog".into(), ..job() };
    bench.stage.run(task(other), &bench.context).await.unwrap();
    assert_eq!(bench.sampler.asked.lock().unwrap()[1], [7, 9]);
}

/// A sampler behind a gate that withholds the picture of seed 9.
async fn gated(places: &[GatePlace]) -> (Bench, Arc<MemoryContentGate>) {
    let bench = bench_with(&SamplerConfig::default()).await;
    let forbidden = encode_image(&RgbImage::from_pixel(4, 4, [9, 0, 0].into()), ImageFormat::Png, 90).unwrap();
    let gate = Arc::new(MemoryContentGate::at(places).withholding(&forbidden, "too red"));
    let Bench { stage, .. } = bench;
    let stage = stage.with_gate(Some(gate.clone()));
    (Bench { stage, ..bench }, gate)
}

#[tokio::test]
async fn a_picture_that_the_gate_withholds_is_absent_and_named() {
    let (bench, gate) = gated(&[GatePlace::Result]).await;
    let job = Job { tenant: Some("acme".into()), seeds: Seeds::List(vec![7, 9, 8]), ..job() };
    assert_eq!(bench.stage.run(task(job.clone()), &bench.context).await.unwrap(), Outcome::Done);
    let result = bench.results.find(&job).await.unwrap().unwrap();
    assert_eq!(result.status, JobStatus::Completed);
    let images = result.images.iter().map(|image| (image.key.as_str(), image.seed)).collect::<Vec<_>>();
    assert_eq!(images, [("one/image-0.png", 7), ("one/image-2.png", 8)]);
    assert!(result.images.iter().all(|image| image.safety == Some(Safety { verdict: SafetyVerdict::Allowed })));
    assert_eq!(result.withheld, [WithheldImage { index: 1, seed: 9, reason: "too red".to_owned() }]);
    assert_eq!((result.seeds, result.usage.unwrap().images), (vec![7, 9, 8], 2));
    assert_eq!(bench.pictures.keys(), ["one/image-0.png", "one/image-2.png", "one/result.json"].map(key));
    assert!(gate.checked().iter().all(|checked| checked.tenant.as_deref() == Some("acme")));
    let only = Job { id: JobId("two".into()), seeds: Seeds::List(vec![9]), ..job };
    bench.stage.run(task(only.clone()), &bench.context).await.unwrap();
    let result = bench.results.find(&only).await.unwrap().unwrap();
    assert_eq!((result.status, result.images.len(), result.withheld.len()), (JobStatus::Completed, 0, 1));
}

#[tokio::test]
async fn a_job_whose_pictures_are_checked_has_no_previews() {
    for (places, previews) in [(&[GatePlace::Result][..], false), (&[GatePlace::Words, GatePlace::Subject], true)] {
        let (bench, _) = gated(places).await;
        let previewed = Arc::new(Notify::new());
        *bench.sampler.previewed.lock().unwrap() = Some(Arc::clone(&previewed));
        let mut events = bench.broker.subscribe("job").await.unwrap();
        let seen = async {
            events.next().await.unwrap();
            if previews {
                events.next().await.unwrap();
            }
            previewed.notify_one();
        };
        let job = Job { previews: 1, ..job() };
        let (outcome, ()) = tokio::join!(bench.stage.run(task(job.clone()), &bench.context), seen);
        assert_eq!(outcome.unwrap(), Outcome::Done);
        assert_eq!(bench.sampler.with_previews.load(Ordering::Relaxed), usize::from(previews));
        assert_eq!(bench.cache.get("previews/one/0").await.unwrap().is_some(), previews);
        let result = bench.results.find(&job).await.unwrap().unwrap();
        assert_eq!(result.images.iter().all(|image| image.safety.is_none()), previews);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_verdict_a_closed_gate_lets_the_pictures_wait_and_what_is_checked_is_kept() {
    let (mut bench, gate) = gated(&[GatePlace::Result]).await;
    gate.let_away(Some(WhenUnreachable::Closed));
    let error = bench.stage.run(task(job()), &bench.context).await.unwrap_err();
    assert_eq!(error.kind(), FaultKind::CircuitOpen, "no attempt is lost");
    assert!(bench.pictures.keys().is_empty() && gate.checked().is_empty());
    // It comes back while the pictures wait.
    let soon = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        gate.let_away(None);
    };
    bench.sampler.stops_after.store(2, Ordering::Relaxed);
    let job = Job { seeds: Seeds::List(vec![7, 9, 8]), ..job() };
    let (stopped, ()) = tokio::join!(bench.stage.run(task(job.clone()), &bench.context), soon);
    assert!(stopped.is_err());
    bench.sampler.stops_after.store(0, Ordering::Relaxed);
    bench.context.came_before = true;
    bench.stage.run(task(job.clone()), &bench.context).await.unwrap();
    assert_eq!(
        bench.sampler.asked.lock().unwrap().last(),
        Some(&vec![8]),
        "a picture that is withheld is not made again"
    );
    let result = bench.results.find(&job).await.unwrap().unwrap();
    assert_eq!((result.images.len(), result.withheld.len()), (2, 1));
}
