//! The judge of `echogen-eval`: a small convolutional classifier of a picture's kind, scene, subject position and
//! identity.
//!
//! It is no part of the generation pipeline and was trained on real renderings only (`training/train_judge.py`), so
//! its output is independent of the networks it evaluates. Its file is not listed in the bundle's manifest: a bundle
//! without it can still generate.

use std::path::Path;

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use echogen_checkpoint::{Checkpoint, CheckpointError};
use echogen_imaging::{Filter, ImageError, RgbImage, resize, to_unit_tensor};
use echogen_models::layers::{
    conv::{Conv2d, Geometry, GroupNorm, NormConfig},
    linear::Linear,
};

/// The file's name in a bundle's folder.
pub const JUDGE_FILE: &str = "judge.safetensors";

/// Side in pixels of the pictures that the judge reads.
const SIDE: u32 = 64;

/// Groups and epsilon of the group norms.
const NORM: NormConfig = NormConfig { groups: 8, eps: 1e-5 };

/// 3x3 convolution with stride 2.
const HALVING: Geometry = Geometry { kernel: 3, stride: 2, before: 1, after: 1 };

/// A picture could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The weights do not fit.
    #[error("the judge's weights do not fit")]
    Checkpoint(#[from] CheckpointError),
    /// The picture cannot be resized.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A tensor operation failed.
    #[error("cannot run the judge")]
    Network(#[from] candle_core::Error),
}

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
    layers: Vec<(Conv2d, GroupNorm)>,
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
        let path = folder.join(JUDGE_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(&path)?;
        // The widths are read from the weights: (out, in, 3, 3) of each convolution, (out, in) of each head.
        let rows = |name: String| checkpoint.shape(&name).and_then(|shape| shape.first()).copied();
        let widths: Vec<usize> = (0..).map_while(|layer| rows(format!("convs.{layer}.weight"))).collect();
        let heads = ["kind", "scene", "identity"].map(|head| rows(format!("{head}.weight")).unwrap_or(0));
        let judge = checkpoint.load(candle_core::DType::F32, device, |_| false, |vb| Self::new(&vb, &widths, heads))?;
        Ok(Some(judge))
    }

    fn new(vb: &VarBuilder, widths: &[usize], [kinds, scenes, identity]: [usize; 3]) -> Result<Self> {
        let [.., detail, last] = widths else { candle_core::bail!("a judge has at least two convolutions") };
        let inputs = std::iter::once(3).chain(widths.iter().copied());
        let layer = |(index, (input, width)): (usize, (usize, &usize))| {
            // All convolutions but the last halve the map.
            let geometry = if index + 1 < widths.len() { HALVING } else { Geometry::SAME_3X3 };
            let convolution = Conv2d::new(&vb.pp(format!("convs.{index}")), input, *width, geometry)?;
            Ok((convolution, GroupNorm::new(&vb.pp(format!("norms.{index}")), *width, NORM)?))
        };
        Ok(Self {
            layers: inputs.zip(widths).enumerate().map(layer).collect::<Result<_>>()?,
            place: Conv2d::new(&vb.pp("place"), *last, 1, Geometry::POINTWISE)?,
            kind: Linear::new(vb.pp("kind"), *last, kinds)?,
            scene: Linear::new(vb.pp("scene"), *last, scenes)?,
            identity: Linear::new(vb.pp("identity"), last + detail, identity)?,
        })
    }

    /// Judges a picture of any size.
    ///
    /// # Errors
    ///
    /// If the picture has no pixels, or a tensor operation fails.
    pub fn judge(&self, picture: &RgbImage) -> std::result::Result<Judgement, JudgeError> {
        let small = if picture.dimensions() == (SIDE, SIDE) {
            picture.clone()
        } else {
            resize(picture, SIDE, SIDE, Filter::Bilinear)?
        };
        let mut maps = vec![to_unit_tensor(&small)?.unsqueeze(0)?];
        for (convolution, norm) in &self.layers {
            maps.push(norm.forward(&convolution.forward(&maps[maps.len() - 1])?)?.relu()?);
        }
        Ok(self.judgement(&maps[maps.len() - 2], &maps[maps.len() - 1])?)
    }

    /// Computes the output from the last two feature maps (1, channels, rows, columns), which have the same size.
    fn judgement(&self, detail: &Tensor, last: &Tensor) -> Result<Judgement> {
        let cells = |xs: &Tensor| xs.contiguous()?.flatten_from(2)?.squeeze(0); // (channels, cells)
        let weights = candle_nn::ops::softmax_last_dim(&cells(&self.place.forward(last)?)?)?;
        let (detail, last) = (cells(detail)?, cells(last)?);
        let of_subject = |xs: &Tensor| xs.matmul(&weights.t()?.contiguous()?)?.t()?.contiguous(); // (1, channels)
        let subject = of_subject(&last)?;
        let identity = self.identity.forward(&Tensor::cat(&[&subject, &of_subject(&detail)?], 1)?)?;
        let length = identity.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt().max(1e-12);
        Ok(Judgement {
            kind: largest(&self.kind.forward(&subject)?)?,
            scene: largest(&self.scene.forward(&last.mean_keepdim(1)?.t()?.contiguous()?)?)?,
            identity: identity.affine(1.0 / f64::from(length), 0.0)?.flatten_all()?.to_vec1()?,
        })
    }
}

fn largest(logits: &Tensor) -> Result<usize> {
    let logits = logits.flatten_all()?.to_vec1::<f32>()?;
    Ok((0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0))
}
