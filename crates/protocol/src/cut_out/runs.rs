//! Masks as lengths of runs, and their text.
//!
//! The text is COCO's compressed run-length encoding, but row by row instead of column by column: `pycocotools` reads it
//! as a mask of the transposed picture. Every length but the first three is written as its difference to the one two
//! before it, which is small where an outline is smooth. Such a number is written in groups of five bits, the lowest
//! first, each as one character from `0` to `o`; a sixth bit says that another group follows.

use serde::{Deserialize, Serialize};

use crate::limits;

/// First character of the text's alphabet.
const FIRST: u8 = b'0';

/// The bit of a character that says that another one follows.
const MORE: u8 = 0x20;

/// A mask as the lengths of its runs: row by row, pixels outside and inside in turn, beginning with those outside. The
/// first run may be empty, all others have a pixel; at least one is inside. They add up to the picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "MaskText", into = "MaskText")]
pub struct MaskRuns {
    width: u32,
    height: u32,
    runs: Vec<u32>,
}

/// Why there is no such mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    /// Its text is too long.
    #[error("the mask takes {size} bytes; the limit is {}", limits::MAX_MASK_BYTES)]
    TooLong {
        /// Bytes of its text.
        size: usize,
    },
    /// The text is not one.
    #[error("the mask's runs are unreadable")]
    Unreadable,
    /// The runs do not add up, one is empty, or none is inside.
    #[error("the mask's runs are not those of a picture of {width} x {height}")]
    WrongRuns {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
    },
}

/// A mask in JSON.
#[derive(Serialize, Deserialize)]
struct MaskText {
    width: u32,
    height: u32,
    runs: String,
}

impl MaskRuns {
    /// A mask of a picture of `width` x `height` pixels.
    ///
    /// # Errors
    ///
    /// A run but the first is empty, there is none inside, they do not add up to the picture, or their text would be longer
    /// than [`limits::MAX_MASK_BYTES`].
    pub fn new(width: u32, height: u32, runs: Vec<u32>) -> Result<Self, MaskError> {
        let size = text_of(&runs).len();
        if size > limits::MAX_MASK_BYTES {
            return Err(MaskError::TooLong { size });
        }
        Self::checked(width, height, runs)
    }

    fn checked(width: u32, height: u32, runs: Vec<u32>) -> Result<Self, MaskError> {
        let pixels: u64 = runs.iter().map(|run| u64::from(*run)).sum();
        let are_filled = runs.len() > 1 && runs.iter().skip(1).all(|run| *run > 0);
        if pixels != u64::from(width) * u64::from(height) || !are_filled {
            return Err(MaskError::WrongRuns { width, height });
        }
        Ok(Self { width, height, runs })
    }

    /// Pixels from left to right, and from top to bottom.
    pub fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The lengths of the runs, beginning with one outside.
    pub fn runs(&self) -> &[u32] {
        &self.runs
    }
}

impl TryFrom<MaskText> for MaskRuns {
    type Error = MaskError;

    fn try_from(MaskText { width, height, runs }: MaskText) -> Result<Self, MaskError> {
        // Before anything is allocated: each character can be a run.
        if runs.len() > limits::MAX_MASK_BYTES {
            return Err(MaskError::TooLong { size: runs.len() });
        }
        Self::checked(width, height, runs_of(&runs).ok_or(MaskError::Unreadable)?)
    }
}

impl From<MaskRuns> for MaskText {
    fn from(MaskRuns { width, height, runs }: MaskRuns) -> Self {
        Self { width, height, runs: text_of(&runs) }
    }
}

/// The run that the one at `index` is compared with.
fn two_before(runs: &[u32], index: usize) -> i64 {
    if index < 3 { 0 } else { runs.get(index - 2).map_or(0, |run| i64::from(*run)) }
}

fn text_of(runs: &[u32]) -> String {
    let mut text = String::with_capacity(runs.len());
    for (index, run) in runs.iter().enumerate() {
        let mut rest = i64::from(*run) - two_before(runs, index);
        loop {
            let group = (rest & 0x1f) as u8;
            rest >>= 5;
            // The last group's highest bit is the sign.
            let is_last = rest == if group & 0x10 == 0 { 0 } else { -1 };
            text.push(char::from(FIRST + (group | if is_last { 0 } else { MORE })));
            if is_last {
                break;
            }
        }
    }
    text
}

