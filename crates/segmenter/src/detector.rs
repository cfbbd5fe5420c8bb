//! Who says where the subject is.

use std::sync::Arc;

use async_trait::async_trait;
use echogen_models::imaging::RgbImage;
use echogen_protocol::{BoundingBox, FailureKind, FoundBy, Job, MaskMode};
use echogen_worker::StageError;

/// Finds the subject of a job in its picture.
#[async_trait]
pub trait Detector: Send + Sync + std::fmt::Debug {
    /// Returns where the subject is in the upright picture. Deterministic: the same picture and subject give the same
    /// answer. Long work runs on threads of the detector's own.
    async fn detect(&self, picture: Arc<RgbImage>, job: &Job) -> Result<Found, DetectError>;
}

/// Where the subject is, and who said so.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// In pixels of the upright picture. It need not lie within it; the segmenter checks.
    pub bounding_box: BoundingBox,
    /// What the subject is called, where the job or a network said.
    pub name: Option<String>,
    /// How sure the network was, 0 to 1, where one was asked.
    pub score: Option<f64>,
    /// Who said so.
    pub how: FoundBy,
}

/// Why no subject was found.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The job asks for what this detector does not offer.
    #[error("{0}")]
    Unsupported(String),
    /// There is no such subject in the picture.
    #[error("{0}")]
    NotFound(String),
    /// The network failed; another try may go better.
    #[error("the detector failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl DetectError {
    /// Whether trying again cannot help.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

impl From<DetectError> for StageError {
    fn from(error: DetectError) -> Self {
        match &error {
            DetectError::Unsupported(message) => Self::permanent(FailureKind::Unsupported, message.clone()),
            DetectError::NotFound(message) => Self::permanent(FailureKind::BadImage, message.clone()),
            DetectError::Failed(_) => Self::transient(error.to_string()).because(error),
        }
    }
}

/// Takes the job's own box, or the whole picture: no network at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct GivenBox;

#[async_trait]
impl Detector for GivenBox {
    async fn detect(&self, picture: Arc<RgbImage>, job: &Job) -> Result<Found, DetectError> {
        if job.subject.mask == MaskMode::Sam {
            let message = "subject.mask: \"sam\" needs a segmentation network; use \"box\" or \"none\"";
            return Err(DetectError::Unsupported(message.to_owned()));
        }
        let whole = BoundingBox { left: 0, top: 0, right: picture.width(), bottom: picture.height() };
        let (bounding_box, how) = match job.subject.bounding_box {
            Some(given) => (given, FoundBy::Job),
            None => (whole, FoundBy::WholeImage),
        };
        Ok(Found { bounding_box, name: job.subject.name.clone(), score: None, how })
    }
}
