//! What a client asks for.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One request: a subject, a sentence, and how to sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Idempotency key: the same id names the same job, however often it is sent.
    pub id: JobId,
    /// Whose job it is; for fairness and accounting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What to put into the scene.
    pub subject: Subject,
    /// The scene, in words.
    pub prompt: String,
    /// What the picture should not show; takes the place of "no text" in the guidance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// One picture is made for each seed.
    #[serde(default)]
    pub seeds: Seeds,
    /// Width to height, such as `"1:1"` or `"16:9"`.
    #[serde(default = "default_aspect_ratio")]
    pub aspect_ratio: String,
    /// About how many pixels a picture has. Absent: the bundle's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixel_budget: Option<PixelBudget>,
    /// Strength of text and subject. Absent: the bundle's defaults.
    #[serde(default)]
    pub guidance: Guidance,
    /// Divides the logits: above 1 is more varied, below 1 is safer. Absent: the bundle's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<PerScale>,
    /// 1 takes the likelier value of every bit (greedy); more changes nothing, since a bit has two values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// A bit value as rare as `1 - top_p` is never drawn. Absent: the bundle's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// How and where the pictures are written.
    #[serde(default)]
    pub output: OutputOptions,
    /// Which intake queue serves the job.
    #[serde(default)]
    pub lane: Lane,
    /// After this moment the job ends as expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// An `https://` address that is told when the job has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// The client's own notes; returned with the result as they came.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Names a job: 1 to 128 letters, digits, `.`, `_`, `-`; it does not begin with a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct JobId(pub String);

/// The subject's picture and where in it the subject is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// A file path, or a `data:`, `s3://` or `https://` address.
    pub image: ImageSource,
    /// What the subject is called. Absent: it is asked of the namer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where the subject is. Absent: the detector looks for it.
    #[serde(default, rename = "box", skip_serializing_if = "Option::is_none")]
    pub bounding_box: Option<BoundingBox>,
    /// How the background is taken away.
    #[serde(default)]
    pub mask: MaskMode,
}

/// Where an image comes from, as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ImageSource(pub String);

/// A rectangle in pixels of the upright picture; the right and lower edges are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BoundingBox {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// One past the last column.
    pub right: u32,
    /// One past the last row.
    pub bottom: u32,
}

/// What of the background is painted white.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskMode {
    /// Everything outside the box.
    #[default]
    Box,
    /// Everything outside the mask that SAM finds in the box.
    Sam,
    /// Nothing: the picture is used as it is.
    None,
}

/// Which seeds to sample with: a list, or a first seed and a count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Seeds {
    /// These seeds.
    List(Vec<u64>),
    /// `count` seeds, from `first` upwards.
    Range {
        /// The first seed.
        #[serde(default)]
        first: u64,
        /// How many.
        count: u32,
    },
}

impl Default for Seeds {
    fn default() -> Self {
        Self::Range { first: 42, count: 1 }
    }
}

/// The pixel budgets of the schedule table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PixelBudget {
    /// About 256 x 256.
    #[serde(rename = "0.06M")]
    M0_06,
    /// About 512 x 512.
    #[serde(rename = "0.25M")]
    M0_25,
    /// About 768 x 768.
    #[serde(rename = "0.60M")]
    M0_60,
    /// About 1024 x 1024.
    #[serde(rename = "1M")]
    M1,
}

/// Classifier-free guidance on its two axes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guidance {
    /// How strongly the picture follows the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<PerScale>,
    /// How strongly the picture follows the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<PerScale>,
}

/// One number for all scales, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PerScale {
    /// The same at every scale.
    All(f64),
    /// One number a scale, coarse to fine.
    Each(Vec<f64>),
}

/// How the pictures are written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputOptions {
    /// The file format.
    #[serde(default)]
    pub format: OutputFormat,
    /// JPEG quality, 1 to 100; other formats are lossless. Absent: 90.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<u8>,
    /// Key prefix of the results in the result store. Absent: the job's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
}

/// The formats a result can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// Lossless; the default.
    #[default]
    Png,
    /// Small, lossy.
    Jpeg,
    /// Lossless WebP.
    Webp,
}

/// Intake queues, served by weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// A person is waiting.
    Interactive,
    /// The usual.
    #[default]
    Standard,
    /// Whenever there is room.
    Bulk,
}

fn default_aspect_ratio() -> String {
    "1:1".to_owned()
}
