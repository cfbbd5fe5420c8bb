//! Two-dimensional convolutions and the layers around them in image autoencoders.
//!
//! Feature maps are tensors (batch, channels, height, width). On a CPU in f32 the kernels of this module are used, and
//! their results are stored *channels last*: the tensor is a transposed view, so the channels of every pixel are
//! contiguous, transforms vectorise without shuffling, and a 1x1 convolution is a plain matrix product. Layers pass
//! such maps on without a copy; maps in any other memory order are copied once. A GPU uses the module `cuda`, other dtypes
//! candle's operations.
//!
//! Algorithms on the CPU:
//! - 3x3 with stride 1 on maps that are not tiny: `winograd`, with four times fewer multiplications;
//! - everything else: `im2col`, patches times weights.
//!
//! Both process the map in bands, so scratch memory is bounded for any picture size.

mod attention;
mod channels_last;
mod group_norm;
mod im2col;
mod names;
mod pyramid;
mod res_block;
mod winograd;

#[cfg(feature = "cuda")]
use super::cuda;
use super::kernel_choice::has_own_kernels;
pub use attention::Attention;
use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;
use channels_last::{FeatureMap, Finish, channels_last, channels_last_view};
pub use group_norm::{GroupNorm, NormConfig};
pub use names::Names;
pub use pyramid::{PyramidConfig, PyramidDecoder, PyramidEncoder, Stage};
pub use res_block::ResBlock;

/// Maximum size of a convolution's unrolled inputs at once on a GPU, in bytes.
pub(crate) const PATCHES_BYTES: usize = 1 << 30;

/// Kernel size, stride and padding of a square convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Side of the kernel.
    pub kernel: usize,
    /// Stride in pixels.
    pub stride: usize,
    /// Rows and columns of zero padding above and to the left.
    pub before: usize,
    /// Rows and columns of zero padding below and to the right.
    pub after: usize,
}

impl Geometry {
    /// 1x1.
    pub const POINTWISE: Self = Self { kernel: 1, stride: 1, before: 0, after: 0 };
    /// 3x3 that preserves the size.
    pub const SAME_3X3: Self = Self { kernel: 3, stride: 1, before: 1, after: 1 };
    /// 3x3 with stride 2, padded below and to the right only: halves the size.
    pub const HALVING_3X3: Self = Self { kernel: 3, stride: 2, before: 0, after: 1 };

    /// Returns the output length for an input side of the given length; an error if the kernel does not fit.
    pub(super) fn output(&self, length: usize) -> Result<usize> {
        let padded = length + self.before + self.after;
        if padded < self.kernel {
            bail!("a side of {length} pixels is too short for a {0}x{0} convolution", self.kernel);
        }
        Ok((padded - self.kernel) / self.stride + 1)
    }
}

/// A convolution with bias and without channel groups.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Weight,
    bias: Tensor,
    geometry: Geometry,
    in_channels: usize,
}

/// The weights in the layout of the algorithm in use.
#[derive(Debug, Clone)]
enum Weight {
    /// (kernel · kernel · in, out), for the CPU kernels of this module.
    Patches(Tensor),
    /// (out, in, kernel, kernel): for candle.
    Plain(Tensor),
}

impl Conv2d {
    /// Loads `weight` (out, in, kernel, kernel) and `bias` (out) below `vb`.
    pub fn new(vb: &VarBuilder, in_channels: usize, out_channels: usize, geometry: Geometry) -> Result<Self> {
        let weight = vb.get((out_channels, in_channels, geometry.kernel, geometry.kernel), "weight")?;
        Self::from_tensors(&weight, vb.get(out_channels, "bias")?, geometry)
    }

    /// Creates a convolution from `weight` (out, in, kernel, kernel) and `bias` (out).
    pub fn from_tensors(weight: &Tensor, bias: Tensor, geometry: Geometry) -> Result<Self> {
        let (out_channels, in_channels, kernel, _) = weight.dims4()?;
        let weight = if has_own_kernels(weight) {
            let patches = weight.permute((2, 3, 1, 0))?.contiguous()?;
            Weight::Patches(patches.reshape((kernel * kernel * in_channels, out_channels))?)
        } else {
            Weight::Plain(weight.contiguous()?)
        };
        Ok(Self { weight, bias: bias.contiguous()?, geometry, in_channels })
    }

