//! The judge of `echogen-eval`: a small convolutional network that says what a picture shows, where, and of whom.
//!
//! It belongs to no chain and was trained on real renderings only (`training/train_judge.py`), so that what it says of a
//! made picture is no echo of the networks that made it. Its file is not listed in a bundle's manifest: a bundle without
//! it makes pictures all the same.

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

/// Side of the pictures that the judge sees.
const SIDE: u32 = 64;

/// Groups and constant of the norms.
const NORM: NormConfig = NormConfig { groups: 8, eps: 1e-5 };

/// 3x3, two pixels a step.
const HALVING: Geometry = Geometry { kernel: 3, stride: 2, before: 1, after: 1 };

/// Why a picture was not judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The file does not fit.
    #[error("the judge's weights do not fit")]
    Checkpoint(#[from] CheckpointError),
    /// The picture cannot be resized.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The network failed.
    #[error("cannot run the judge")]
    Network(#[from] candle_core::Error),
}

/// What the judge says of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The likeliest kind of subject, by its number.
    pub kind: usize,
    /// The likeliest scene, by its number.
    pub scene: usize,
    /// Who it is, as a direction: pictures of one subject lie near each other. Of length 1.
    pub identity: Vec<f32>,
}

/// The judge.
#[derive(Debug, Clone)]
pub struct Judge {
    layers: Vec<(Conv2d, GroupNorm)>,
    /// How much a cell is the subject.
    place: Conv2d,
    kind: Linear,
    scene: Linear,
    identity: Linear,
}

impl Judge {
    /// Loads the judge of the bundle whose files lie in `folder`; `None` if it has none.
    ///
    /// # Errors
    ///
    /// If there is a file and it is no judge.
    pub fn load(folder: &Path, device: &Device) -> std::result::Result<Option<Self>, JudgeError> {
        let path = folder.join(JUDGE_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(&path)?;
        // The sizes are told by the weights: (out, in, 3, 3) of each convolution, (out, in) of each head.
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
            // All but the last halve the picture.
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
    /// If the picture has no pixels, or the network fails.
    pub fn judge(&self, picture: &RgbImage) -> std::result::Result<Verdict, JudgeError> {
        let small = if picture.dimensions() == (SIDE, SIDE) {
            picture.clone()
        } else {
            resize(picture, SIDE, SIDE, Filter::Bilinear)?
        };
        let mut maps = vec![to_unit_tensor(&small)?.unsqueeze(0)?];
        for (convolution, norm) in &self.layers {
            maps.push(norm.forward(&convolution.forward(&maps[maps.len() - 1])?)?.relu()?);
        }
        Ok(self.verdict(&maps[maps.len() - 2], &maps[maps.len() - 1])?)
    }

    /// From the last two maps (1, channels, rows, columns), which have the same cells.
    fn verdict(&self, detail: &Tensor, last: &Tensor) -> Result<Verdict> {
        let cells = |xs: &Tensor| xs.contiguous()?.flatten_from(2)?.squeeze(0); // (channels, cells)
        let weights = candle_nn::ops::softmax_last_dim(&cells(&self.place.forward(last)?)?)?;
        let (detail, last) = (cells(detail)?, cells(last)?);
        let of_subject = |xs: &Tensor| xs.matmul(&weights.t()?.contiguous()?)?.t()?.contiguous(); // (1, channels)
        let subject = of_subject(&last)?;
        let identity = self.identity.forward(&Tensor::cat(&[&subject, &of_subject(&detail)?], 1)?)?;
        let length = identity.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt().max(1e-12);
        Ok(Verdict {
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
