//! The subject detector: GroundingDINO with its tokenizer and picture preprocessing.

use candle_core::{Device, Tensor};
use image::RgbImage;
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::grounding_dino::{GroundingDino, GroundingDinoInput, PixelMask};
use echogen_imaging::{Filter, ImageError, resize};

/// The size to which a picture is resized, with the field names of the published `preprocessor_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PictureSize {
    /// Target length of the shorter side in pixels, unless the longer side would exceed its limit.
    pub shortest_edge: u32,
    /// Maximum length of the longer side in pixels.
    pub longest_edge: u32,
}

/// Maximum side that a bundle may configure; the network's memory grows with the square of it.
const MAX_EDGE: u32 = 4_096;

impl Default for PictureSize {
    /// The published values.
    fn default() -> Self {
        Self { shortest_edge: 800, longest_edge: 1_333 }
    }
}

/// The preprocessing settings in a bundle's detector table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DetectorPreparation {
    /// See [`PictureSize`].
    pub size: PictureSize,
}

/// ImageNet's channel means (red, green, blue), for values in [0, 1].
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations.
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// [CLS] and [SEP] in BERT's vocabulary, which the network's phrase masks depend on.
const CLS: u32 = 101;
const SEP: u32 = 102;

/// The token that ends a phrase.
const FULL_STOP: u32 = 1012;

/// Minimum score of a token to be part of a detection's phrase; the usual text threshold of GroundingDINO.
const TEXT_THRESHOLD: f32 = 0.25;

/// Maximum number of characters of a name. A name is a noun phrase; the network reads 256 tokens.
pub const MAX_NAME_CHARS: usize = 200;

/// A detected box.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Left, top, right, bottom in pixels of the picture, clipped to it.
    pub bounding_box: [f32; 4],
    /// Score of the best-matching token, 0 to 1.
    pub score: f32,
    /// The words of the name whose scores reach the text threshold.
    pub phrase: String,
}

