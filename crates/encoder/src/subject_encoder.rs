//! The trait through which the stage reaches the networks that encode a subject.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use echogen_imaging::RgbImage;
use echogen_ports::{Fault, FaultKind};
use tokio::time::Instant;

/// Encodes a subject's cut-out into the data that the sampler conditions on.
#[async_trait]
pub trait SubjectEncoder: Send + Sync + std::fmt::Debug {
    /// Returns the encoded subject as bytes. Deterministic: the same picture and resolution (the side of the square,
    /// in pixels) give the same bytes. Runs on the encoder's own threads and stops at `deadline`.
    async fn encode(&self, cutout: Arc<RgbImage>, resolution: u32, deadline: Instant) -> Result<Vec<u8>, EncodeError>;

    /// The type in which it computes, such as `f32`: part of the key of what it makes.
    fn dtype(&self) -> &str;

    /// SHA-256 of each checkpoint in use, by the network's name.
    fn models(&self) -> BTreeMap<String, String>;
}

/// Why a subject was not encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The cut-out cannot be resized to the square that the networks need.
    #[error("{0}")]
    BadPicture(String),
    /// The networks failed; a retry may succeed.
    #[error("the subject encoder failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl EncodeError {
    /// Returns whether a retry cannot succeed.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::BadPicture(_))
    }
}

impl From<EncodeError> for Fault {
    fn from(error: EncodeError) -> Self {
        match &error {
            EncodeError::BadPicture(message) => Self::bad_image(message),
            EncodeError::Failed(_) => Self::from_error(FaultKind::Unavailable, error),
        }
    }
}
