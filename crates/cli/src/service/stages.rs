//! The stages on their ports, and the worker that drives each: the one place that joins them.

use std::sync::Arc;

use echogen_dispatcher::{Dispatcher, DispatcherConfig};
use echogen_encoder::{Encoder, SubjectEncoder};
use echogen_imaging::ImageLimits;
use echogen_notifier::Notifier;
use echogen_ports::{CallbackSender, PortError, QueueName};
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
    fn stage(self, backends: &Backends, max_image_bytes: u64) -> Arc<dyn Stage> {
        let Backends { cache, work, results, .. } = backends.clone();
        match self {
            Self::Dispatcher(subjects, _) => {
                let config = DispatcherConfig { subjects, max_image_bytes };
                Arc::new(Dispatcher::new(config, Arc::clone(&backends.fetcher), work, cache, backends.writer()))
            }
            Self::Segmenter(detector) => {
                let limits = ImageLimits { max_bytes: max_image_bytes, ..ImageLimits::default() };
                Arc::new(Segmenter::new(limits, detector, work, cache))
            }
            Self::Encoder(subjects, networks) => Arc::new(Encoder::new(subjects, networks, work, cache)),
            Self::Sampler(networks, scale_events) => {
                let sampler = Sampler::new(networks, work, cache, results, backends.writer());
                Arc::new(sampler.with_scale_events(scale_events))
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
    pub async fn run(
        self,
        backends: &Backends,
        config: WorkerConfig,
        max_image_bytes: u64,
        shutdown: CancellationToken,
    ) -> Result<(), PortError> {
        let queues = self.queues();
        let (stage, broker) = (self.stage(backends, max_image_bytes), Arc::clone(&backends.broker));
        let worker = Worker::on_queues(stage, queues, broker, Arc::new(backends.writer()), config);
        worker.with_board(backends.board.clone()).run(shutdown).await
    }
}
