//! The layers that the judges of drawn pictures share: 3x3 convolutions with group norms, all but the last of which halve the
//! map.

use std::path::Path;

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use echogen_checkpoint::{Checkpoint, CheckpointError};
use echogen_imaging::{Filter, ImageError, RgbImage, resize, to_unit_tensor};
use echogen_models::layers::{
    conv::{Conv2d, Geometry, GroupNorm, NormConfig},
    resize::resize_area,
};

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

/// The layers.
#[derive(Debug, Clone)]
pub(crate) struct StridedLayers {
    layers: Vec<(Conv2d, GroupNorm)>,
    /// Number of channels of the last two maps.
    pub(crate) widths: [usize; 2],
}

impl StridedLayers {
    /// Loads a judge from the file `file`, whose heads have the names `heads`; `None` if there is no such file. `build` gets
    /// the layers and the number of outputs of each head. All sizes are read from the weights.
    pub(crate) fn load<T, const N: usize>(
        file: &Path,
        device: &Device,
        heads: [&str; N],
        build: impl FnOnce(&VarBuilder, Self, [usize; N]) -> Result<T>,
    ) -> std::result::Result<Option<T>, JudgeError> {
        if !file.is_file() {
            return Ok(None);
        }
        let checkpoint = Checkpoint::open(file)?;
        // (out, in, 3, 3) of each convolution, (out, in) of each head.
        let rows = |name: String| checkpoint.shape(&name).and_then(|shape| shape.first()).copied();
        let widths: Vec<usize> = (0..).map_while(|layer| rows(format!("convs.{layer}.weight"))).collect();
        let outputs = heads.map(|head| rows(format!("{head}.weight")).unwrap_or(0));
        let judge =
            checkpoint.load(DType::F32, device, |_| false, |vb| build(&vb, Self::new(&vb, &widths)?, outputs))?;
        Ok(Some(judge))
    }

    fn new(vb: &VarBuilder, widths: &[usize]) -> Result<Self> {
        let [.., detail, last] = widths else { candle_core::bail!("a judge has at least two convolutions") };
        let inputs = std::iter::once(3).chain(widths.iter().copied());
        let layer = |(index, (input, width)): (usize, (usize, &usize))| {
            let geometry = if index + 1 < widths.len() { HALVING } else { Geometry::SAME_3X3 };
            let convolution = Conv2d::new(&vb.pp(format!("convs.{index}")), input, *width, geometry)?;
            Ok((convolution, GroupNorm::new(&vb.pp(format!("norms.{index}")), *width, NORM)?))
        };
        let layers = inputs.zip(widths).enumerate().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, widths: [*detail, *last] })
    }

    /// Returns the last two maps of a picture, which is resized to that side: (1, channels, rows, columns), of the same size.
    pub(crate) fn maps(&self, picture: &RgbImage, side: u32) -> std::result::Result<[Tensor; 2], JudgeError> {
        let last = sized(picture, side)?;
        let mut maps = [last.clone(), last];
        for (convolution, norm) in &self.layers {
            let next = norm.forward(&convolution.forward(&maps[1])?)?.relu()?;
            maps = [std::mem::replace(&mut maps[1], next.clone()), next];
        }
        Ok(maps)
    }
}

/// Returns a picture as (1, 3, side, side). One whose sides are multiples of that is averaged, since a filter would soften it
/// more than the world draws pictures of the smaller size.
fn sized(picture: &RgbImage, side: u32) -> std::result::Result<Tensor, JudgeError> {
    let (width, height) = picture.dimensions();
    if width > 0 && height > 0 && width % side == 0 && height % side == 0 {
        return Ok(resize_area(&to_unit_tensor(picture)?.unsqueeze(0)?, side as usize, side as usize)?);
    }
    Ok(to_unit_tensor(&resize(picture, side, side, Filter::Bilinear)?)?.unsqueeze(0)?)
}

/// Returns a map (1, channels, rows, columns) as (channels, cells).
pub(crate) fn cells(xs: &Tensor) -> Result<Tensor> {
    xs.contiguous()?.flatten_from(2)?.squeeze(0)
}

/// Returns the mean (1, channels) of cells (channels, cells) with these weights (1, cells).
pub(crate) fn mean_of(cells: &Tensor, weights: &Tensor) -> Result<Tensor> {
    cells.matmul(&weights.t()?.contiguous()?)?.t()?.contiguous()
}

/// Returns the index of the largest logit.
pub(crate) fn largest(logits: &Tensor) -> Result<usize> {
    let logits = logits.flatten_all()?.to_vec1::<f32>()?;
    Ok((0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0))
}
