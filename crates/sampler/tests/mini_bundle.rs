//! The sampler stage on the mini bundle's real networks: a job's bytes are the same alone and in any batch.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use echogen_checkpoint::bundle::Bundle;
use echogen_imaging::{ImageLimits, RgbImage, decode_image};
use echogen_models::{DType, Device, feature_extractor::FeatureExtractor, generator::Generator};
use echogen_ports::{
    Broker, Cache, Event, MemoryBroker, MemoryCache, MemoryObjectStore, Message, ObjectKey, ObjectStore,
};
use echogen_protocol::{
    AspectRatio, EventKind, Job, JobId, JobStatus, Lane, NotifyTask, PerScale, PixelBudget, Progress, QueueName,
    SampleTask, Seeds, StageName, StageTask, SubjectKeys, TaskHeaders, layout,
};
use echogen_sampler::{CloseReason, GeneratorSampler, Sampler, SamplerConfig};
use echogen_testkit::eventually;
use echogen_worker::{
    CachedObjects, Clock, JobCanceller, Outcome, ProductsConfig, ResultWriter, Stage, StageContext, Worker,
    WorkerConfig,
};
use futures::FutureExt;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const SUBJECT: &str = "subjects/checked";
const MAX_BYTES: u64 = 1 << 24;

fn bundle() -> Bundle {
    Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini")).expect("the bundle is shipped")
}

/// An encoded chequered square.
fn subject() -> Vec<u8> {
    let encoder = FeatureExtractor::load(&bundle(), &Device::Cpu, DType::F32).expect("the encoders load");
    let square =
        RgbImage::from_fn(64, 64, |x, y| [(x * 4) as u8, (y * 4) as u8, ((x / 8 + y / 8) % 2 * 255) as u8].into());
    encoder.encode(&square, 64).and_then(|subject| subject.to_bytes()).expect("a picture can be encoded")
}

fn networks(config: &SamplerConfig) -> Arc<GeneratorSampler> {
    let generator = Generator::load(&bundle(), &Device::Cpu, DType::F32, 1 << 26).expect("the networks load");
    let subjects = SubjectKeys {
        encoders: "mini".into(),
        dtypes: vec!["f32".into()],
        finders: String::new(),
        default_pixel_budget: PixelBudget::M0_004,
        resolutions: [(PixelBudget::M0_004, 64)].into(),
    };
    Arc::new(GeneratorSampler::start(&bundle(), generator, subjects, BTreeMap::new(), config).expect("a thread"))
}

struct Bench {
    networks: Arc<GeneratorSampler>,
    pictures: Arc<MemoryObjectStore>,
    cache: Arc<MemoryCache>,
    broker: Arc<MemoryBroker>,
    results: ResultWriter,
    stage: Sampler,
    context: StageContext,
}

async fn bench(config: &SamplerConfig, subject: &[u8]) -> Bench {
    let (networks, broker) = (networks(config), Arc::new(MemoryBroker::new()));
    let (work, pictures) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryObjectStore::new()));
    work.put(&ObjectKey::new(SUBJECT).expect("a key"), subject.to_vec().into()).await.expect("the twin stores");
    let results = ResultWriter::new(pictures.clone(), broker.clone(), Clock::system(), "1.2.3");
    let cache = Arc::new(MemoryCache::new(1 << 24));
    let objects = CachedObjects::new(work, cache.clone(), &ProductsConfig::default());
    let stage = Sampler::new(networks.clone(), objects, pictures.clone(), results.clone(), config);
    let context = StageContext::for_test(broker.clone());
    Bench { networks, pictures, cache, broker, results, stage, context }
}

/// Jobs that differ in every parameter of a job; one of them has another shape.
fn jobs() -> Vec<Job> {
    let job = |id: &str, prompt: &str, seeds: &[u64]| Job {
        id: JobId(id.to_owned()),
        seeds: Seeds::List(seeds.to_vec()),
        ..Job::new("square.png".into(), prompt)
    };
    let mut jobs = vec![
        job("plain", "a square on a beach", &[1]),
        job("pair", "a square under a tree, in the rain", &[2, 3]),
        job("guided", "a square", &[1]),
        job("wide", "a square on a beach", &[1]),
    ];
    jobs[1].negative_prompt = Some("a circle".to_owned());
    jobs[2].guidance.text = Some(PerScale::All(4.0));
    jobs[2].guidance.subject = Some(PerScale::All(1.5));
    jobs[3].aspect_ratio = "16:9".parse::<AspectRatio>().expect("a ratio");
    jobs
}

