//! What a job asks of its pictures: their size, the guidance, and how they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::PerScale;

/// The pixel budgets of the schedule table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum PixelBudget {
    /// About 64 x 64, for networks whose tokens are 8 pixels wide.
    #[serde(rename = "0.004M")]
    M0_004,
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

impl PixelBudget {
    /// The name in the schedule table, such as `0.06M`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::M0_004 => "0.004M",
            Self::M0_06 => "0.06M",
            Self::M0_25 => "0.25M",
            Self::M0_60 => "0.60M",
            Self::M1 => "1M",
        }
    }

    /// About how large a picture is, in thousands of pixels.
    pub const fn kilopixels(self) -> u32 {
        match self {
            Self::M0_004 => 4,
            Self::M0_06 => 66,
            Self::M0_25 => 262,
            Self::M0_60 => 590,
            Self::M1 => 1_049,
        }
    }
}

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
