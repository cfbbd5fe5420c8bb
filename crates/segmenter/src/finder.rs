//! How a subject is located: its name, the choice among the detected boxes, and its outline.
//!
//! The rules are here and the networks are behind [`SubjectNetworks`], so that tests need no weights.

use std::time::Duration;

use echogen_imaging::{PixelBox, RgbImage, SubjectMask};
use echogen_models::{
    detector::{Detection, DetectorError},
    masker::MaskerError,
    namer::NamerError,
    subject_finder::SubjectFinder,
};
use echogen_ports::seconds;
use echogen_protocol::{BoundingBox, FoundBy, IfNotFound, MaskMode, Point, Subject};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::detector::{DetectError, Found, whole};

/// The published code keeps every box with a score above this.
const PUBLISHED_THRESHOLD: f32 = 0.01;

/// Which box of several is the subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// The one with the best score, if that passes the threshold.
    #[default]
    Best,
    /// The first in the network's own order with a score above 0.01, as the published code does: for reproduction.
    Published,
}

/// How the subject is looked for. All roles need the same: cut-outs are kept under keys that depend on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FinderConfig {
    /// Least score of a box, 0 to 1; the detector's authors use 0.25 to 0.4.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub threshold: f32,
    /// Which box of several is the subject.
    pub selection: Selection,
    /// By how much of its width and height a found box grows on each side, before it is cut to the picture.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub padding: f32,
    /// What is looked for if neither the job nor a network says what the subject is.
    pub fallback_name: String,
    /// Seconds that the network may take to say what the subject is; what it said by then counts.
    pub naming_timeout_seconds: f64,
}

impl Default for FinderConfig {
    fn default() -> Self {
        Self {
            threshold: 0.3,
            selection: Selection::Best,
            padding: 0.0,
            fallback_name: "the main object".to_owned(),
            naming_timeout_seconds: 120.0,
        }
    }
}

impl FinderConfig {
    /// Returns all settings that an answer depends on, for the key of a cut-out. The time limit is not one of them.
    pub(crate) fn version(&self) -> String {
        let Self { threshold, selection, padding, fallback_name, naming_timeout_seconds: _ } = self;
        format!("{threshold}/{selection:?}/{padding}/{fallback_name}")
    }

    /// Returns the namer's time limit; a negative or non-numeric value counts as zero.
    pub(crate) fn naming_timeout(&self) -> Duration {
        seconds(self.naming_timeout_seconds).unwrap_or_default()
    }
}

