//! The result of a job: the content of its `result.json`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BoundingBox, ContentHash, Job, JobId, JobOutline, OutputFormat, PerScale, PixelBudget};

/// The result of a job. It is written once, and only if absent: its presence is the job's commit mark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobResult {
    /// The job.
    pub id: JobId,
    /// How it ended.
    pub status: JobStatus,
    /// Why it did not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The pictures, in the order of the seeds.
    #[serde(default)]
    pub images: Vec<ResultImage>,
    /// Pictures that the operator's content gate withholds, in the order of the seeds; they are not among `images`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<WithheldImage>,
    /// The seeds, in the order of the pictures, those that are withheld included.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// The parameters as used, with the bundle's defaults. Absent if the job never got so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// What was recognised as the subject. Absent if the job never got so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectFound>,
    /// SHA-256 of the checkpoint of each network that took part, by the network's name.
    #[serde(default)]
    pub models: BTreeMap<String, String>,
    /// The version of EchoGen.
    pub version: String,
    /// Seconds that each stage, or step of a stage, took.
    #[serde(default)]
    pub timings: BTreeMap<String, f64>,
    /// Whether the product of each stage already existed.
    #[serde(default)]
    pub cached: BTreeMap<String, bool>,
    /// What the job has taken; absent if it did not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// When it ended.
    pub finished: Timestamp,
    /// What the job asked for; see [`Job::content`]. Absent if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub content: Option<ContentHash>,
    /// See [`Job::again`].
    #[serde(default, skip_serializing_if = "crate::is_zero")]
    pub again: u64,
    /// The client's own notes; absent if the job was cancelled or its JSON was invalid.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl JobResult {
    /// A job that ended without pictures, for the reason given.
    pub fn failed(job: &JobOutline, failure: Failure, version: &str, finished: Timestamp) -> Self {
        let status = match failure.kind {
            FailureKind::Expired => JobStatus::Expired,
            FailureKind::Cancelled => JobStatus::Cancelled,
            _ => JobStatus::Failed,
        };
        Self { error: Some(failure), ..Self::empty(job, status, version, finished) }
    }

    /// A job that completed; the caller fills in what was made and how.
    pub fn completed(job: &Job, images: Vec<ResultImage>, version: &str, finished: Timestamp) -> Self {
        Self { images, ..Self::empty(&job.outline(), JobStatus::Completed, version, finished) }
    }

    /// A cancelled job of which only the id is known.
    pub fn cancelled(id: JobId, version: &str, finished: Timestamp) -> Self {
        Self { error: Some(Failure::cancelled()), ..Self::bare(id, JobStatus::Cancelled, version, finished) }
    }

    /// Whether a job with this number of [`Job::again`] is to run although it has this result: only what has completed
    /// settles a job for good.
    pub fn is_superseded_by(&self, again: u64) -> bool {
        self.status != JobStatus::Completed && again > self.again
    }

    fn empty(job: &JobOutline, status: JobStatus, version: &str, finished: Timestamp) -> Self {
        let (seeds, metadata, again) = (job.seeds.clone(), job.metadata.clone(), job.again);
        Self { seeds, metadata, again, ..Self::bare(job.id.clone(), status, version, finished) }
    }

    fn bare(id: JobId, status: JobStatus, version: &str, finished: Timestamp) -> Self {
        Self {
            id,
            status,
            error: None,
            images: Vec::new(),
            withheld: Vec::new(),
            seeds: Vec::new(),
            parameters: None,
            subject: None,
            models: BTreeMap::new(),
            version: version.to_owned(),
            timings: BTreeMap::new(),
            cached: BTreeMap::new(),
            usage: None,
            finished,
            content: None,
            again: 0,
            metadata: BTreeMap::new(),
        }
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// All pictures are stored, but for those that are withheld.
    Completed,
    /// The job failed permanently; submitting it unchanged would fail again.
    Failed,
    /// The client took it back.
    Cancelled,
    /// Its deadline passed.
    Expired,
}

