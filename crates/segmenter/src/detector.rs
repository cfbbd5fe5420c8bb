//! The trait through which the stage reaches whatever locates the subject.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use echogen_imaging::{RgbImage, SubjectMask};
use echogen_ports::{Fault, FaultKind};
use echogen_protocol::{BoundingBox, FoundBy, Job, MaskMode};
use tokio::time::Instant;

/// Finds the subject of a job in its picture.
#[async_trait]
pub trait Detector: Send + Sync + std::fmt::Debug {
    /// Returns where the subject is in the upright picture. Deterministic: the same picture and subject give the same
    /// answer. Long work runs on the detector's own threads and stops at the deadline.
    async fn detect(&self, picture: Arc<RgbImage>, job: &Job, deadline: Instant) -> Result<Found, DetectError>;

    /// Names everything that an answer depends on besides picture and job: networks and settings. It is part of the
    /// key under which a segmentation is kept.
    fn version(&self) -> String;

    /// SHA-256 of each network's checkpoint, by the network's name, for the job's result.
    fn models(&self) -> BTreeMap<String, String>;
}

/// Where the subject is, and how it was located.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The box in pixels of the upright picture. It may lie outside the picture; the segmenter checks that.
    pub bounding_box: BoundingBox,
    /// The outline within the box, if the job asked for one.
    pub mask: Option<SubjectMask>,
    /// What the subject is called, if the job or a network named it.
    pub name: Option<String>,
    /// The network's score, 0 to 1, if a network located the subject.
    pub score: Option<f64>,
    /// How the subject was located.
    pub how: FoundBy,
}

/// Why no subject was found.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The job asks for what this detector does not offer.
    #[error("{0}")]
    Unsupported(String),
    /// The name that the job gives its subject is not usable.
    #[error("subject.name: {0}")]
    BadName(String),
    /// There is no such subject in the picture.
    #[error("{0}")]
    NotFound(String),
    /// The network failed; a retry may succeed.
    #[error("the detector failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl DetectError {
    /// Returns whether a retry cannot succeed.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

impl From<DetectError> for Fault {
    fn from(error: DetectError) -> Self {
        match &error {
            DetectError::Unsupported(message) => Self::unsupported(message),
            DetectError::BadName(_) => Self::invalid_job(error.to_string()),
            DetectError::NotFound(message) => Self::bad_image(message),
            DetectError::Failed(_) => Self::from_error(FaultKind::Unavailable, error),
        }
    }
}

/// Uses the job's own box or the whole picture, without any network.
#[derive(Clone, Copy, Debug, Default)]
pub struct GivenBox;

#[async_trait]
impl Detector for GivenBox {
    async fn detect(&self, picture: Arc<RgbImage>, job: &Job, _: Instant) -> Result<Found, DetectError> {
        let subject = &job.subject;
        if subject.mask == MaskMode::Sam {
            return Err(DetectError::no_masker());
        }
        if subject.point.is_some() && subject.mask != MaskMode::None {
            return Err(DetectError::no_detector());
        }
        let (bounding_box, how) = match subject.bounding_box {
            Some(given) => (given, FoundBy::Job),
            None => (whole(&picture), FoundBy::WholeImage),
        };
        Ok(Found { bounding_box, mask: None, name: subject.name.clone(), score: None, how })
    }

    fn version(&self) -> String {
        String::new()
    }

    fn models(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

impl DetectError {
    /// The job asks for an outline and the bundle has no masker.
    pub(crate) fn no_masker() -> Self {
        let message =
            "subject.mask: \"sam\" needs a segmentation network, which the bundle lacks; use \"box\" or \"none\"";
        Self::Unsupported(message.to_owned())
    }

    /// The job gives a point and the bundle has no detector.
    pub(crate) fn no_detector() -> Self {
        let message = "subject.point needs a detection network, which the bundle lacks; give subject.box instead";
        Self::Unsupported(message.to_owned())
    }
}

/// The box that covers the whole picture.
pub(crate) fn whole(picture: &RgbImage) -> BoundingBox {
    BoundingBox { left: 0, top: 0, right: picture.width(), bottom: picture.height() }
}
