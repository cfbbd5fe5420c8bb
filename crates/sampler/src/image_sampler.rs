//! The trait through which the stage reaches the networks that make pictures.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_imaging::RgbImage;
use echogen_ports::{Fault, FaultKind};
use echogen_protocol::{Job, Lane, Parameters};
use tokio::sync::mpsc;
use tracing::debug;

/// Makes pictures of an encoded subject and a prompt.
#[async_trait]
pub trait ImageSampler: Send + Sync + std::fmt::Debug {
    /// Fills in the defaults of everything the job leaves open, and rejects what these networks do not offer. Returns
    /// quickly.
    fn plan(&self, job: &Job) -> Result<Parameters, SampleError>;

    /// Makes one picture for each seed, and sends each as soon as it is made. The same request gives the same pictures, whatever else runs
    /// at the same time. Runs on the sampler's own threads; dropping the future cancels the request.
    async fn sample(&self, request: SampleRequest) -> Result<Sampled, SampleError>;

    /// SHA-256 of each checkpoint in use, by the network's name.
    fn models(&self) -> BTreeMap<String, String>;
}

/// What to sample.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// The parameters that [`ImageSampler::plan`] returned.
    pub parameters: Parameters,
    /// The seeds, one picture each.
    pub seeds: Vec<u64>,
    /// Identifies the encoded subject: equal keys have equal bytes.
    pub subject_key: String,
    /// The encoded subject as the encoder stored it.
    pub subject: Bytes,
    /// The lane of the queue that the job came from.
    pub lane: Lane,
    /// Whether the pictures must not share a batch with another job's.
    pub alone: bool,
    /// Receives a message before every step, and when the pictures wait for other batches.
    pub progress: mpsc::UnboundedSender<Step>,
    /// Receives the pictures, each as soon as it is made.
    pub made: mpsc::UnboundedSender<Made>,
    /// The previews that are wanted, if any.
    pub previews: Option<PreviewRequest>,
}

/// What is wanted of previews.
#[derive(Clone, Debug)]
pub struct PreviewRequest {
    /// How many of each picture.
    pub count: u32,
    /// Receives them. Where it has no room they are dropped.
    pub made: mpsc::Sender<Previews>,
}

/// The previews of a request's pictures after one scale; not necessarily of all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previews {
    /// The progress of all pictures of the request.
    pub progress: ScaleDone,
    /// How many of its scales each of the pictures has.
    pub scale: usize,
    /// The previews, with the indices of their seeds in the request.
    pub images: Vec<(usize, RgbImage)>,
}

/// A picture that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The index of its seed in the request.
    pub index: usize,
    /// The picture.
    pub image: RgbImage,
    /// Its share of the time of the networks' thread; see [`Usage`](echogen_protocol::Usage).
    pub device_time: Duration,
}

impl SampleRequest {
    /// Whether it is to be preferred to requests that are not.
    pub(crate) fn is_interactive(&self) -> bool {
        self.lane == Lane::Interactive
    }

    /// Tells the caller what happens.
    pub fn report(&self, step: Step) {
        if self.progress.send(step).is_err() {
            debug!("no receiver for the progress of the pictures");
        }
    }

    /// Sends a picture to the caller, who may no longer wait.
    pub fn send(&self, index: usize, image: RgbImage) {
        self.deliver(Made { index, image, device_time: Duration::ZERO });
    }

    /// Sends a picture of which it is known how long the networks' thread has worked for it.
    pub(crate) fn deliver(&self, made: Made) {
        if self.made.send(made).is_err() {
            debug!("a picture is dropped, its caller no longer waits");
        }
    }
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next scale begins.
    Scale(ScaleDone),
    /// The scales are sampled, and the next picture is decoded.
    Decode,
    /// The pictures wait for the steps of other batches, or those that have not begun for a batch.
    Waits,
}

/// The progress of a job's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleDone {
    /// Scales finished, of all pictures of the job, below `total`.
    pub done: usize,
    /// Scales of all pictures of the job.
    pub total: usize,
}

/// The result of a request.
#[derive(Clone, Debug, Default)]
pub struct Sampled {
    /// The duration of each step in seconds, by its name, such as `text`.
    pub timings: BTreeMap<String, f64>,
}

/// Why there are no pictures.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The job asks for what these networks do not offer.
    #[error("{0}")]
    Unsupported(String),
    /// The encoded subject cannot be read.
    #[error("the encoded subject cannot be read; delete the work folder and run the job again")]
    BadSubject(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The networks failed; a retry may succeed.
    #[error("the sampler failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SampleError {
    /// Returns whether a retry cannot succeed.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Unsupported(_) | Self::BadSubject(_))
    }
}

impl From<SampleError> for Fault {
    fn from(error: SampleError) -> Self {
        match &error {
            SampleError::Unsupported(message) => Self::unsupported(message),
            SampleError::BadSubject(_) => Self::from_error(FaultKind::Internal, error),
            SampleError::Failed(_) => Self::from_error(FaultKind::Unavailable, error),
        }
    }
}