/// Why a job ended without pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The kind, for programs.
    pub kind: FailureKind,
    /// One line that says what to change, for people.
    pub message: String,
}

impl Failure {
    /// The failure of a cancelled job.
    pub fn cancelled() -> Self {
        Self { kind: FailureKind::Cancelled, message: "the job was cancelled".to_owned() }
    }
}

/// The kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A field of the job is wrong.
    InvalidJob,
    /// The subject's picture is missing or unreadable, or too large.
    BadImage,
    /// The job asks for something that this installation does not offer.
    Unsupported,
    /// The operator's content gate withholds the subject's picture.
    Withheld,
    /// The deadline passed.
    Expired,
    /// The client took it back.
    Cancelled,
    /// A fault of EchoGen.
    Internal,
}

impl FailureKind {
    /// The name in `result.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJob => "invalid_job",
            Self::BadImage => "bad_image",
            Self::Unsupported => "unsupported",
            Self::Withheld => "withheld",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// One picture of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResultImage {
    /// Its key in the result store.
    pub key: String,
    /// The seed it was drawn with.
    pub seed: u64,
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// SHA-256 of the file.
    #[schemars(with = "String")]
    pub sha256: ContentHash,
    /// The verdict of the operator's content gate; absent where none checks pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<Safety>,
}

/// The verdict on a picture. A picture that is withheld is not among the pictures: it is a [`WithheldImage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Safety {
    /// The verdict.
    pub verdict: SafetyVerdict,
}

/// What a content gate decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SafetyVerdict {
    /// The picture may be used.
    Allowed,
}

/// A picture that was made and that the operator's content gate withholds: it is stored nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WithheldImage {
    /// Its number, counted from 0 in the order of the seeds.
    pub index: usize,
    /// The seed it was drawn with.
    pub seed: u64,
    /// Why it is withheld, in one line.
    pub reason: String,
}

/// What a completed job has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The pictures that were made and stored.
    pub images: u64,
    /// The millions of pixels of these pictures together.
    pub megapixels: f64,
    /// The job's share of the time that its batches held the networks' thread of a sampler, in seconds: each picture has an
    /// equal share of every step of its batch. Batches that failed do not count.
    pub device_seconds: f64,
    /// The previews that were stored.
    pub previews: u64,
}

/// The parameters a job was sampled with: the client's, completed by the bundle's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Parameters {
    /// The model bundle's name.
    pub bundle: String,
    /// The prompt.
    pub prompt: String,
    /// The negative prompt, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// The aspect ratio as requested.
    pub aspect_ratio: String,
    /// The pixel budget.
    pub pixel_budget: PixelBudget,
    /// Pixels from left to right, of the nearest shape in the schedule table.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// Guidance towards the prompt.
    pub text_guidance: PerScale,
    /// Guidance towards the subject.
    pub subject_guidance: PerScale,
    /// The temperature.
    pub temperature: PerScale,
    /// 1 for greedy; anything else draws.
    pub top_k: u32,
    /// The rarer value of a bit is excluded at a probability of `1 - top_p` or less.
    pub top_p: f64,
    /// The file format.
    pub format: OutputFormat,
    /// The quality of a JPEG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<u8>,
}

/// What was recognised as the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectFound {
    /// SHA-256 of the subject's picture as fetched.
    #[schemars(with = "String")]
    pub image: ContentHash,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is in the upright picture.
    #[serde(rename = "box")]
    pub bounding_box: BoundingBox,
    /// The detector's score, 0 to 1, if it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// How it was found.
    pub how: FoundBy,
}

/// How the subject's place was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// The job gave the box.
    Job,
    /// Nothing was searched for: the whole picture is the subject.
    WholeImage,
    /// The detector found it.
    Detector,
    /// The detector found no such subject, and the job asked for the whole picture in this case.
    NotFound,
}