/// Detection failed.
#[derive(Debug, thiserror::Error)]
pub enum DetectorError {
    /// The name contains no letters.
    #[error("the subject's name {0:?} has no letters or digits; write what it is, such as \"dog\"")]
    EmptyName(String),
    /// The name is too long to be a noun phrase.
    #[error("the subject's name has {0} characters; the limit is {MAX_NAME_CHARS}")]
    LongName(usize),
    /// The tokenizer and the network do not belong together.
    #[error(
        "the tokenizer has {tokens} tokens, the detector's table {rows} rows; take the tokenizer.json published with it"
    )]
    Vocabulary {
        /// Number of tokens of the tokenizer.
        tokens: usize,
        /// Rows of the token embedding table.
        rows: usize,
    },
    /// The bundle configures an invalid or too large size.
    #[error("pictures of {shortest} to {longest} pixels; both must be from 1 to {MAX_EDGE}, and the first the less")]
    Size {
        /// The shorter side.
        shortest: u32,
        /// The longer side.
        longest: u32,
    },
    /// The tokenizer returned an error.
    #[error("cannot split the subject's name into tokens")]
    Tokenize(#[source] tokenizers::Error),
    /// The picture cannot be resized.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A tensor operation failed.
    #[error("cannot run the detector")]
    Network(#[from] candle_core::Error),
}

impl DetectorError {
    /// Whether the name is the cause, so that another name may succeed.
    pub fn is_bad_name(&self) -> bool {
        matches!(self, Self::EmptyName(_) | Self::LongName(_))
    }
}

/// Detects subjects by name.
#[derive(Debug)]
pub struct SubjectDetector {
    network: GroundingDino,
    tokenizer: Tokenizer,
    size: PictureSize,
}

impl SubjectDetector {
    /// Creates a detector from a network and a tokenizer that were published together.
    ///
    /// # Errors
    ///
    /// If the tokenizer can produce token ids that the network's embedding table lacks.
    pub fn new(network: GroundingDino, mut tokenizer: Tokenizer) -> Result<Self, DetectorError> {
        let tokens = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let rows = network.config().text_config.vocab_size;
        if tokens > rows {
            return Err(DetectorError::Vocabulary { tokens, rows });
        }
        // Some tokenizer files contain padding and post-processing, some do not. Both are removed; special tokens are
        // added here.
        tokenizer.with_padding(None).with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        tokenizer.with_truncation(None).map_err(DetectorError::Tokenize)?;
        Ok(Self { network, tokenizer, size: PictureSize::default() })
    }

    /// Sets another picture size than the published one.
    ///
    /// # Errors
    ///
    /// [`DetectorError::Size`] if the size is zero or too large.
    pub fn with_size(self, size: PictureSize) -> Result<Self, DetectorError> {
        let PictureSize { shortest_edge: shortest, longest_edge: longest } = size;
        if shortest == 0 || longest < shortest || longest > MAX_EDGE {
            return Err(DetectorError::Size { shortest, longest });
        }
        Ok(Self { size, ..self })
    }

    /// Detects a subject. Returns one detection per query of the network, in the network's order.
    ///
    /// # Errors
    ///
    /// If the name has no letters or is too long, or a tensor operation fails.
    pub fn detect(&self, picture: &RgbImage, name: &str) -> Result<Vec<Detection>, DetectorError> {
        let caption = caption(name)?;
        let ids = self.tokenize(&caption)?;
        let prepared = prepare(picture, self.size.shortest_edge, self.size.longest_edge)?.unsqueeze(0)?;
        let (_, _, height, width) = prepared.dims4()?;
        let output = self.network.forward(&GroundingDinoInput {
            pixel_values: &prepared.to_device(self.network.device())?,
            pixel_mask: &PixelMask::whole(1, height, width),
            input_ids: &Tensor::from_slice(&ids, (1, ids.len()), self.network.device())?,
            attention_mask: None,
            token_type_ids: None,
        })?;
        let logits = output.logits.squeeze(0)?.narrow(1, 0, ids.len())?.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
        let boxes = output.pred_boxes.squeeze(0)?.to_device(&Device::Cpu)?.to_vec2::<f32>()?;
        let size = (picture.width() as f32, picture.height() as f32);
        Ok(logits.iter().zip(&boxes).map(|(logits, place)| self.detection(&ids, logits, place, size)).collect())
    }

    fn tokenize(&self, caption: &str) -> Result<Vec<u32>, DetectorError> {
        let encoding = self.tokenizer.encode_fast(caption, false).map_err(DetectorError::Tokenize)?;
        let mut ids = vec![CLS];
        ids.extend_from_slice(encoding.get_ids());
        // A truncated caption must still end its phrase.
        ids.truncate(self.network.config().max_text_len.saturating_sub(2).max(1));
        if ids.last() != Some(&FULL_STOP) {
            ids.push(FULL_STOP);
        }
        ids.push(SEP);
        Ok(ids)
    }

    fn detection(&self, ids: &[u32], logits: &[f32], place: &[f32], (width, height): (f32, f32)) -> Detection {
        let probability = |logit: f32| 1.0 / (1.0 + (-logit).exp());
        let score = logits.iter().copied().map(probability).fold(0.0, f32::max);
        let words = ids
            .iter()
            .zip(logits)
            .filter(|(id, logit)| ![CLS, SEP, FULL_STOP].contains(*id) && probability(**logit) > TEXT_THRESHOLD);
        let words: Vec<u32> = words.map(|(id, _)| *id).collect();
        let (x, y, half_width, half_height) = (place[0], place[1], place[2] / 2.0, place[3] / 2.0);
        let across = |at: f32| (at * width).clamp(0.0, width);
        let down = |at: f32| (at * height).clamp(0.0, height);
        Detection {
            bounding_box: [
                across(x - half_width),
                down(y - half_height),
                across(x + half_width),
                down(y + half_height),
            ],
            score,
            phrase: self.tokenizer.decode(&words, true).unwrap_or_default(),
        }
    }
}

/// Formats a name as a caption for the network: lower case, one phrase, ending in " .".
///
/// Full stops and question marks are replaced by spaces, because they would split the name into several phrases;
/// control characters likewise.
///
/// # Errors
///
/// If no letter is left, or the name is longer than [`MAX_NAME_CHARS`].
pub fn caption(name: &str) -> Result<String, DetectorError> {
    let chars = name.chars().count();
    if chars > MAX_NAME_CHARS {
        return Err(DetectorError::LongName(chars));
    }
    let words = name.to_lowercase();
    let words = words.split(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '?'));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    if !words.iter().any(|word| word.chars().any(char::is_alphanumeric)) {
        return Err(DetectorError::EmptyName(name.chars().take(40).collect()));
    }
    Ok(format!("{} .", words.join(" ")))
}

