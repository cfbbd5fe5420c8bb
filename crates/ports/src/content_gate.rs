//! The content gate: whether the operator allows words and pictures.

use async_trait::async_trait;
use bytes::Bytes;
use echogen_protocol::JobId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Fault;

/// Decides whether the words and pictures of jobs are used.
#[async_trait]
pub trait ContentGate: Send + Sync + std::fmt::Debug {
    /// Whether it checks at this place. Elsewhere it allows everything, and its callers need not give it anything.
    fn checks(&self, place: GatePlace) -> bool;

    /// Returns whether this content may be used. The same content may be checked any number of times.
    ///
    /// # Errors
    ///
    /// There is no verdict, and without one nothing is allowed here: [`FaultKind::CircuitOpen`](crate::FaultKind), so a task
    /// that waits for a verdict loses no attempt.
    async fn check(&self, subject: GateSubject) -> Result<Verdict, Fault>;
}

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSubject {
    /// The job.
    pub job: JobId,
    /// Whose job it is, if it says so.
    pub tenant: Option<String>,
    /// The words or the picture.
    pub content: GateContent,
}

/// Words or a picture of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateContent {
    /// What the job says.
    Words {
        /// The prompt.
        prompt: String,
        /// The negative prompt, if there is one.
        negative_prompt: Option<String>,
        /// The subject's name, if the job gives one.
        name: Option<String>,
    },
    /// The subject's picture as fetched: bytes that are not known to be a picture.
    SubjectImage(Bytes),
    /// A picture that was made.
    ResultImage {
        /// The file.
        image: Bytes,
        /// Its number, counted from 0 in the order of the seeds.
        index: usize,
        /// Its seed.
        seed: u64,
    },
}

impl GateContent {
    /// The place where it is checked.
    pub fn place(&self) -> GatePlace {
        match self {
            Self::Words { .. } => GatePlace::Words,
            Self::SubjectImage(_) => GatePlace::Subject,
            Self::ResultImage { .. } => GatePlace::Result,
        }
    }

    /// The picture, if it is one.
    pub fn image(&self) -> Option<&Bytes> {
        match self {
            Self::Words { .. } => None,
            Self::SubjectImage(image) | Self::ResultImage { image, .. } => Some(image),
        }
    }
}

/// Where content is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GatePlace {
    /// The words of a job, before it is published.
    Words,
    /// The subject's picture, before it is stored.
    Subject,
    /// A picture that was made, before it is stored.
    Result,
}

impl GatePlace {
    /// All places.
    pub const ALL: [Self; 3] = [Self::Words, Self::Subject, Self::Result];

    /// The name, as a hook is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Words => "words",
            Self::Subject => "subject",
            Self::Result => "result",
        }
    }
}

/// What a gate decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be used.
    Allowed,
    /// It must not be used.
    Withheld {
        /// One line for the client.
        reason: String,
    },
}

/// What holds while there is no verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenUnreachable {
    /// Everything is allowed.
    Open,
    /// Nothing is allowed: jobs wait for a verdict.
    #[default]
    Closed,
}
