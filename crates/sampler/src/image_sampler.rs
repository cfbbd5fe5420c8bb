//! The trait through which the stage reaches the networks that make pictures.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use echogen_imaging::RgbImage;
use echogen_ports::{Fault, FaultKind};
use echogen_protocol::{Job, Parameters};
use tokio::{sync::mpsc, time::Instant};

/// Makes pictures of an encoded subject and a prompt.
#[async_trait]
pub trait ImageSampler: Send + Sync + std::fmt::Debug {
    /// Fills in the defaults of everything the job leaves open, and refuses what these networks do not offer. Fast.
    fn plan(&self, job: &Job) -> Result<Parameters, SampleError>;

    /// Returns one picture for each seed, in their order. The same request gives the same pictures, whatever else runs
    /// at the same time. Runs on threads of its own; dropping the future takes the request back.
    async fn sample(&self, request: SampleRequest) -> Result<Sampled, SampleError>;

    /// SHA-256 of each checkpoint that takes part, by the network's name.
    fn models(&self) -> BTreeMap<String, String>;
}

/// What to make.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// As [`ImageSampler::plan`] returned them.
    pub parameters: Parameters,
    /// One picture each.
    pub seeds: Vec<u64>,
    /// Names the encoded subject: equal keys have equal bytes.
    pub subject_key: String,
    /// The encoded subject as the encoder left it.
    pub subject: Bytes,
    /// Whether the pictures must share their work with no other job's.
    pub alone: bool,
    /// Told before every scale.
    pub progress: mpsc::UnboundedSender<ScaleDone>,
    /// When the pictures have to be there.
    pub deadline: Instant,
}

/// How far the pictures of a job are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleDone {
    /// Scales finished, of all pictures of the job, below `total`.
    pub done: usize,
    /// Scales of all pictures of the job.
    pub total: usize,
}

/// What was made.
#[derive(Clone, Debug, Default)]
pub struct Sampled {
    /// One for each seed.
    pub images: Vec<RgbImage>,
    /// Seconds of each step, such as `text`.
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
    /// The networks failed; another try may go better.
    #[error("the sampler failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SampleError {
    /// Whether trying again cannot help.
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