fn task(job: &Job) -> SampleTask {
    let (job, progress) = (job.clone(), Progress::default());
    SampleTask { job, encoded_subject: SUBJECT.to_owned(), cut_out: None, progress }
}

impl Bench {
    async fn run(&self, job: &Job) {
        assert_eq!(self.stage.run(task(job), &self.context).await.expect("the job is good"), Outcome::Done);
    }

    async fn files(&self) -> Vec<Vec<u8>> {
        self.files_of(&jobs()).await
    }

    async fn files_of(&self, jobs: &[Job]) -> Vec<Vec<u8>> {
        let mut files = Vec::new();
        for job in jobs {
            for index in 0..job.seeds.values().len() {
                let key = ObjectKey::new(layout::result_image_key(job, index)).expect("a key");
                let bytes = self.pictures.get(&key, MAX_BYTES).await.expect("the twin answers");
                files.push(bytes.expect("the picture stands").to_vec());
            }
        }
        files
    }
}

#[tokio::test]
async fn a_jobs_bytes_are_the_same_alone_and_in_any_batch() {
    let subject = subject();
    let alone = bench(&SamplerConfig { max_batch: 1, ..SamplerConfig::default() }, &subject).await;
    for job in jobs() {
        alone.run(&job).await;
    }
    assert_eq!(alone.networks.batches().batches(), 5, "a picture at a time");
    let together = bench(&SamplerConfig { max_wait_seconds: 2.0, ..SamplerConfig::default() }, &subject).await;
    let jobs = jobs();
    tokio::join!(together.run(&jobs[0]), together.run(&jobs[1]), together.run(&jobs[2]), together.run(&jobs[3]));
    let batches = together.networks.batches();
    assert_eq!((batches.batches(), batches.images(), batches.closed(CloseReason::Shape)), (2, 5, 1));
    let files = together.files().await;
    assert!(alone.files().await == files, "every byte is the same");
    assert_ne!(files[0], files[3], "and guidance makes a difference");
}

#[tokio::test]
async fn a_jobs_bytes_are_the_same_whatever_is_sampled_between_its_scales() {
    let subject = subject();
    let mut all = jobs();
    all.iter_mut().for_each(|job| job.lane = Lane::Interactive);
    all.push(Job { id: JobId("large".into()), seeds: Seeds::List((10..58).collect()), ..jobs().remove(0) });
    let alone = bench(&SamplerConfig { max_batch: 1, ..SamplerConfig::default() }, &subject).await;
    for job in &all {
        alone.run(job).await;
    }
    let config = SamplerConfig { max_batch: 64, max_wait_seconds: 0.0, ..SamplerConfig::default() };
    let bench = bench(&config, &subject).await;
    let mut events = bench.broker.subscribe("job").await.expect("the twin takes listeners");
    let (small, large) = all.split_at(4);
    let ended = std::sync::Mutex::new(Vec::new());
    let run = async |job: &Job| {
        bench.run(job).await;
        ended.lock().expect("no panic").push(job.id.clone());
    };
    let interactive = async {
        let first = events.next().await.and_then(|event| event.to_job()).expect("sampling has begun");
        assert_eq!(first.kind, EventKind::Sampling);
        for job in small {
            run(job).await;
        }
    };
    tokio::join!(run(&large[0]), interactive);
    assert_eq!(ended.into_inner().expect("no panic").last(), Some(&large[0].id), "the small ones came between");
    assert_eq!(bench.networks.batches().batches(), 5, "the large job was one batch");
    assert!(alone.files_of(&all).await == bench.files_of(&all).await, "every byte is the same");
}

#[tokio::test]
async fn a_jobs_bytes_are_the_same_with_previews() {
    let subject = subject();
    let plain = bench(&SamplerConfig::default(), &subject).await;
    let bench = bench(&SamplerConfig::default(), &subject).await;
    for job in jobs() {
        plain.run(&job).await;
        bench.run(&Job { previews: 16, ..job }).await;
    }
    assert!(plain.files().await == bench.files().await, "every byte is the same");
}