/// Why a network gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The name is not usable; the network is not at fault.
    #[error("{0}")]
    BadName(String),
    /// The network cannot process this picture; another method may.
    #[error("{0}")]
    BadPicture(String),
    /// The network failed.
    #[error(transparent)]
    Failed(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// The networks that locate a subject. Each may be missing.
pub trait SubjectNetworks: Send {
    /// Returns what the picture's subject is called; `None` without a namer, or if the namer returns no name. May run
    /// for long, so it calls `keep_going` regularly and stops when that returns false.
    fn name(&self, picture: &RgbImage, keep_going: &dyn Fn() -> bool) -> Result<Option<String>, NetworkError>;

    /// Returns all boxes where a subject of that name may be, in the network's order; `None` without a detector.
    fn detect(&self, picture: &RgbImage, name: &str) -> Result<Option<Vec<Detection>>, NetworkError>;

    /// Returns the outline of what is in the box; `None` without a masker.
    fn outline(&self, picture: &RgbImage, area: PixelBox) -> Result<Option<SubjectMask>, NetworkError>;

    /// Returns whether there is a detector.
    fn can_detect(&self) -> bool;

    /// Returns whether there is a masker.
    fn can_outline(&self) -> bool;
}

impl SubjectNetworks for SubjectFinder {
    fn name(&self, picture: &RgbImage, keep_going: &dyn Fn() -> bool) -> Result<Option<String>, NetworkError> {
        let Some(namer) = &self.namer else { return Ok(None) };
        namer.name(picture, keep_going).map_err(|error| match error {
            NamerError::Picture(error) => NetworkError::BadPicture(error.to_string()),
            other => NetworkError::Failed(other.into()),
        })
    }

    fn detect(&self, picture: &RgbImage, name: &str) -> Result<Option<Vec<Detection>>, NetworkError> {
        let detect = |detector: &echogen_models::detector::SubjectDetector| detector.detect(picture, name);
        self.detector.as_ref().map(detect).transpose().map_err(|error: DetectorError| match error {
            error if error.is_bad_name() => NetworkError::BadName(error.to_string()),
            other => NetworkError::Failed(other.into()),
        })
    }

    fn outline(&self, picture: &RgbImage, area: PixelBox) -> Result<Option<SubjectMask>, NetworkError> {
        let outline = |masker: &echogen_models::masker::SubjectMasker| masker.outline(picture, area);
        self.masker.as_ref().map(outline).transpose().map_err(|error: MaskerError| match error {
            MaskerError::Image(error) => NetworkError::BadPicture(error.to_string()),
            other => NetworkError::Failed(other.into()),
        })
    }

    fn can_detect(&self) -> bool {
        self.detector.is_some()
    }

    fn can_outline(&self) -> bool {
        self.masker.is_some()
    }
}

/// Locates a subject by the job's box or by the networks.
///
/// # Errors
///
/// The job asks for what the networks do not offer; it gives no usable name; there is no such subject and the job's
/// policy is to fail; or a network failed.
pub fn find_subject(
    networks: &dyn SubjectNetworks,
    config: &FinderConfig,
    picture: &RgbImage,
    subject: &Subject,
    keep_going: &dyn Fn() -> bool,
) -> Result<Found, DetectError> {
    if subject.mask == MaskMode::Sam && !networks.can_outline() {
        return Err(DetectError::no_masker());
    }
    let found = locate(networks, config, picture, subject, keep_going)?;
    // Without a located subject, an outline would be meaningless.
    let is_somewhere = !matches!(found.how, FoundBy::NotFound | FoundBy::WholeImage);
    if subject.mask == MaskMode::Sam && is_somewhere { outlined(networks, picture, subject, found) } else { Ok(found) }
}

fn locate(
    networks: &dyn SubjectNetworks,
    config: &FinderConfig,
    picture: &RgbImage,
    subject: &Subject,
    keep_going: &dyn Fn() -> bool,
) -> Result<Found, DetectError> {
    let found = |bounding_box, how| Found { bounding_box, mask: None, name: subject.name.clone(), score: None, how };
    if let Some(given) = subject.bounding_box {
        return Ok(found(given, FoundBy::Job));
    }
    if subject.mask == MaskMode::None {
        return Ok(found(whole(picture), FoundBy::WholeImage));
    }
    if !networks.can_detect() {
        let no_search = subject.point.is_none() && subject.mask != MaskMode::Sam;
        return if no_search {
            Ok(found(whole(picture), FoundBy::WholeImage))
        } else {
            Err(DetectError::no_detector())
        };
    }
    check_point(picture, subject.point)?;
    let name = match &subject.name {
        Some(name) => name.clone(),
        None => asked_name(networks, config, picture, keep_going)?,
    };
    let detections = networks.detect(picture, &name)?.unwrap_or_default();
    match choose(&detections, config, subject.point) {
        Some(chosen) => Ok(Found {
            bounding_box: pixel_box(chosen, config, picture),
            mask: None,
            name: Some(name),
            score: Some(f64::from(chosen.score)),
            how: FoundBy::Detector,
        }),
        None => not_found(picture, subject, name, &detections, config),
    }
}

fn check_point(picture: &RgbImage, point: Option<Point>) -> Result<(), DetectError> {
    match point {
        Some(Point { x, y }) if x >= picture.width() || y >= picture.height() => Err(DetectError::NotFound(format!(
            "subject.point ({x}, {y}) lies outside the picture of {} x {}",
            picture.width(),
            picture.height()
        ))),
        _ => Ok(()),
    }
}

/// Returns the namer's answer, or the fallback if there is no namer, it returns no name, or it cannot process the
/// picture.
fn asked_name(
    networks: &dyn SubjectNetworks,
    config: &FinderConfig,
    picture: &RgbImage,
    keep_going: &dyn Fn() -> bool,
) -> Result<String, DetectError> {
    match networks.name(picture, keep_going) {
        Ok(Some(name)) => Ok(name),
        Ok(None) | Err(NetworkError::BadPicture(_) | NetworkError::BadName(_)) => Ok(config.fallback_name.clone()),
        Err(error) => Err(error.into()),
    }
}

/// Chooses the detection that is the subject: it must have an area and, if a point is given, contain the point.
fn choose<'a>(detections: &'a [Detection], config: &FinderConfig, point: Option<Point>) -> Option<&'a Detection> {
    let fits = |detection: &&Detection| {
        let [left, top, right, bottom] = detection.bounding_box;
        let (x, y) = point.map_or((None, None), |Point { x, y }| (Some(x as f32 + 0.5), Some(y as f32 + 0.5)));
        let inside = x.is_none_or(|x| left <= x && x <= right) && y.is_none_or(|y| top <= y && y <= bottom);
        inside && left < right && top < bottom
    };
    let mut candidates = detections.iter().filter(fits);
    match config.selection {
        Selection::Published => candidates.find(|detection| detection.score > PUBLISHED_THRESHOLD),
        Selection::Best => {
            let passing = candidates.filter(|detection| detection.score >= config.threshold);
            // Among equal scores the first wins, so that the answer is deterministic.
            passing.reduce(|best, other| if other.score > best.score { other } else { best })
        }
    }
}