/// Returns (height, width) for a picture: the shorter side is `shortest`, or less if the longer side would exceed
/// `longest`. The rule of the original repository; transformers differs from it by a pixel on some elongated pictures.
pub fn detector_size((height, width): (u32, u32), shortest: u32, longest: u32) -> (u32, u32) {
    let (short, long) = (f64::from(height.min(width)), f64::from(height.max(width)));
    let mut size = f64::from(shortest);
    if long / short * size > f64::from(longest) {
        size = (f64::from(longest) * short / long).round_ties_even();
    }
    // A picture of one pixel in a row keeps that pixel.
    let size = size.max(1.0);
    let other = |long: u32, short: u32| ((size * f64::from(long) / f64::from(short)) as u32).clamp(1, longest.max(1));
    let size_pixels = size as u32;
    if width.min(height) == size_pixels {
        return (height.min(longest), width.min(longest));
    }
    if width < height { (other(height, width), size_pixels) } else { (size_pixels, other(width, height)) }
}

/// Resizes and normalises a picture: returns (3, height, width), f32.
///
/// # Errors
///
/// If the picture has no pixels.
pub fn prepare(picture: &RgbImage, shortest: u32, longest: u32) -> Result<Tensor, DetectorError> {
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return Err(ImageError::NoPixels { width, height }.into());
    }
    let (height, width) = detector_size((height, width), shortest, longest);
    let resized = resize(picture, height, width, Filter::Bilinear)?;
    let plane = |channel: usize| {
        let normal = move |byte: u8| (f32::from(byte) / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel];
        resized.as_raw().iter().skip(channel).step_by(3).map(move |byte| normal(*byte))
    };
    let values: Vec<f32> = (0..3).flat_map(plane).collect();
    Ok(Tensor::from_vec(values, (3, height as usize, width as usize), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_closed_phrases() {
        for (name, expected) in [
            ("dog", "dog ."),
            ("  A Red\tDog ", "a red dog ."),
            ("dog. cat?", "dog cat ."),
            ("dog\u{0}\u{7}house", "dog house ."),
            ("Mr. T.", "mr t ."),
            ("\u{1F415} dog", "\u{1F415} dog ."),
        ] {
            assert_eq!(caption(name).unwrap(), expected, "{name:?}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", " ", "...", "?!", "\u{0}\n"] {
            let error = caption(name).unwrap_err();
            assert!(error.is_bad_name() && error.to_string().contains("no letters"), "{name:?}: {error}");
        }
        let error = caption(&"x".repeat(1_000)).unwrap_err();
        assert_eq!(error.to_string(), "the subject's name has 1000 characters; the limit is 200");
        assert!(caption(&"x".repeat(200)).is_ok());
    }

    #[test]
    fn sizes_follow_the_original_rule() {
        for (size, expected) in [
            ((480, 640), (800, 1_066)),
            ((1_080, 1_920), (750, 1_333)),
            ((500, 2_000), (333, 1_332)),
            ((2_001, 499), (1_331, 332)),
            ((375, 1_242), (402, 1_331)),
            ((800, 800), (800, 800)),
            ((1, 1), (800, 800)),
            ((1, 5_000), (1, 1_333)),
            ((5_000, 1), (1_333, 1)),
        ] {
            assert_eq!(detector_size(size, 800, 1_333), expected, "{size:?}");
        }
    }

    #[test]
    fn a_picture_is_normalised_plane_by_plane() {
        let picture = RgbImage::from_pixel(8, 4, image::Rgb([255, 0, 128]));
        let prepared = prepare(&picture, 4, 100).unwrap();
        assert_eq!(prepared.dims(), [3, 4, 8]);
        let values = prepared.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!((values[0] - (1.0 - 0.485) / 0.229).abs() < 1e-6);
        assert!((values[32] + 0.456 / 0.224).abs() < 1e-6);
        assert!(prepare(&RgbImage::new(0, 3), 4, 100).is_err());
    }
}
