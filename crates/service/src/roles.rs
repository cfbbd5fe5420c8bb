//! The roles: which stages run in the process of each, and what a stage needs before it runs.

use std::{collections::BTreeMap, sync::Arc};

use echogen_dispatcher::{Dispatcher, DispatcherConfig};
use echogen_encoder::{Encoder, SubjectEncoder};
use echogen_imaging::ImageLimits;
use echogen_notifier::Notifier;
use echogen_ports::{CallbackSender, PortError, QueueName};
use echogen_protocol::{Lane, SubjectKeys};
use echogen_sampler::{ImageSampler, Sampler};
use echogen_segmenter::{Detector, Segmenter};
use echogen_telemetry::metrics;
use echogen_worker::{CachedObjects, LaneWeights, Stage, Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;

use crate::{Backends, Failure, NetworkSource, config::ServiceConfig};

/// What a process can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    Dispatcher,
    Segmenter,
    Encoder,
    Sampler,
}

impl RoleName {
    /// All roles, in the order of a job's way.
    pub const ALL: [Self; 4] = [Self::Dispatcher, Self::Segmenter, Self::Encoder, Self::Sampler];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Segmenter => "segmenter",
            Self::Encoder => "encoder",
            Self::Sampler => "sampler",
        }
    }

    /// The stages that run in the process of this name. Calls to clients' servers leave from where pictures are fetched:
    /// no other role has to reach the world.
    pub fn stages(self) -> &'static [&'static str] {
        match self {
            Self::Dispatcher => &[Dispatcher::NAME, Notifier::NAME],
            Self::Segmenter => &[Segmenter::NAME],
            Self::Encoder => &[Encoder::NAME],
            Self::Sampler => &[Sampler::NAME],
        }
    }
}

impl std::str::FromStr for RoleName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("no role is called {text:?}"))
    }
}

/// The lane of queues that all lanes share.
const ALL_LANES: &str = "all";

/// The queues of a stage, with the lanes they are for.
pub(crate) fn queues_of(stage: &str) -> Vec<(&'static str, QueueName)> {
    match stage {
        Dispatcher::NAME => [Lane::Interactive, Lane::Standard, Lane::Bulk]
            .map(|lane| (lane.as_str(), QueueName::dispatch(lane)))
            .into(),
        Segmenter::NAME => vec![(ALL_LANES, QueueName::segment())],
        Encoder::NAME => vec![(ALL_LANES, QueueName::encode())],
        Sampler::NAME => vec![(ALL_LANES, QueueName::sample())],
        Notifier::NAME => vec![(ALL_LANES, QueueName::notify())],
        _ => Vec::new(),
    }
}

/// The queues of all stages of some roles: the stage, its lane, and the queue.
pub(crate) fn queues_of_roles(roles: &[RoleName]) -> Vec<(&'static str, &'static str, QueueName)> {
    let stages = roles.iter().flat_map(|role| role.stages());
    stages.flat_map(|stage| queues_of(stage).into_iter().map(move |(lane, queue)| (*stage, lane, queue))).collect()
}

/// The worker's settings in the process of a role.
pub(crate) fn worker_config(role: RoleName, config: &ServiceConfig) -> WorkerConfig {
    let concurrency = &config.worker.concurrency;
    let concurrency = match role {
        RoleName::Dispatcher => concurrency.dispatcher,
        RoleName::Segmenter => concurrency.segmenter,
        RoleName::Encoder => concurrency.encoder,
        RoleName::Sampler => concurrency.sampler,
    };
    WorkerConfig { concurrency, ..config.worker.common.clone() }
}

/// A stage with all that it needs beside the ports.
#[derive(Clone, Debug)]
pub(crate) enum LoadedStage {
    /// Takes jobs from the lanes.
    Dispatcher(SubjectKeys, LaneWeights),
    /// Cuts subjects out.
    Segmenter(Arc<dyn Detector>),
    /// Encodes them.
    Encoder(SubjectKeys, Arc<dyn SubjectEncoder>),
    /// Makes pictures.
    Sampler(Arc<dyn ImageSampler>),
    /// Calls clients' servers.
    Notifier(Arc<dyn CallbackSender>),
}

/// Loads the networks of this role's stages and of no other, and tries out those that make pictures. May be dropped
/// meanwhile.
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
            let dispatcher = LoadedStage::Dispatcher(networks.subjects().await?, config.worker.lane_weights);
            std::iter::once(dispatcher).chain(backends.callbacks.clone().map(LoadedStage::Notifier)).collect()
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
    })
}

impl LoadedStage {
    /// The stage's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Dispatcher(..) => Dispatcher::NAME,
            Self::Segmenter(_) => Segmenter::NAME,
            Self::Encoder(..) => Encoder::NAME,
            Self::Sampler(..) => Sampler::NAME,
            Self::Notifier(_) => Notifier::NAME,
        }
    }

    fn stage(self, backends: &Backends, config: &ServiceConfig) -> Arc<dyn Stage> {
        let Backends { cache, work, results, .. } = backends.clone();
        let max_image_bytes = config.fetch.max_image_bytes;
        let objects = CachedObjects::new(work, cache, &config.products);
        match self {
            Self::Dispatcher(subjects, _) => {
                let config = DispatcherConfig { subjects, max_image_bytes };
                Arc::new(Dispatcher::new(config, Arc::clone(&backends.fetcher), objects, backends.writer()))
            }
            Self::Segmenter(detector) => {
                let limits = ImageLimits { max_bytes: max_image_bytes, ..ImageLimits::default() };
                Arc::new(Segmenter::new(limits, detector, objects, &config.products))
            }
            Self::Encoder(subjects, networks) => Arc::new(Encoder::new(subjects, networks, objects, &config.products)),
            Self::Sampler(networks) => {
                Arc::new(Sampler::new(networks, objects, results, backends.writer(), &config.sampler))
            }
            Self::Notifier(sender) => Arc::new(Notifier::new(sender)),
        }
    }

    fn queues(&self) -> Vec<(QueueName, u32)> {
        match self {
            Self::Dispatcher(_, weights) => weights.queues(),
            Self::Segmenter(_) => vec![(QueueName::segment(), 1)],
            Self::Encoder(..) => vec![(QueueName::encode(), 1)],
            Self::Sampler(..) => vec![(QueueName::sample(), 1)],
            Self::Notifier(_) => vec![(QueueName::notify(), 1)],
        }
    }

    /// Works until `shutdown`, then drains; see [`Worker::run`].
    pub(crate) async fn run(
        self,
        backends: &Backends,
        worker: WorkerConfig,
        config: &ServiceConfig,
        shutdown: CancellationToken,
    ) -> Result<(), PortError> {
        let queues = self.queues();
        let (stage, broker) = (self.stage(backends, config), Arc::clone(&backends.broker));
        let worker = Worker::on_queues(stage, queues, broker, Arc::new(backends.writer()), worker);
        worker.with_board(backends.board.clone()).run(shutdown).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_of_every_role_has_queues_that_are_watched() {
        let count = |role: RoleName| role.stages().iter().map(|stage| queues_of(stage).len()).collect::<Vec<_>>();
        assert_eq!(RoleName::ALL.map(count), [vec![3, 1], vec![1], vec![1], vec![1]]);
        assert_eq!(queues_of(Sampler::NAME), [(ALL_LANES, QueueName::sample())]);
    }
}
