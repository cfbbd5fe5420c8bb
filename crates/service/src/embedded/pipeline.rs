//! The stages of `generate` and `batch`, joined by the in-memory queue and cache and two folders.
//!
//! The stages are the real ones, each driven by the worker's own loop: what runs here on one machine is what runs
//! apart on many.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use echogen_adapters::FileImageFetcher;
use echogen_ports::{Backoff, EventStream, Fault, MemoryBroker, MemoryCache, Message, ObjectKey, ObjectStore};
use echogen_protocol::{Job, JobResult, JobStatus, RoleName, StageTask};
use echogen_worker::{Clock, ResultWriter, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Backends, Failure, NetworkSource,
    backends::{cannot_write, open_folder},
    config::{RoleConcurrency, ServiceConfig},
    run::work,
};

/// The folder in OUT for everything that is not a result. It begins with a dot, as no job id does.
const WORK_FOLDER: &str = ".echogen";

/// One attempt of the slowest stage; a picture of the largest size on two cores takes many minutes.
const TASK_TIMEOUT: Duration = Duration::from_secs(12 * 3_600);

/// Two at once: while one job's pictures are written, the next one's are sampled.
const CONCURRENCY: RoleConcurrency = RoleConcurrency { dispatcher: 2, segmenter: 2, encoder: 2, sampler: 2 };

/// Where results go, and how often a stage is tried.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Folder for pictures and results; intermediate products are in a folder within it.
    pub out: PathBuf,
    /// How often a stage is tried.
    pub attempts: u32,
}

/// The running stages and what joins them.
#[derive(Debug)]
pub struct Pipeline {
    backends: Backends,
    results: ResultWriter,
    stages: TaskTracker,
    shutdown: CancellationToken,
}

impl Pipeline {
    /// Starts the stages.
    pub async fn start(
        networks: impl NetworkSource + 'static,
        config: &ServiceConfig,
        options: &PipelineOptions,
    ) -> Result<Self, Failure> {
        let results = folder(&options.out).await?;
        let work_store = folder(&options.out.join(WORK_FOLDER)).await?;
        let memory = usize::try_from(config.cache.memory_bytes).unwrap_or(usize::MAX);
        let (broker, cache) = (Arc::new(MemoryBroker::new()), Arc::new(MemoryCache::new(memory)));
        let fetcher = Arc::new(FileImageFetcher::anywhere("."));
        // A tracker of its own: what writes the status of jobs lives as long as the pipeline, and drain waits for the
        // stages only.
        let backends = Backends::new(broker, cache, work_store, results, fetcher, &TaskTracker::new());
        let (stages, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (config, joined, end) = (embedded_config(config, options), backends.clone(), shutdown.clone());
        stages.spawn(async move {
            if let Err(failure) = work(&RoleName::ALL, &networks, &joined, &config, &end).await {
                tracing::error!(error = failure.message, "the stages ended");
            }
        });
        Ok(Self { results: backends.writer(), backends, stages, shutdown })
    }

    /// Sends a job on its way.
    pub async fn submit(&self, job: &Job) -> Result<(), Fault> {
        let message = Message::of_job(job, Clock::system().now());
        self.backends.broker.publish(&job.queue(), message).await
    }

    /// Subscribes to the events of all jobs.
    pub(super) async fn events(&self) -> Result<Box<dyn EventStream>, Failure> {
        self.backends.broker.subscribe("job").await.map_err(|error| Failure::usage(error.to_string()))
    }

    /// Returns the job's result if it completed in an earlier run and its pictures are still there. What an earlier
    /// run left of a job that failed is deleted: it is tried again.
    pub(super) async fn finished(&self, job: &Job) -> Result<Option<JobResult>, Fault> {
        let Some(result) = self.results.find(job).await? else { return Ok(None) };
        if result.status == JobStatus::Completed && self.has_all_images(&result).await? {
            return Ok(Some(result));
        }
        self.backends.results.delete(&ObjectKey::of_result(job)?).await?;
        Ok(None)
    }

    async fn has_all_images(&self, result: &JobResult) -> Result<bool, Fault> {
        for image in &result.images {
            if !self.backends.results.exists(&ObjectKey::new(image.key.clone())?).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The store of everything that is not a result.
    pub fn work(&self) -> &dyn ObjectStore {
        &*self.backends.work
    }

    /// The store of the results.
    pub fn results(&self) -> &dyn ObjectStore {
        &*self.backends.results
    }

    /// Begins no more tasks and returns when what runs has ended.
    pub async fn drain(&self) {
        self.shutdown.cancel();
        self.stages.close();
        self.stages.wait().await;
    }
}

/// The settings of stages that run for one command.
fn embedded_config(config: &ServiceConfig, options: &PipelineOptions) -> ServiceConfig {
    let mut config = config.clone();
    config.sampler.scale_events = true;
    config.worker.concurrency = CONCURRENCY;
    config.worker.common = WorkerConfig {
        max_attempts: options.attempts,
        // Nothing here kills a worker without killing all; what comes back so often cannot be completed at all.
        max_redeliveries: 3,
        task_timeout_seconds: TASK_TIMEOUT.as_secs_f64(),
        // What runs is finished, however long that takes; a second Ctrl-C ends the process at once.
        grace_seconds: TASK_TIMEOUT.as_secs_f64(),
        backoff: Backoff { first_seconds: 0.2, factor: 4.0, max_seconds: 30.0 },
        ..WorkerConfig::default()
    };
    config
}

/// Opens a folder as a store, and proves that it can be written before anything is computed.
async fn folder(path: &Path) -> Result<Arc<dyn ObjectStore>, Failure> {
    let fault = |error: &dyn std::fmt::Display| cannot_write(path, "--out", error);
    let store = open_folder(path, "--out")?;
    let probe = ObjectKey::new("write-test").map_err(|error| fault(&error))?;
    store.put(&probe, "written to see whether this folder can be".into()).await.map_err(|error| fault(&error))?;
    store.delete(&probe).await.map_err(|error| fault(&error))?;
    Ok(Arc::new(store))
}
