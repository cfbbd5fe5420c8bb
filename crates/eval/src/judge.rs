//! The judge of `echogen-eval`: a small convolutional classifier of a picture's kind, scene, subject position and
//! identity.
//!
//! It is no part of the generation pipeline and was trained on real renderings only (`training/train_judge.py`), so
//! its output is independent of the networks it evaluates. Its file is not listed in the bundle's manifest: a bundle
//! without it can still generate.

use std::path::Path;

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use echogen_imaging::RgbImage;
use echogen_models::layers::{
    conv::{Conv2d, Geometry},
    linear::Linear,
};

pub use crate::strided::JudgeError;
use crate::strided::{StridedLayers, cells, largest, mean_of};

/// The file's name in a bundle's folder.
pub const JUDGE_FILE: &str = "judge.safetensors";

/// Side in pixels of the pictures that the judge reads.
const SIDE: u32 = 64;

/// The judge's output for one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Index of the most probable kind.
    pub kind: usize,
    /// Index of the most probable scene.
    pub scene: usize,
    /// Identity embedding of length 1: pictures of one subject have similar embeddings.
    pub identity: Vec<f32>,
}

/// The network.
#[derive(Debug, Clone)]
pub struct Judge {
    layers: StridedLayers,
    /// Weight of each cell as part of the subject.
    place: Conv2d,
    kind: Linear,
    scene: Linear,
    identity: Linear,
}

impl Judge {
    /// Loads the judge from the bundle's folder `folder`. Returns `None` if the file does not exist.
    ///
    /// # Errors
    ///
    /// If the file exists and is not a judge.
    pub fn load(folder: &Path, device: &Device) -> std::result::Result<Option<Self>, JudgeError> {
        StridedLayers::load(&folder.join(JUDGE_FILE), device, ["kind", "scene", "identity"], Self::new)
    }

    fn new(vb: &VarBuilder, layers: StridedLayers, [kinds, scenes, identity]: [usize; 3]) -> Result<Self> {
        let [detail, last] = layers.widths;
        Ok(Self {
            layers,
            place: Conv2d::new(&vb.pp("place"), last, 1, Geometry::POINTWISE)?,
            kind: Linear::new(vb.pp("kind"), last, kinds)?,
            scene: Linear::new(vb.pp("scene"), last, scenes)?,
            identity: Linear::new(vb.pp("identity"), last + detail, identity)?,
        })
    }

    /// Judges a picture of any size.
    ///
    /// # Errors
    ///
    /// If the picture has no pixels, or a tensor operation fails.
    pub fn judge(&self, picture: &RgbImage) -> std::result::Result<Judgement, JudgeError> {
        let [detail, last] = self.layers.maps(picture, SIDE)?;
        Ok(self.judgement(&detail, &last)?)
    }

    /// Computes the output from the last two feature maps (1, channels, rows, columns), which have the same size.
    fn judgement(&self, detail: &Tensor, last: &Tensor) -> Result<Judgement> {
        let weights = candle_nn::ops::softmax_last_dim(&cells(&self.place.forward(last)?)?)?;
        let (detail, last) = (cells(detail)?, cells(last)?);
        let subject = mean_of(&last, &weights)?;
        let both = Tensor::cat(&[&subject, &mean_of(&detail, &weights)?], 1)?;
        let identity = self.identity.forward(&both)?;
        let length = identity.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt().max(1e-12);
        Ok(Judgement {
            kind: largest(&self.kind.forward(&subject)?)?,
            scene: largest(&self.scene.forward(&last.mean_keepdim(1)?.t()?.contiguous()?)?)?,
            identity: identity.affine(1.0 / f64::from(length), 0.0)?.flatten_all()?.to_vec1()?,
        })
    }
}
