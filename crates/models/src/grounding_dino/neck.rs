//! The neck between backbone and encoder: projects the maps of all resolutions to one width, and computes their
//! positions and padding masks.

use candle_core::{Device, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{
    attention::sine_features,
    config::GroundingDinoConfig,
    levels::Levels,
    swin::{Map, Swin},
};
use crate::layers::{
    conv::{Conv2d, Geometry, GroupNorm, NormConfig},
    linear::Linear,
};

/// Groups and epsilon of the norms after the projections.
const NORM: NormConfig = NormConfig { groups: 32, eps: 1e-5 };

/// 3x3 with stride 2 and one row or column of zeros on every side.
const HALVING: Geometry = Geometry { kernel: 3, stride: 2, before: 1, after: 1 };

/// Which pixels of a batch of padded pictures belong to the picture.
#[derive(Debug, Clone)]
pub struct PixelMask {
    height: usize,
    width: usize,
    /// (batch, height, width)
    pixels: Vec<bool>,
}

impl PixelMask {
    /// Creates the mask from a tensor (batch, height, width) of any type; 0 is padding.
    pub fn new(mask: &Tensor) -> Result<Self> {
        let (_, height, width) = mask.dims3()?;
        let numbers = mask.to_device(&Device::Cpu)?.to_dtype(candle_core::DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
        Ok(Self { height, width, pixels: numbers.into_iter().map(|number| number != 0).collect() })
    }

    /// Creates a mask without padding.
    pub fn whole(batch: usize, height: usize, width: usize) -> Self {
        Self { height, width, pixels: vec![true; batch * height * width] }
    }

    /// Resamples the mask by nearest neighbour to another size: (batch · height · width).
    fn resized(&self, height: usize, width: usize) -> Vec<bool> {
        let nearest = |to: usize, from: usize, out: usize| {
            let scale = from as f32 / out as f32;
            ((to as f32 * scale) as usize).min(from - 1)
        };
        let images = self.pixels.chunks_exact(self.height * self.width);
        let cells = |image: &[bool]| {
            let row = |y: usize| {
                let from = nearest(y, self.height, height) * self.width;
                (0..width).map(move |x| from + nearest(x, self.width, width))
            };
            (0..height).flat_map(row).map(|at| image[at]).collect::<Vec<_>>()
        };
        images.flat_map(cells).collect()
    }
}

/// The projection of one level's map to the encoder's width.
#[derive(Debug, Clone)]
enum Projection {
    /// 1x1 convolution, as a linear layer.
    Cells(Linear),
    /// 3x3 convolution that halves the map.
    Halving(Conv2d),
}

/// The projections and level embeddings.
#[derive(Debug, Clone)]
pub(super) struct Neck {
    input_proj: Vec<(Projection, GroupNorm)>,
    level_embed: Tensor,
    /// Number of maps that the backbone returns.
    maps: usize,
    width: usize,
    temperature: f64,
}

impl Neck {
    pub(super) fn new(vb: VarBuilder, config: &GroundingDinoConfig) -> Result<Self> {
        let (width, own) = (config.d_model, vb.pp("input_proj_vision"));
        let channels = Swin::out_channels(&config.backbone_config);
        let mut input_proj = Vec::new();
        for level in 0..config.num_feature_levels {
            let (conv, norm) = (own.pp(level).pp(0), own.pp(level).pp(1));
            let projection = match channels.get(level) {
                Some(channels) => {
                    let weight = conv.get((width, *channels, 1, 1), "weight")?.flatten_from(1)?;
                    Projection::Cells(Linear::from_tensors(&weight, Some(conv.get(width, "bias")?))?)
                }
                None => {
                    let last = channels.last().copied().unwrap_or(width);
                    let inputs = if level == channels.len() { last } else { width };
                    Projection::Halving(Conv2d::new(&conv, inputs, width, HALVING)?)
                }
            };
            input_proj.push((projection, GroupNorm::new(&norm, width, NORM)?));
        }
        let level_embed = vb.get((config.num_feature_levels, width), "level_embed")?;
        let temperature = config.positional_embedding_temperature;
        Ok(Self { input_proj, level_embed, maps: channels.len(), width, temperature })
    }

    pub(super) fn forward(&self, maps: &[Map], mask: &PixelMask) -> Result<Levels> {
        let Some(last) = maps.last().filter(|_| maps.len() == self.maps) else {
            bail!("the neck takes {} maps, got {}", self.maps, maps.len());
        };
        let batch = last.batch;
        let mut shapes = Vec::new();
        let (mut features, mut positions, mut masks) = (Vec::new(), Vec::new(), Vec::new());
        let mut previous = image_view(last)?;
        for (level, (projection, norm)) in self.input_proj.iter().enumerate() {
            let map = match (projection, maps.get(level)) {
                (Projection::Cells(linear), Some(map)) => {
                    image_view(&Map { cells: linear.forward(&map.cells)?, ..map.clone() })?
                }
                (Projection::Halving(conv), _) => conv.forward(&previous)?,
                (Projection::Cells(_), None) => bail!("level {level} has no map"),
            };
            let map = norm.forward(&map)?; // (batch, d_model, height, width)
            let (_, _, height, width) = map.dims4()?;
            let is_picture = mask.resized(height, width);
            features.push(map.permute((0, 2, 3, 1))?.flatten(1, 2)?); // (batch, cells, d_model)
            positions.push(self.positions(level, &is_picture, (batch, height, width))?);
            masks.push(is_picture);
            shapes.push((height, width));
            if matches!(projection, Projection::Halving(_)) {
                previous = map;
            }
        }
        let together = |parts: &[Tensor]| Tensor::cat(parts, 1)?.flatten_to(1);
        Ok(Levels {
            batch,
            features: together(&features)?,
            positions: together(&positions)?,
            valid_ratios: (0..batch).map(|image| valid_ratios(&masks, &shapes, image)).collect(),
            is_picture: interleave(&masks, &shapes, batch),
            shapes,
        })
    }

    /// Returns the position encodings (batch, cells, d_model): first the row's sines, then the column's.
    fn positions(&self, level: usize, mask: &[bool], (batch, height, width): (usize, usize, usize)) -> Result<Tensor> {
        let images = mask.chunks_exact((height * width).max(1));
        let numbers: Vec<f32> = images.flat_map(|mask| places(mask, height, width)).collect();
        let sines = sine_features(&numbers, 2, self.width / 2, self.temperature);
        let sines = Tensor::from_vec(sines, (batch, height * width, self.width), self.level_embed.device())?;
        sines.broadcast_add(&self.level_embed.get(level)?)
    }
}

/// Returns each cell's row and column, counted from 1 within the picture, divided by the numbers of rows and columns.
fn places(mask: &[bool], height: usize, width: usize) -> Vec<f32> {
    let mut counts = vec![[0f32; 2]; height * width];
    for (cell, is_picture) in mask.iter().enumerate() {
        let above = cell.checked_sub(width).map_or(0.0, |above| counts[above][0]);
        let left = if cell.is_multiple_of(width) { 0.0 } else { counts[cell - 1][1] };
        let own = f32::from(u8::from(*is_picture));
        counts[cell] = [above + own, left + own];
    }
    let share = |(cell, [row, column]): (usize, &[f32; 2])| {
        let rows = counts[(height - 1) * width + cell % width][0];
        let columns = counts[cell / width * width + width - 1][1];
        [row / (rows + 1e-6), column / (columns + 1e-6)]
    };
    counts.iter().enumerate().flat_map(share).collect()
}

/// Returns a view (batch, channels, height, width) over the memory of the cells.
fn image_view(map: &Map) -> Result<Tensor> {
    map.cells.reshape((map.batch, map.height, map.width, ()))?.permute((0, 3, 1, 2))
}

/// Returns, by level, the valid share of the image's first row and first column: (width, height).
fn valid_ratios(masks: &[Vec<bool>], shapes: &[(usize, usize)], image: usize) -> Vec<[f32; 2]> {
    let level = |(mask, (height, width)): (&Vec<bool>, &(usize, usize))| {
        let (columns, rows) = valid_size(&mask[image * height * width..][..height * width], *width);
        [columns as f32 / *width as f32, rows as f32 / *height as f32]
    };
    masks.iter().zip(shapes).map(level).collect()
}

/// Returns the numbers of valid cells in the first row and the first column.
pub(super) fn valid_size(mask: &[bool], width: usize) -> (usize, usize) {
    let columns = mask.iter().take(width).filter(|is_picture| **is_picture).count();
    (columns, mask.iter().step_by(width.max(1)).filter(|is_picture| **is_picture).count())
}

/// Reorders from level-major to image-major.
fn interleave(masks: &[Vec<bool>], shapes: &[(usize, usize)], batch: usize) -> Vec<bool> {
    let part = |image: usize, (mask, (height, width)): (&Vec<bool>, &(usize, usize))| {
        mask[image * height * width..(image + 1) * height * width].to_vec()
    };
    (0..batch).flat_map(|image| masks.iter().zip(shapes).flat_map(move |level| part(image, level))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_resized_to_the_nearest_pixel() {
        let mask = Tensor::new(&[[[1u8, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]], &Device::Cpu).unwrap();
        let mask = PixelMask::new(&mask).unwrap();
        assert_eq!(mask.resized(2, 2), [true, true, true, true]);
        assert_eq!(mask.resized(3, 4), mask.pixels);
        assert_eq!(valid_size(&mask.pixels, 4), (3, 2));
    }
}
