//! Cut-outs: a picture, and which of its pixels show the subject. All other pixels are painted white.
//!
//! A cut-out is no picture of its own. It is small enough for a task, and whoever needs its pixels paints them.

mod runs;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{BoundingBox, ContentHash};

pub use runs::{MaskError, MaskRuns};

/// A picture, and which of its pixels show the subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOut {
    /// SHA-256 of the picture as it was fetched.
    pub image: ContentHash,
    /// The pixels that show the subject.
    pub area: SubjectArea,
}

/// Which pixels of the upright picture show the subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SubjectArea {
    /// All of them.
    Whole,
    /// Those in a box. It has an area; whether it lies within the picture is known only to whoever has the picture.
    Box(#[serde(deserialize_with = "box_with_area")] BoundingBox),
    /// Those in a mask.
    Mask(MaskRuns),
}

fn box_with_area<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BoundingBox, D::Error> {
    let area = BoundingBox::deserialize(deserializer)?;
    let BoundingBox { left, top, right, bottom } = area;
    if left < right && top < bottom {
        return Ok(area);
    }
    Err(D::Error::custom(format!("the box from ({left}, {top}) to ({right}, {bottom}) is empty")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_area_is_read_back_and_a_box_without_area_is_refused() {
        let image = ContentHash::of(b"dog");
        let area = BoundingBox { left: 1, top: 2, right: 3, bottom: 4 };
        let mask = MaskRuns::new(3, 2, vec![1, 4, 1]).unwrap();
        for area in [SubjectArea::Whole, SubjectArea::Box(area), SubjectArea::Mask(mask)] {
            let cut_out = CutOut { image, area };
            let json = serde_json::to_string(&cut_out).unwrap();
            assert_eq!(serde_json::from_str::<CutOut>(&json).unwrap(), cut_out, "{json}");
        }
        let read = |area: &str| serde_json::from_str::<SubjectArea>(area).map_err(|error| error.to_string());
        assert_eq!(read(r#"{"kind":"whole","shade":"white"}"#), Ok(SubjectArea::Whole), "unknown fields are ignored");
        let error = read(r#"{"kind":"box","left":3,"top":0,"right":3,"bottom":6}"#).unwrap_err();
        assert!(error.contains("(3, 0) to (3, 6) is empty"), "{error}");
        assert!(read(r#"{"kind":"polygon"}"#).is_err(), "an unknown kind is not taken for the whole picture");
        let error = read(r#"{"kind":"mask","width":3,"height":2,"runs":"14"}"#).unwrap_err();
        assert!(error.contains("of 3 x 2"), "{error}");
    }
}
