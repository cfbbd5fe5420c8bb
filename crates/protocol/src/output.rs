//! What a job asks of its pictures: their size, the guidance, and how they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PerScale;

/// Classifier-free guidance on its two axes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Guidance {
    /// How strongly the picture follows the prompt, 0 to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<PerScale>,
    /// How strongly the picture follows the subject, 0 to 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<PerScale>,
}

/// How the pictures are written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OutputOptions {
    /// The file format.
    #[serde(default)]
    pub format: OutputFormat,
    /// JPEG quality, 1 to 100; other formats are lossless. Absent: 90.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u8>,
    /// Key prefix in the result store, in parts joined by `/`; below it the results are stored under the job's id. Absent:
    /// the id alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"))]
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

impl OutputFormat {
    /// The ending of a file of this format, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Webp => "webp",
        }
    }
}
