//! The stages of `generate` and `batch`, joined by the in-memory broker and cache and two folders.
//!
//! The stages are those of a distributed installation, and the worker's own queue loop drives each of them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use echogen_adapters::FileImageFetcher;
use echogen_ports::{Backoff, EventStream, Fault, MemoryBroker, Message, ObjectKey, ObjectStore};
use echogen_protocol::{Job, JobResult, JobStatus, RoleName, StageTask};
use echogen_worker::{Clock, ResultWriter, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::folder_cache::FolderCache;
use crate::{
    Backends, Failure, NetworkSource,
    backends::{cannot_write, open_folder},
    config::{RoleConcurrency, ServiceConfig},
    run::work,
};

/// The folder in OUT for everything that is not a result. Its name begins with a dot, which no job id does, so the two
/// cannot collide.
pub const WORK_FOLDER: &str = ".echogen";

/// Timeout of one attempt of the slowest stage: a picture of the largest size takes many minutes on two cores.
const TASK_TIMEOUT: Duration = Duration::from_secs(12 * 3_600);

/// Two tasks per stage: while one job's pictures are written, the next job's are sampled.
const CONCURRENCY: RoleConcurrency =
    RoleConcurrency { dispatcher: 2, notifier: 32, segmenter: 2, encoder: 2, sampler: 2 };

/// Where results are stored, and how many attempts a stage makes.
#[derive(Clone, Debug)]
pub struct PipelineOptions {
    /// Folder for pictures and results; intermediate products are in a folder within it.
    pub out: PathBuf,
    /// Maximum number of attempts of a stage.
    pub attempts: u32,
}

/// The running stages and the ports they share.
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
        let cache = Arc::new(FolderCache::new(memory, Arc::clone(&work_store)));
        let broker = Arc::new(MemoryBroker::new());
        let fetcher = Arc::new(FileImageFetcher::anywhere("."));
        // The job status store's background task has a tracker of its own: it runs as long as the pipeline, and drain
        // must wait for the stages only.
        let backends = Backends::new(broker, cache, work_store, results, fetcher, &TaskTracker::new());
        let (stages, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (config, joined, end) = (embedded_config(config, options), backends.clone(), shutdown.clone());
        stages.spawn(async move {
            if let Err(failure) = work(&RoleName::WORKERS, &networks, &joined, &config, &end).await {
                tracing::error!(error = failure.message, "the stages ended");
            }
        });
        Ok(Self { results: backends.writer(), backends, stages, shutdown })
    }

    /// Publishes a job to the dispatcher's queue.
    pub async fn submit(&self, job: &Job) -> Result<(), Fault> {
        let message = Message::of_job(job, Clock::system().now());
        self.backends.broker.publish(&job.queue(), message).await
    }

    /// Subscribes to the events of all jobs.
    pub(super) async fn events(&self) -> Result<Box<dyn EventStream>, Failure> {
        self.backends.broker.subscribe("job").await.map_err(|error| Failure::usage(error.to_string()))
    }

    /// Returns the job's result if it completed in an earlier run and its pictures still exist. The result of a job
    /// that failed in an earlier run is deleted, so that the job is run again.
    pub(super) async fn finished(&self, job: &Job) -> Result<Option<JobResult>, Fault> {
        let Some(result) = self.results.find(job).await? else { return Ok(None) };
        if result.content.is_some_and(|content| content != job.content()) {
            let message = format!("id: {} is taken by a job of other content; take another id", job.id);
            return Err(Fault::invalid_job(message));
        }
        if result.status == JobStatus::Completed && self.has_all_images(&result).await? {
            return Ok(Some(result));
        }
        self.backends.results.delete(&ObjectKey::of_result(job)?).await?;
        Ok(None)
    }

    /// Returns the job's result, if it has ended.
    pub(super) async fn result(&self, job: &Job) -> Result<Option<JobResult>, Fault> {
        self.results.find(job).await
    }

    async fn has_all_images(&self, result: &JobResult) -> Result<bool, Fault> {
        for image in &result.images {
            if !self.backends.results.exists(&ObjectKey::new(image.key.clone())?).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the store of everything that is not a result.
    pub fn work(&self) -> &dyn ObjectStore {
        &*self.backends.work
    }

    /// Returns the store of the results.
    pub fn results(&self) -> &dyn ObjectStore {
        &*self.backends.results
    }

    /// Starts no more tasks and returns when those in progress have ended.
    pub async fn drain(&self) {
        self.shutdown.cancel();
        self.stages.close();
        self.stages.wait().await;
    }
}

/// Returns the settings for stages that run within one command.
fn embedded_config(config: &ServiceConfig, options: &PipelineOptions) -> ServiceConfig {
    let mut config = config.clone();
    config.sampler.scale_events = true;
    config.worker.concurrency = CONCURRENCY;
    config.worker.common = WorkerConfig {
        max_attempts: options.attempts,
        // A worker is never killed without the whole process, so a task that is redelivered this often cannot be
        // completed.
        max_redeliveries: 3,
        task_timeout_seconds: TASK_TIMEOUT.as_secs_f64(),
        // Tasks in progress are always finished, however long that takes; a second Ctrl-C ends the process at once.
        grace_seconds: TASK_TIMEOUT.as_secs_f64(),
        backoff: Backoff { first_seconds: 0.2, factor: 4.0, max_seconds: 30.0 },
        ..WorkerConfig::default()
    };
    config
}

/// Opens a folder as a store, and checks that it is writable before anything is computed.
async fn folder(path: &Path) -> Result<Arc<dyn ObjectStore>, Failure> {
    let fault = |error: &dyn std::fmt::Display| cannot_write(path, "--out", error);
    let store = open_folder(path, "--out")?;
    let probe = ObjectKey::new("write-test").map_err(|error| fault(&error))?;
    store.put(&probe, "written to see whether this folder can be".into()).await.map_err(|error| fault(&error))?;
    store.delete(&probe).await.map_err(|error| fault(&error))?;
    Ok(Arc::new(store))
}