/// Converts the box to whole pixels, adds the padding and clips it to the picture. The published code rounds towards
/// zero and adds no padding.
fn pixel_box(chosen: &Detection, config: &FinderConfig, picture: &RgbImage) -> BoundingBox {
    let [left, top, right, bottom] = chosen.bounding_box;
    let span = |from: f32, to: f32, size: u32| {
        let (from, to) = match config.selection {
            Selection::Best => {
                let grow = config.padding.max(0.0) * (to - from);
                ((from - grow).floor(), (to + grow).ceil())
            }
            Selection::Published => (from.trunc(), to.trunc()),
        };
        let from = (from.max(0.0) as u32).min(size.saturating_sub(1));
        (from, (to.max(0.0) as u32).clamp(from + 1, size.max(1)))
    };
    let (left, right) = span(left, right, picture.width());
    let (top, bottom) = span(top, bottom, picture.height());
    BoundingBox { left, top, right, bottom }
}

fn not_found(
    picture: &RgbImage,
    subject: &Subject,
    name: String,
    detections: &[Detection],
    config: &FinderConfig,
) -> Result<Found, DetectError> {
    let best = detections.iter().map(|detection| detection.score).fold(0.0, f32::max);
    match subject.if_not_found {
        IfNotFound::WholeImage => Ok(Found {
            bounding_box: whole(picture),
            mask: None,
            name: Some(name),
            score: Some(f64::from(best)),
            how: FoundBy::NotFound,
        }),
        IfNotFound::Fail => {
            let place = subject.point.map_or(String::new(), |Point { x, y }| format!(" at ({x}, {y})"));
            let needed = match config.selection {
                Selection::Published => PUBLISHED_THRESHOLD,
                Selection::Best => config.threshold,
            };
            // With a point, a detection may pass the threshold but lie elsewhere; the error says which of the two it
            // was.
            let why = match subject.point.and(choose(detections, config, None)) {
                Some(Detection { score, .. }) => format!(
                    "one elsewhere has a score of {score:.2}, but no box of {needed:.2} or more holds that point; give \
                     another subject.point or none, or subject.box"
                ),
                None => format!("the best score is {best:.2}, {needed:.2} is needed; give subject.name or subject.box"),
            };
            let message = format!(
                "no {name:?} was found in the picture{place}: {why}, or set subject.if_not_found to \"whole_image\""
            );
            Err(DetectError::NotFound(message))
        }
    }
}

/// Adds the outline within the box. A box outside the picture is left to the segmenter's own check.
fn outlined(
    networks: &dyn SubjectNetworks,
    picture: &RgbImage,
    subject: &Subject,
    found: Found,
) -> Result<Found, DetectError> {
    let BoundingBox { left, top, right, bottom } = found.bounding_box;
    let area = PixelBox { left, top, right, bottom };
    if area.check(picture.width(), picture.height()).is_err() {
        return Ok(found);
    }
    let mask = networks.outline(picture, area)?.filter(|mask| !mask.is_empty());
    match (mask, subject.if_not_found) {
        (Some(mask), _) => Ok(Found { mask: Some(mask), ..found }),
        (None, IfNotFound::WholeImage) => {
            Ok(Found { bounding_box: whole(picture), mask: None, how: FoundBy::NotFound, ..found })
        }
        (None, IfNotFound::Fail) => {
            let message = "nothing in the subject's box has an outline; use subject.mask \"box\"";
            Err(DetectError::NotFound(message.to_owned()))
        }
    }
}

impl From<NetworkError> for DetectError {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::BadName(message) => Self::BadName(message),
            NetworkError::BadPicture(message) => Self::NotFound(message),
            NetworkError::Failed(source) => Self::Failed(source),
        }
    }
}

#[cfg(test)]
#[path = "finder_tests.rs"]
mod tests;