/// Reads the text; `None` unless it is one.
fn runs_of(text: &str) -> Option<Vec<u32>> {
    let mut runs = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while bytes.len() > 0 {
        let (mut number, mut shift) = (0_i64, 0);
        loop {
            let group = bytes.next()?.checked_sub(FIRST).filter(|group| *group < 0x40)?;
            // Seven groups hold the difference of any two lengths.
            if shift > 30 {
                return None;
            }
            number |= i64::from(group & 0x1f) << shift;
            shift += 5;
            if group & MORE == 0 {
                if group & 0x10 != 0 {
                    number |= -1 << shift;
                }
                break;
            }
        }
        runs.push(u32::try_from(number + two_before(&runs, runs.len())).ok()?);
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(width: u32, height: u32, runs: &str) -> Result<MaskRuns, MaskError> {
        MaskRuns::try_from(MaskText { width, height, runs: runs.to_owned() })
    }

    #[test]
    fn the_text_is_cocos() {
        // As `encode` of pycocotools 2.0 writes them, and its `decode` reads them.
        for (runs, text) in [
            (vec![6, 3, 2, 3, 2, 3, 6], "6320004"),
            (vec![0, 1], "01"),
            (vec![1_000, 24], "Xo0h0"),
            (vec![0, 5, 11, 40, 11, 5], "05;S10mN"),
            (vec![7, 900, 31, 15, 2_000_000, 16], "7Tl0o0[TOQSQm11"),
        ] {
            assert_eq!((text_of(&runs).as_str(), runs_of(text)), (text, Some(runs)));
        }
    }

    #[test]
    fn runs_that_cannot_be_are_refused() {
        assert!(read(3, 2, "06").is_ok() && read(3, 2, "15").is_ok());
        for (runs, error) in [
            ("", MaskError::WrongRuns { width: 3, height: 2 }),
            ("6", MaskError::WrongRuns { width: 3, height: 2 }),
            ("14", MaskError::WrongRuns { width: 3, height: 2 }),
            ("303", MaskError::WrongRuns { width: 3, height: 2 }),
            ("P", MaskError::Unreadable),
            ("/", MaskError::Unreadable),
            ("p", MaskError::Unreadable),
            ("é", MaskError::Unreadable),
            ("ooooooo0", MaskError::Unreadable),
        ] {
            assert_eq!(read(3, 2, runs), Err(error), "{runs:?}");
        }
        assert!(MaskRuns::new(0, 0, Vec::new()).is_err() && MaskRuns::new(0, 5, vec![0]).is_err());
        assert!(MaskRuns::new(u32::MAX, u32::MAX, vec![u32::MAX; 9]).is_err(), "sums do not overflow");
    }

    #[test]
    fn a_mask_is_as_long_as_it_may_be_and_no_longer() {
        let most = limits::MAX_MASK_BYTES as u32;
        // Every second pixel: one character for each run.
        assert!(MaskRuns::new(most, 1, vec![1; most as usize]).is_ok());
        let size = limits::MAX_MASK_BYTES + 1;
        assert_eq!(MaskRuns::new(most + 1, 1, vec![1; size]), Err(MaskError::TooLong { size }));
        let long = "1".repeat(size);
        assert_eq!(read(most + 1, 1, &long), Err(MaskError::TooLong { size }));
    }

    proptest! {
        #[test]
        fn a_mask_read_back_is_the_mask(runs in prop::collection::vec(1_u32..=4_000_000, 2..200), leads in any::<bool>()) {
            let runs: Vec<u32> = leads.then_some(0).into_iter().chain(runs).collect();
            let mask = MaskRuns::new(runs.iter().sum(), 1, runs).unwrap();
            let json = serde_json::to_string(&mask).unwrap();
            prop_assert_eq!(serde_json::from_str::<MaskRuns>(&json).unwrap(), mask);
        }

        #[test]
        fn any_text_is_refused_or_read_back(text in "[ -~]{0,40}", width in 0_u32..100, height in 0_u32..100) {
            if let Ok(mask) = read(width, height, &text) {
                let again = MaskText::from(mask.clone());
                prop_assert!(again.runs.len() <= text.len());
                prop_assert_eq!(MaskRuns::try_from(again), Ok(mask));
            }
        }
    }
}
