//! Feature maps of several resolutions, concatenated as deformable attention reads them.

use candle_core::Tensor;

use crate::layers::deformable::References;

/// A batch of feature maps of several resolutions, concatenated level by level.
#[derive(Debug, Clone)]
pub(super) struct Levels {
    /// Number of images.
    pub(super) batch: usize,
    /// Height and width of each level.
    pub(super) shapes: Vec<(usize, usize)>,
    /// (batch · cells, d_model)
    pub(super) features: Tensor,
    /// Sine position encodings plus the level embedding: (batch · cells, d_model).
    pub(super) positions: Tensor,
    /// By image and level: the share (width, height) of the map that is not padding.
    pub(super) valid_ratios: Vec<Vec<[f32; 2]>>,
    /// (batch · cells): whether a cell is not padding.
    pub(super) is_picture: Vec<bool>,
}

impl Levels {
    /// Number of cells of an image, over all levels.
    pub(super) fn cells(&self) -> usize {
        self.shapes.iter().map(|(height, width)| height * width).sum()
    }

    /// Returns the mask of valid cells, or `None` if there is no padding.
    pub(super) fn keep(&self) -> Option<&[bool]> {
        self.is_picture.iter().any(|is_picture| !is_picture).then_some(&self.is_picture)
    }

    /// Returns every cell's own position as its reference point on every level, image by image.
    pub(super) fn references(&self) -> Vec<References> {
        let image = |ratios: &Vec<[f32; 2]>| {
            let mut numbers = Vec::with_capacity(self.cells() * self.shapes.len() * 2);
            for ((height, width), own) in self.shapes.iter().zip(ratios) {
                for (row, column) in (0..*height).flat_map(|row| (0..*width).map(move |column| (row, column))) {
                    let x = (column as f32 + 0.5) / (own[0] * *width as f32);
                    let y = (row as f32 + 0.5) / (own[1] * *height as f32);
                    numbers.extend(ratios.iter().flat_map(|ratio| [x * ratio[0], y * ratio[1]]));
                }
            }
            References::Points(numbers)
        };
        self.valid_ratios.iter().map(image).collect()
    }
}
