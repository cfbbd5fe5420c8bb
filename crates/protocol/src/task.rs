//! Messages between stages: references only, never pixels or tensors.

use serde::{Deserialize, Serialize};

use crate::{ContentHash, Job};

/// One message for one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Task {
    /// For the dispatcher: a job as it came.
    Dispatch(Job),
    /// For the segmenter.
    Segment(SegmentTask),
    /// For the encoder.
    Encode(EncodeTask),
    /// For the sampler.
    Sample(SampleTask),
}

/// Cut the subject out of a stored picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentTask {
    /// The job it belongs to.
    pub job: Job,
    /// The stored picture.
    pub image: ContentHash,
}

/// Encode a stored cut-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncodeTask {
    /// The job it belongs to.
    pub job: Job,
    /// The stored cut-out.
    pub cutout: ContentHash,
}

/// Make the pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleTask {
    /// The job it belongs to.
    pub job: Job,
    /// The encoded subject's key in the object store.
    pub encoded_subject: String,
}
