//! The roles: which stages run in the process of each, and what each stage needs.

use std::{collections::BTreeMap, sync::Arc};

use echogen_dispatcher::{Dispatcher, DispatcherConfig};
use echogen_encoder::{Encoder, SubjectEncoder};
use echogen_imaging::ImageLimits;
use echogen_notifier::{Notifier, NotifierConfig};
use echogen_ports::{CallbackSender, Fault, clamped_seconds};
use echogen_protocol::{RoleName, StageName, SubjectKeys};
use echogen_sampler::{ImageSampler, Sampler};
use echogen_segmenter::{Detector, Segmenter};
use echogen_telemetry::metrics;
use echogen_worker::{CachedObjects, Stage, Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;

use crate::{Backends, Failure, NetworkSource, config::ServiceConfig};

/// Returns the worker's settings for a stage.
pub(crate) fn worker_config(stage: StageName, config: &ServiceConfig) -> WorkerConfig {
    let concurrency = &config.worker.concurrency;
    let common = WorkerConfig { partitions: config.partitions(), ..config.worker.common.clone() };
    match stage {
        StageName::Dispatcher => WorkerConfig { concurrency: concurrency.dispatcher, ..common },
        StageName::Segmenter => WorkerConfig { concurrency: concurrency.segmenter, ..common },
        StageName::Encoder => WorkerConfig { concurrency: concurrency.encoder, ..common },
        // A sampler takes in hand what it can begin soon: one batch beside the one that is computed.
        StageName::Sampler => {
            let max_waiting_cost = config.sampler.max_batch as u64;
            WorkerConfig { concurrency: concurrency.sampler, max_waiting_cost, ..common }
        }
        // How long a notice is tried is for the notifier to decide.
        StageName::Notifier => WorkerConfig {
            concurrency: concurrency.notifier,
            max_attempts: u32::MAX,
            backoff: config.callbacks.backoff.clone(),
            ..common
        },
    }
}

/// A stage with everything it needs besides the ports.
#[derive(Clone, Debug)]
pub(crate) enum LoadedStage {
    /// The dispatcher, with the keys of encoded subjects.
    Dispatcher(SubjectKeys),
    /// The segmenter, with its detector.
    Segmenter(Arc<dyn Detector>),
    /// The encoder, with its networks.
    Encoder(SubjectKeys, Arc<dyn SubjectEncoder>),
    /// The sampler, with its networks.
    Sampler(Arc<dyn ImageSampler>),
    /// The notifier, with its sender of callbacks.
    Notifier(Option<Arc<dyn CallbackSender>>),
}

/// Loads the networks of this role's stages only, and samples one picture as a warm-up for the sampler. The future may
/// be dropped before it completes.
pub(crate) async fn load(
    role: RoleName,
    networks: &dyn NetworkSource,
    backends: &Backends,
    config: &ServiceConfig,
) -> Result<Vec<LoadedStage>, Failure> {
    let note = |models: BTreeMap<String, String>| {
        models.iter().for_each(|(network, digest)| metrics().model(networks.name(), network, digest));
    };
    Ok(match role {
        RoleName::Dispatcher => {
            let dispatcher = LoadedStage::Dispatcher(networks.subjects().await?);
            vec![dispatcher, LoadedStage::Notifier(backends.callbacks.clone())]
        }
        RoleName::Segmenter => {
            let detector = networks.detector().await?;
            note(detector.models());
            vec![LoadedStage::Segmenter(detector)]
        }
        RoleName::Encoder => {
            let (subjects, encoder) = (networks.subjects().await?, networks.encoder().await?);
            note(encoder.models());
            vec![LoadedStage::Encoder(subjects, encoder)]
        }
        RoleName::Sampler => {
            let sampler = networks.sampler(&config.sampler).await?;
            note(sampler.models());
            vec![LoadedStage::Sampler(sampler)]
        }
        // It runs no stage.
        RoleName::Gateway => Vec::new(),
    })
}

impl LoadedStage {
    /// Returns the stage's name.
    pub(crate) fn name(&self) -> StageName {
        match self {
            Self::Dispatcher(_) => StageName::Dispatcher,
            Self::Segmenter(_) => StageName::Segmenter,
            Self::Encoder(..) => StageName::Encoder,
            Self::Sampler(..) => StageName::Sampler,
            Self::Notifier(_) => StageName::Notifier,
        }
    }

    /// Runs until `shutdown`, then drains; see [`Worker::run`].
    pub(crate) async fn run(
        self,
        backends: &Backends,
        config: &ServiceConfig,
        shutdown: CancellationToken,
    ) -> Result<(), Fault> {
        let worker = worker_config(self.name(), config);
        let Backends { cache, work, results, fetcher, gate, .. } = backends.clone();
        let (products, max_image_bytes) = (&config.products, config.fetch.max_image_bytes);
        let objects = CachedObjects::new(work, cache, products);
        let limits = ImageLimits { max_bytes: max_image_bytes, ..ImageLimits::default() };
        match self {
            Self::Dispatcher(subjects) => {
                let settings = DispatcherConfig { subjects, max_image_bytes };
                let dispatcher = Dispatcher::new(settings, fetcher, objects, backends.writer()).with_gate(gate);
                drive(dispatcher, backends, worker, shutdown).await
            }
            Self::Segmenter(detector) => {
                drive(Segmenter::new(limits, detector, objects, products), backends, worker, shutdown).await
            }
            Self::Encoder(subjects, networks) => {
                let encoder = Encoder::new(&subjects, limits, networks, objects, products);
                drive(encoder, backends, worker, shutdown).await
            }
            Self::Sampler(networks) => {
                let sampler =
                    Sampler::new(networks, objects, results, backends.writer(), &config.sampler).with_gate(gate);
                drive(sampler, backends, worker, shutdown).await
            }
            Self::Notifier(callbacks) => {
                let give_up_after = clamped_seconds(config.callbacks.give_up_after_seconds);
                let notifier = Notifier::new(Arc::clone(&backends.broker), callbacks, NotifierConfig { give_up_after });
                drive(notifier, backends, worker, shutdown).await
            }
        }
    }
}

async fn drive<S: Stage>(
    stage: S,
    backends: &Backends,
    config: WorkerConfig,
    shutdown: CancellationToken,
) -> Result<(), Fault> {
    let worker = Worker::new(Arc::new(stage), Arc::clone(&backends.broker), Arc::new(backends.writer()), config);
    worker.with_status_store(backends.status_store.clone()).run(shutdown).await
}