#[tokio::test]
async fn previews_become_clearer_scale_by_scale() {
    let bench = bench(&SamplerConfig::default(), &subject()).await;
    let preview = async |key: String| {
        let bytes = bench.cache.get(&key).await.expect("the twin answers");
        bytes.map(|bytes| decode_image(&bytes, &ImageLimits::default()).expect("a picture"))
    };
    // On a machine that has much else to do the pictures may be ready before the previews are stored.
    for number in 0..50 {
        let job = Job { id: JobId(format!("previewed-{number}")), previews: 16, ..jobs().remove(0) };
        bench.run(&job).await;
        let result = bench.results.find(&job).await.expect("the twin answers").expect("it has ended");
        let usage = result.usage.expect("a completed job has taken something");
        assert!(usage.device_seconds > 0.0, "{usage:?}");
        if usage.previews > 1
            && let Some(first) = preview(layout::preview_key(&job.id, 0, 1)).await
        {
            let newest = preview(layout::newest_preview_key(&job.id, 0)).await.expect("it is kept");
            assert_eq!(first.dimensions(), newest.dimensions());
            assert_ne!(first, newest);
            return;
        }
    }
    panic!("no job had two previews");
}

#[tokio::test]
async fn the_memory_of_the_key_value_caches_bounds_a_batch() {
    let config = SamplerConfig { max_kv_bytes: Some(1), ..SamplerConfig::default() };
    let bench = bench(&config, &subject()).await;
    bench.run(&jobs()[1]).await;
    let batches = bench.networks.batches();
    assert_eq!((batches.batches(), batches.images()), (2, 2), "one picture is always admitted, and no second");
    assert_eq!(batches.closed(CloseReason::Memory), 1);
}

/// Publishes the event of the next end, as the notifier does.
async fn notify(broker: &MemoryBroker) {
    let mut ends = broker.consume(&QueueName::of(StageName::Notifier, Lane::default()), 1).await.expect("the twin");
    let end = ends.receive().await.expect("the twin answers").expect("an end is handed over");
    let event = NotifyTask::parse(&end.message.body).expect("for the notifier").event;
    broker.publish_event(Event::of_job(&event)).await.expect("the twin takes events");
    end.ack().await.expect("the twin settles");
}

#[tokio::test]
async fn a_job_that_is_cancelled_while_it_is_sampled_stops_at_the_next_scale() {
    let bench = bench(&SamplerConfig { max_batch: 1, ..SamplerConfig::default() }, &subject()).await;
    let Bench { networks, broker, results, stage, .. } = bench;
    let job = Job { seeds: Seeds::List((0..32).collect()), ..jobs().remove(0) };
    let mut events = broker.subscribe("job").await.expect("the twin takes listeners");
    let config = WorkerConfig::default();
    let shared: Arc<dyn Broker> = broker.clone();
    let worker = Worker::new(Arc::new(stage), shared, Arc::new(results.clone()), config);
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let running = tracker.spawn(worker.run(shutdown.clone()));
    let (task, queue) = (task(&job), task(&job).queue());
    let message = Message::of_task(&task, &TaskHeaders::default());
    broker.publish(&queue, message).await.expect("the twin takes it");
    let first = events.next().await.and_then(|event| event.to_job()).expect("sampling has begun");
    assert_eq!(first.kind, EventKind::Sampling);
    let cancelled = JobCanceller::new(results.clone(), None).cancel(&job.id, None).await.expect("the twin stores");
    assert!(cancelled.is_new);
    notify(&broker).await;
    eventually("its task is settled", || broker.unsettled() == 0).await;
    let begun = networks.batches().batches();
    assert!(begun < 10, "{begun} of 32 pictures were begun");
    let result = results.find(&job).await.expect("the twin answers").expect("it has ended");
    assert_eq!(result.status, JobStatus::Cancelled);
    let told = events.next().await.and_then(|event| event.to_job()).expect("its end is told");
    assert_eq!(told.kind, EventKind::Cancelled);
    shutdown.cancel();
    running.await.expect("no panic").expect("no failure");
    assert!(events.next().now_or_never().is_none(), "and told once");
    assert_eq!(broker.waiting(&queue), 0);
    assert_eq!(networks.batches().batches(), begun, "nothing is sampled after it");
}
