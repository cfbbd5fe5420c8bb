//! All four stages in this process, joined by the in-memory queue and cache and two folders.
//!
//! The stages are the real ones, each driven by the worker's own loop: what runs here on one machine is what runs
//! apart on many.

use std::{path::Path, sync::Arc, time::Duration};

use echogen_adapters::{DirectoryObjectStore, FileImageFetcher};
use echogen_encoder::SubjectEncoder;
use echogen_ports::{EventStream, MemoryBroker, MemoryCache, Message, ObjectKey, ObjectStore, PortError, QueueName};
use echogen_protocol::{Job, JobResult, JobStatus, SubjectKeys};
use echogen_sampler::{ImageSampler, SamplerConfig};
use echogen_segmenter::Detector;
use echogen_worker::{Backoff, Clock, LaneWeights, ResultWriter, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    arguments::RunOptions,
    failure::Failure,
    service::{Backends, Role},
};

/// The folder in OUT for everything that is not a result. It begins with a dot, as no job id does.
const WORK_FOLDER: &str = ".echogen";

/// Bytes of encoded subjects kept in memory: some forty of the largest size.
const CACHE_BYTES: usize = 256 * 1024 * 1024;

/// One try of the slowest stage; a picture of the largest size on two cores takes many minutes.
const TASK_TIMEOUT: Duration = Duration::from_secs(12 * 3_600);

/// The networks behind the stages.
pub(crate) struct Networks {
    /// Where the subject is.
    pub(crate) detector: Arc<dyn Detector>,
    /// Cut-out to encoded subject.
    pub(crate) encoder: Arc<dyn SubjectEncoder>,
    /// Encoded subject and prompt to pictures.
    pub(crate) sampler: Arc<dyn ImageSampler>,
    /// What an encoded subject depends on.
    pub(crate) subjects: SubjectKeys,
}

/// The running stages and what joins them.
pub(crate) struct Pipeline {
    backends: Backends,
    results: ResultWriter,
    workers: TaskTracker,
    shutdown: CancellationToken,
}

impl Pipeline {
    /// Starts the stages; results go to the folder `options.out`.
    pub(crate) async fn start(networks: Networks, options: &RunOptions) -> Result<Self, Failure> {
        let results = folder(&options.out).await?;
        let work = folder(&options.out.join(WORK_FOLDER)).await?;
        let (broker, cache) = (Arc::new(MemoryBroker::new()), Arc::new(MemoryCache::new(CACHE_BYTES)));
        let (fetcher, workers) = (Arc::new(FileImageFetcher::anywhere(".")), TaskTracker::new());
        // Its own tracker: the board's writer lives as long as the board, and drain waits for the stages only.
        let backends = Backends::new(broker, cache, work, results, fetcher, &TaskTracker::new());
        let pipeline = Self { results: backends.writer(), backends, workers, shutdown: CancellationToken::new() };
        let roles = [
            Role::Dispatcher(networks.subjects.clone(), LaneWeights::default()),
            Role::Segmenter(networks.detector),
            Role::Encoder(networks.subjects, networks.encoder),
            Role::Sampler(networks.sampler, SamplerConfig { scale_events: true, ..SamplerConfig::default() }),
        ];
        for role in roles {
            pipeline.serve(role, options);
        }
        Ok(pipeline)
    }

    fn serve(&self, role: Role, options: &RunOptions) {
        let config = WorkerConfig {
            // Two at once: while one job's pictures are written, the next one's are sampled.
            concurrency: 2,
            max_attempts: options.attempts,
            // Nothing here kills a worker without killing all; what comes back so often cannot be concluded at all.
            max_redeliveries: 3,
            task_timeout_seconds: TASK_TIMEOUT.as_secs_f64(),
            // What runs is finished, however long that takes; whoever is in a hurry presses Ctrl-C again.
            grace_seconds: TASK_TIMEOUT.as_secs_f64(),
            backoff: Backoff { first_seconds: 0.2, factor: 4.0, max_seconds: 30.0 },
            ..WorkerConfig::default()
        };
        let (backends, shutdown, max_image_bytes) =
            (self.backends.clone(), self.shutdown.clone(), options.max_image_bytes);
        self.workers.spawn(async move {
            if let Err(error) = role.run(&backends, config, max_image_bytes, shutdown).await {
                tracing::error!(%error, "a stage ended");
            }
        });
    }

    /// Sends a job on its way.
    pub(crate) async fn submit(&self, job: &Job) -> Result<(), PortError> {
        let message = Message::of_job(job, Clock::system().now());
        self.backends.broker.publish(&QueueName::dispatch(job.lane), message).await
    }

    /// Listens to what happens to all jobs.
    pub(crate) async fn events(&self) -> Result<Box<dyn EventStream>, Failure> {
        self.backends.broker.subscribe("job").await.map_err(|error| Failure::usage(error.to_string()))
    }

    /// Returns the job's result if it completed in an earlier run and its pictures are still there. What an earlier
    /// run left of a job that failed is cleared away: it is tried again.
    pub(crate) async fn finished(&self, job: &Job) -> Result<Option<JobResult>, PortError> {
        let Some(result) = self.results.find(job).await? else { return Ok(None) };
        if result.status == JobStatus::Completed && self.all_stand(&result).await? {
            return Ok(Some(result));
        }
        self.backends.results.delete(&ObjectKey::of_result(job)?).await?;
        Ok(None)
    }

    async fn all_stand(&self, result: &JobResult) -> Result<bool, PortError> {
        for image in &result.images {
            if !self.backends.results.exists(&ObjectKey::new(image.key.clone())?).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The store of everything that is not a result.
    pub(crate) fn work(&self) -> &dyn ObjectStore {
        &*self.backends.work
    }

    /// The store of the results.
    pub(crate) fn pictures(&self) -> &dyn ObjectStore {
        &*self.backends.results
    }

    /// Takes up nothing more and returns when what runs has ended.
    pub(crate) async fn drain(&self) {
        self.shutdown.cancel();
        self.workers.close();
        self.workers.wait().await;
    }
}

/// Opens a folder as a store, and proves that it can be written before anything is computed.
async fn folder(path: &Path) -> Result<Arc<dyn ObjectStore>, Failure> {
    let fault = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("cannot write to the folder {}: {error}; choose another --out", path.display()))
    };
    std::fs::create_dir_all(path).map_err(|error| fault(&error))?;
    let store = DirectoryObjectStore::open(path).map_err(|error| fault(&error))?;
    let probe = ObjectKey::new("write-test").map_err(|error| fault(&error))?;
    store.put(&probe, "written to see whether this folder can be".into()).await.map_err(|error| fault(&error))?;
    store.delete(&probe).await.map_err(|error| fault(&error))?;
    Ok(Arc::new(store))
}
