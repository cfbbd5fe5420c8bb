//! The subject of a job: its picture, and where in it the subject is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ImageSource, limits};

/// The subject's picture and where in it the subject is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Subject {
    /// A file path, or a `data:`, `s3://` or `https://` address.
    pub image: ImageSource,
    /// What the subject is called. Absent: the namer decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limits::MAX_NAME_CHARS))]
    pub name: Option<String>,
    /// Where the subject is. Absent: the detector looks for it.
    #[serde(default, rename = "box", skip_serializing_if = "Option::is_none")]
    pub bounding_box: Option<BoundingBox>,
    /// A pixel of the subject, if there are several of its name in the picture. Instead of a box.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<Point>,
    /// How the background is removed.
    #[serde(default)]
    pub mask: MaskMode,
    /// What to do if the detector finds no such subject.
    #[serde(default, skip_serializing_if = "IfNotFound::is_default")]
    pub if_not_found: IfNotFound,
}

impl Subject {
    /// The subject of a picture, without any further field.
    pub fn new(image: ImageSource) -> Self {
        Self {
            image,
            name: None,
            bounding_box: None,
            point: None,
            mask: MaskMode::default(),
            if_not_found: IfNotFound::default(),
        }
    }
}

/// A pixel of the upright picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Point {
    /// Column.
    pub x: u32,
    /// Row.
    pub y: u32,
}

/// What to do if the detector finds no such subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfNotFound {
    /// The job fails and says so.
    #[default]
    Fail,
    /// The whole picture is the subject; the result says so.
    WholeImage,
}

impl IfNotFound {
    /// Omitted from a job's JSON by default, so that jobs without it keep their bytes, and with them their ids.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A rectangle in pixels of the upright picture; the right and lower edges are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
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

/// Which part of the picture is painted white.
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
