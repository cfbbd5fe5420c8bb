//! The stages on their ports, and the worker that drives each: the one place that joins them.

use std::sync::Arc;

use echogen_dispatcher::{Dispatcher, DispatcherConfig};
use echogen_encoder::{Encoder, SubjectEncoder};
use echogen_models::imaging::ImageLimits;
use echogen_notifier::Notifier;
use echogen_ports::{CallbackSender, PortError};
use echogen_protocol::SubjectKeys;
use echogen_sampler::{ImageSampler, Sampler, ScaleEvents};
use echogen_segmenter::{Detector, Segmenter};
use echogen_worker::{LaneWeights, Stage, Worker, WorkerConfig};
use tokio_util::sync::CancellationToken;

use super::Backends;

/// A role: one stage with its queues.
#[derive(Clone, Debug)]
pub enum Role {
    /// Takes jobs from the lanes.
    Dispatcher(SubjectKeys, LaneWeights),
    /// Cuts subjects out.
    Segmenter(Arc<dyn Detector>),
    /// Encodes them.
    Encoder(SubjectKeys, Arc<dyn SubjectEncoder>),
    /// Makes pictures.
    Sampler(Arc<dyn ImageSampler>, ScaleEvents),
    /// Tells clients' servers; has no process of its own, it goes with the dispatcher.
    Notifier(Arc<dyn CallbackSender>),
}

impl Role {
    /// Works until `shutdown`, then drains; see [`Worker::run`].
    pub async fn run(
        self,
        backends: &Backends,
        mut config: WorkerConfig,
        max_image_bytes: u64,
        shutdown: CancellationToken,
    ) -> Result<(), PortError> {
        let Backends { cache, work, results, fetcher, .. } = backends.clone();
        match self {
            Self::Dispatcher(subjects, weights) => {
                config.lane_weights = weights;
                let settings = DispatcherConfig { subjects, max_image_bytes };
                let stage = Dispatcher::new(settings, fetcher, work, cache, backends.writer());
                drive(stage, backends, config, shutdown).await
            }
            Self::Segmenter(detector) => {
                let limits = ImageLimits { max_bytes: max_image_bytes, ..ImageLimits::default() };
                drive(Segmenter::new(limits, detector, work, cache), backends, config, shutdown).await
            }
            Self::Encoder(subjects, networks) => {
                drive(Encoder::new(subjects, networks, work, cache), backends, config, shutdown).await
            }
            Self::Sampler(networks, scale_events) => {
                let sampler = Sampler::new(networks, work, cache, results, backends.writer());
                drive(sampler.with_scale_events(scale_events), backends, config, shutdown).await
            }
            Self::Notifier(sender) => drive(Notifier::new(sender), backends, config, shutdown).await,
        }
    }
}

async fn drive<S: Stage>(
    stage: S,
    backends: &Backends,
    config: WorkerConfig,
    shutdown: CancellationToken,
) -> Result<(), PortError> {
    let worker = Worker::new(Arc::new(stage), Arc::clone(&backends.broker), Arc::new(backends.writer()), config);
    worker.with_board(backends.board.clone()).run(shutdown).await
}