    /// Returns the convolution of `xs` plus `residual`, which has the result's shape.
    pub fn forward_onto(&self, xs: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Patches(weight) => self.forward_own(weight, xs, Scale::One, Some(residual)),
            Weight::Plain(weight) => self.forward_plain(weight, xs, Scale::One, Some(residual)),
        }
    }

    /// Returns the convolution of `xs` after upscaling it by 2 (nearest neighbour).
    pub fn forward_doubled(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Patches(weight) => self.forward_own(weight, xs, Scale::Two, None),
            Weight::Plain(weight) => self.forward_plain(weight, xs, Scale::Two, None),
        }
    }

    fn forward_own(&self, weight: &Tensor, xs: &Tensor, scale: Scale, residual: Option<&Tensor>) -> Result<Tensor> {
        self.check_channels(xs)?;
        let xs = channels_last(xs)?; // (batch, height, width, in)
        let map = FeatureMap::shape_of(&xs, scale)?;
        let (rows, columns) = (self.geometry.output(map.height)?, self.geometry.output(map.width)?);
        let shape = (map.batch, rows, columns, self.bias.elem_count());
        let residual = residual.map(channels_last).transpose()?;
        if let Some(residual) = &residual
            && residual.dims4()? != shape
        {
            bail!("cannot add {:?} (channels last) to a convolution's result {shape:?}", residual.dims());
        }
        let finish = Finish { bias: &self.bias, residual: residual.as_ref() };
        let ys = if self.geometry == Geometry::SAME_3X3 && winograd::pays(&map) {
            winograd::conv3x3(&xs, &map, weight, &finish)?
        } else {
            im2col::conv(&xs, &map, weight, self.geometry, (rows, columns), &finish)?
        };
        channels_last_view(ys, shape)
    }

    /// The convolution where the loops of this module do not apply.
    fn forward_plain(&self, weight: &Tensor, xs: &Tensor, scale: Scale, residual: Option<&Tensor>) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if cuda::takes(weight) {
            return cuda::conv(xs, weight, &self.bias, self.geometry, scale == Scale::Two, residual);
        }
        let ys = match scale {
            Scale::One => self.forward_candle(weight, xs)?,
            Scale::Two => {
                let (_, _, height, width) = xs.dims4()?;
                self.forward_candle(weight, &xs.upsample_nearest2d(2 * height, 2 * width)?)?
            }
        };
        residual.map_or(Ok(ys.clone()), |residual| ys + residual)
    }

    /// The convolution in the weight's type. candle's supports only equal padding on all sides, so unequal padding is added
    /// beforehand.
    fn forward_candle(&self, weight: &Tensor, xs: &Tensor) -> Result<Tensor> {
        let Geometry { stride, before, after, .. } = self.geometry;
        let (xs, padding) = if before == after {
            (xs.clone(), before)
        } else {
            (xs.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?, 0)
        };
        let dtype = weight.dtype();
        // A GPU sums products of reduced types in float32; candle's convolution on a CPU does not, and lacks bf16.
        let widened = xs.device().is_cpu() && matches!(dtype, DType::BF16 | DType::F16);
        let inner = if widened { DType::F32 } else { dtype };
        let xs = xs.to_dtype(inner)?.contiguous()?;
        let ys = xs.conv2d(&weight.to_dtype(inner)?, padding, stride, 1, 1)?.to_dtype(dtype)?;
        ys.broadcast_add(&self.bias.reshape((1, (), 1, 1))?)
    }

    fn check_channels(&self, xs: &Tensor) -> Result<()> {
        let (_, channels, _, _) = xs.dims4()?;
        if channels != self.in_channels {
            bail!("the convolution takes {} channels, the map has {channels}", self.in_channels);
        }
        Ok(())
    }
}

impl Module for Conv2d {
    /// Maps (batch, in, height, width) to (batch, out, height', width').
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Patches(weight) => self.forward_own(weight, xs, Scale::One, None),
            Weight::Plain(weight) => self.forward_plain(weight, xs, Scale::One, None),
        }
    }
}

/// The factor by which a map is upscaled (nearest neighbour) while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    One,
    Two,
}

#[cfg(test)]
mod tests;
