//! The judge of markings of `echogen-eval`: which emblem and which pattern the subject of a drawn picture has.
//!
//! As the [judge](crate::judge), it is no part of the generation pipeline and was trained on real renderings only
//! (`training/train_markings.py`). It reads the subject's cut-out. Half of its training pictures had no more detail than
//! 64 x 64, so that it judges smaller pictures, too.

use std::path::Path;

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use echogen_imaging::{PixelBox, RgbImage};
use echogen_models::layers::{
    conv::{Conv2d, Geometry},
    linear::Linear,
};
use image::imageops;

use crate::strided::{JudgeError, StridedLayers, cells, largest, mean_of};

/// The file's name in a bundle's folder.
pub const MARKINGS_FILE: &str = "markings.safetensors";

/// Side in pixels of the cut-outs that the judge reads.
const SIDE: u32 = 64;

/// Number of answers, each with its own weights of the cells; the third is the kind, which only training uses.
const ANSWERS: usize = 3;

/// The markings that the judge sees in one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Markings {
    /// Index of the most probable emblem.
    pub emblem: usize,
    /// Index of the most probable pattern.
    pub pattern: usize,
}

/// The network.
#[derive(Debug, Clone)]
pub struct MarkingsJudge {
    layers: StridedLayers,
    /// Weight of each cell for each answer.
    focus: Conv2d,
    emblem: Linear,
    pattern: Linear,
}

impl MarkingsJudge {
    /// Loads the judge from the bundle's folder `folder`. Returns `None` if the file does not exist.
    ///
    /// # Errors
    ///
    /// If the file exists and is not a judge of markings.
    pub fn load(folder: &Path, device: &Device) -> std::result::Result<Option<Self>, JudgeError> {
        StridedLayers::load(&folder.join(MARKINGS_FILE), device, ["emblem", "pattern", "kind"], Self::new)
    }

    fn new(vb: &VarBuilder, layers: StridedLayers, [emblems, patterns, kinds]: [usize; ANSWERS]) -> Result<Self> {
        let both = layers.widths.iter().sum();
        // Not needed here, but the file must be complete.
        Linear::new(vb.pp("kind"), both, kinds)?;
        Ok(Self {
            layers,
            focus: Conv2d::new(&vb.pp("focus"), both, ANSWERS, Geometry::POINTWISE)?,
            emblem: Linear::new(vb.pp("emblem"), both, emblems)?,
            pattern: Linear::new(vb.pp("pattern"), both, patterns)?,
        })
    }

    /// Judges the subject in this part of a picture of any size.
    ///
    /// # Errors
    ///
    /// If the part has no pixels, or a tensor operation fails.
    pub fn judge(&self, picture: &RgbImage, area: PixelBox) -> std::result::Result<Markings, JudgeError> {
        let PixelBox { left, top, right, bottom } = area;
        let (width, height) = (right.saturating_sub(left), bottom.saturating_sub(top));
        let cutout = imageops::crop_imm(picture, left, top, width, height).to_image();
        let maps = Tensor::cat(&self.layers.maps(&cutout, SIDE)?, 1)?;
        Ok(self.markings(&maps)?)
    }

    fn markings(&self, maps: &Tensor) -> Result<Markings> {
        let weights = candle_nn::ops::softmax_last_dim(&cells(&self.focus.forward(maps)?)?)?;
        let cells = cells(maps)?;
        let seen =
            |answer: usize, head: &Linear| largest(&head.forward(&mean_of(&cells, &weights.narrow(0, answer, 1)?)?)?);
        Ok(Markings { emblem: seen(0, &self.emblem)?, pattern: seen(1, &self.pattern)? })
    }
}
