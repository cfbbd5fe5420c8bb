//! The judge of markings of `echogen-eval`: which emblem and which pattern the subject of a drawn picture has.
//!
//! As the [judge](crate::judge), it is no part of the generation pipeline and was trained on real renderings only
//! (`training/train_markings.py`). It reads the subject's cut-out. Half of its training pictures had no more detail than
//! 64 x 64, so that it judges smaller pictures, too.

use std::path::Path;

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

use echogen_imaging::{PixelBox, RgbImage};
use echogen_models::layers::{linear::Linear, resize::resize_area};
use image::imageops;

use crate::strided::{JudgeError, StridedLayers, largest};

/// The file's name in a bundle's folder.
pub const MARKINGS_FILE: &str = "markings.safetensors";

/// Side in pixels of the cut-outs that the judge reads.
const SIDE: u32 = 64;

/// Areas of a cut-out along each side, whose means the answers follow from.
const GRID: usize = 4;

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

    fn new(vb: &VarBuilder, layers: StridedLayers, [emblems, patterns, kinds]: [usize; 3]) -> Result<Self> {
        let inputs = layers.widths.iter().sum::<usize>() * GRID * GRID;
        // Only training asks for the kind, but the file must be complete.
        Linear::new(vb.pp("kind"), inputs, kinds)?;
        Ok(Self {
            layers,
            emblem: Linear::new(vb.pp("emblem"), inputs, emblems)?,
            pattern: Linear::new(vb.pp("pattern"), inputs, patterns)?,
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
        let grid = resize_area(maps, GRID, GRID)?.flatten_from(1)?; // (1, channels · areas)
        Ok(Markings {
            emblem: largest(&self.emblem.forward(&grid)?)?,
            pattern: largest(&self.pattern.forward(&grid)?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use echogen_world::{Bounds, Emblem, Identity, Pattern, Picture, Scene, View, split::HELD_OUT_IDENTITIES};

    use super::*;

    /// Shares of subjects of identities never seen whose emblem and pattern are recognised, in pictures of that size.
    fn recognised(size: usize) -> [f64; 2] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini");
        let judge = MarkingsJudge::load(&folder, &Device::Cpu).unwrap().unwrap();
        let [mut emblems, mut patterns] = [Vec::new(), Vec::new()];
        for number in HELD_OUT_IDENTITIES.skip(5_000).take(180) {
            let identity = Identity::new(number);
            let picture = Picture::render(&identity, &View::new(number, Scene::ALL[number as usize % 7]), size);
            let Bounds { left, top, right, bottom } = picture.bounds;
            let [left, top, right, bottom] = [left, top, right, bottom].map(|edge| edge as u32);
            let image = RgbImage::from_raw(size as u32, size as u32, picture.pixels).unwrap();
            let seen = judge.judge(&image, PixelBox { left, top, right, bottom }).unwrap();
            if identity.emblem != Emblem::None {
                emblems.push(seen.emblem == identity.emblem.index());
            }
            if identity.pattern != Pattern::Plain {
                patterns.push(seen.pattern == identity.pattern.index());
            }
        }
        [emblems, patterns].map(|right| crate::measures::share(right).unwrap())
    }

    #[test]
    fn what_the_world_draws_is_recognised_at_both_sizes() {
        for size in [128, 64] {
            let [emblems, patterns] = recognised(size);
            assert!(emblems >= 0.7 && patterns >= 0.8, "{size}: emblems {emblems:.3}, patterns {patterns:.3}");
        }
    }

    #[test]
    fn a_bundle_without_the_file_has_no_judge() {
        assert!(MarkingsJudge::load(Path::new("nowhere"), &Device::Cpu).unwrap().is_none());
    }
}
