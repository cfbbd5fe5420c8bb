//! Preprocessing of pictures as in the published processor: resizing to whole merged cells, then splitting into
//! patches in block order.

use candle_core::{Device, Tensor};
use image::RgbImage;
use serde::Deserialize;

use super::{
    config::QwenVisionConfig,
    positions::{Grid, place_of_patch},
};
use echogen_imaging::{Filter, ImageError, resize};

/// Maximum ratio of longest to shortest side, as in the published processor.
const MAX_ASPECT_RATIO: f64 = 200.0;

/// Configuration, as in the published `preprocessor_config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct QwenProcessorConfig {
    /// Minimum number of pixels of a preprocessed picture.
    pub min_pixels: usize,
    /// Maximum number of pixels of a preprocessed picture.
    pub max_pixels: usize,
    /// Channel means (red, green, blue), for values in [0, 1].
    pub image_mean: [f32; 3],
    /// Channel standard deviations.
    pub image_std: [f32; 3],
}

impl Default for QwenProcessorConfig {
    /// The published limits, and CLIP's channel statistics.
    fn default() -> Self {
        Self {
            min_pixels: 3_136,
            max_pixels: 12_845_056,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

/// A picture cannot be preprocessed.
#[derive(Debug, thiserror::Error)]
pub enum QwenProcessorError {
    /// The ratio of the sides exceeds the limit.
    #[error("picture is {width} x {height}; one side may be at most 200 times the other")]
    TooThin {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The picture cannot be resized.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A tensor operation failed.
    #[error("cannot make patches of the picture")]
    Tensor(#[from] candle_core::Error),
}

/// A picture split into patches.
#[derive(Debug, Clone)]
pub struct QwenPatches {
    /// (patches, channels · frames · patch · patch), in blocks of merged cells, row-major.
    pub pixel_values: Tensor,
    /// Number of frames, patch rows and patch columns.
    pub grid: Grid,
}

/// Returns (height, width) near the picture's own: multiples of `factor`, with a number of pixels within the bounds.
/// `None` if one side is more than 200 times the other.
pub fn smart_resize(
    (height, width): (usize, usize),
    factor: usize,
    (min_pixels, max_pixels): (usize, usize),
) -> Option<(usize, usize)> {
    let (long, short) = (height.max(width) as f64, height.min(width) as f64);
    if short == 0.0 || factor == 0 || long / short > MAX_ASPECT_RATIO {
        return None;
    }
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    // Rounds halves to even, as in Python.
    let near = |side: f64| ((side / f).round_ties_even() * f) as usize;
    let (rows, columns) = (near(h), near(w));
    if rows * columns > max_pixels {
        let beta = (h * w / max_pixels as f64).sqrt();
        let lower = |side: f64| factor.max(((side / beta / f).floor() * f) as usize);
        return Some((lower(h), lower(w)));
    }
    if rows * columns < min_pixels {
        let beta = (min_pixels as f64 / (h * w)).sqrt();
        let higher = |side: f64| ((side * beta / f).ceil() * f) as usize;
        return Some((higher(h), higher(w)));
    }
    Some((rows, columns))
}

impl QwenProcessorConfig {
    /// Returns the (height, width) to which a picture is resized.
    ///
    /// # Errors
    ///
    /// If one side of the picture is more than 200 times the other.
    pub fn size_of(&self, picture: &RgbImage, vision: &QwenVisionConfig) -> Result<(usize, usize), QwenProcessorError> {
        let (width, height) = picture.dimensions();
        let factor = vision.patch_size * vision.spatial_merge_size;
        smart_resize((height as usize, width as usize), factor, (self.min_pixels, self.max_pixels))
            .ok_or(QwenProcessorError::TooThin { width, height })
    }

    /// Resizes, normalises and splits a picture into patches. A single picture fills all frames of a patch.
    ///
    /// # Errors
    ///
    /// If the picture has no pixels, or one side is more than 200 times the other.
    pub fn patches(&self, picture: &RgbImage, vision: &QwenVisionConfig) -> Result<QwenPatches, QwenProcessorError> {
        let (height, width) = self.size_of(picture, vision)?;
        let resized = resize(picture, height as u32, width as u32, Filter::Bicubic)?;
        let (side, merge, frames) = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size);
        let (rows, columns) = (height / side, width / side);
        let mut values = Vec::with_capacity(rows * columns * vision.patch_numbers());
        let bytes = resized.as_raw();
        let normal = |byte: u8, c: usize| (f32::from(byte) / 255.0 - self.image_mean[c]) / self.image_std[c];
        for patch in 0..rows * columns {
            let (row, column) = place_of_patch(patch, columns, merge);
            for channel in 0..3 {
                let plane = (0..side * side).map(|at| {
                    let (y, x) = (row * side + at / side, column * side + at % side);
                    normal(bytes[(y * width + x) * 3 + channel], channel)
                });
                let plane: Vec<f32> = plane.collect();
                (0..frames).for_each(|_| values.extend_from_slice(&plane));
            }
        }
        let pixel_values = Tensor::from_vec(values, (rows * columns, vision.patch_numbers()), &Device::Cpu)?;
        Ok(QwenPatches { pixel_values, grid: Grid { frames: 1, rows, columns } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_cells_within_bounds() {
        assert_eq!(smart_resize((480, 640), 28, (3_136, 12_845_056)), Some((476, 644)));
        assert_eq!(smart_resize((70, 98), 28, (3_136, 12_845_056)), Some((56, 112)));
        assert_eq!(smart_resize((3_000, 4_000), 28, (3_136, 1_003_520)), Some((840, 1_148)));
        assert_eq!(smart_resize((1, 1), 28, (3_136, 1_003_520)), Some((56, 56)));
        assert_eq!(smart_resize((1, 5_000), 28, (3_136, 1_003_520)), None);
        assert_eq!(smart_resize((0, 5), 28, (3_136, 1_003_520)), None);
    }

    #[test]
    fn a_picture_becomes_patches_of_both_frames() {
        let picture = RgbImage::from_pixel(56, 84, image::Rgb([255, 0, 0]));
        let vision = QwenVisionConfig::default();
        let patches = QwenProcessorConfig::default().patches(&picture, &vision).unwrap();
        assert_eq!(patches.grid, Grid { frames: 1, rows: 6, columns: 4 });
        let row = patches.pixel_values.get(0).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(row.len(), 3 * 2 * 14 * 14);
        assert!((row[0] - (1.0 - 0.481_454_66) / 0.268_629_54).abs() < 1e-6);
        assert_eq!(row[..196], row[196..392]);
        assert!((row[392] + 0.457_827_5 / 0.261_302_6).abs() < 1e-6);
    }
}
