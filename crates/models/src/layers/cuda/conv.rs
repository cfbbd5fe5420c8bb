//! Convolutions and group norms on a GPU.
//!
//! A convolution is the product of the weights and the patches that the kernel reads, in bands of rows that bound the memory of
//! the patches; a 1x1 convolution needs none. The product writes the map in its order, so nothing is transposed.

use candle_core::{DType, Result, Tensor, bail};

use super::launch::{Argument, Matrices, Sizes, empty, launch_by_number, launch_by_row, multiply, with_addresses};
use crate::layers::conv::{Geometry, NormConfig, PATCHES_BYTES};

/// Numbers of a group whose moments one block computes.
const CHUNK: usize = 1 << 14;

/// Returns the convolution of `xs` (batch, in, height, width) with `weight` (out, in, kernel, kernel) and `bias` (out), plus
/// `residual`. If `doubled`, `xs` is upscaled by 2 before (nearest neighbour).
pub(in crate::layers) fn conv(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    geometry: Geometry,
    doubled: bool,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let dtype = weight.dtype();
    let alike = |xs: &Tensor| xs.to_dtype(dtype)?.contiguous();
    let (xs, bias, residual) = (alike(xs)?, alike(bias)?, residual.map(alike).transpose()?);
    let (batch, channels, height, width) = xs.dims4()?;
    let (out_channels, in_channels, ..) = weight.dims4()?;
    let scale = if doubled { 2 } else { 1 };
    let (rows, columns) = (geometry.output(scale * height)?, geometry.output(scale * width)?);
    let shape = (batch, out_channels, rows, columns);
    if channels != in_channels || bias.elem_count() != out_channels {
        bail!("the convolution takes {in_channels} channels, the map has {channels}");
    }
    if let Some(residual) = residual.as_ref().filter(|residual| residual.dims() != [batch, out_channels, rows, columns])
    {
        bail!("cannot add {:?} to a convolution's result {shape:?}", residual.dims());
    }
    let out = empty(shape, dtype, xs.device())?;
    for image in 0..batch {
        let own = Image { geometry, doubled, weight, xs: xs.get(image)?, out: out.get(image)? };
        own.convolve()?;
    }
    with_addresses(&[Some(&out), Some(&bias), residual.as_ref()], |device, at| {
        let arguments = [
            Argument::Address(at[0]),
            Argument::Address(at[1]),
            Argument::Address(at[2]),
            Argument::Count(out.elem_count()),
            Argument::Count(rows * columns),
            Argument::Count(out_channels),
        ];
        launch_by_number(device, ("finish", dtype), out.elem_count(), &arguments)
    })?;
    Ok(out)
}

/// The convolution of one image, (channels, height, width).
struct Image<'a> {
    geometry: Geometry,
    doubled: bool,
    weight: &'a Tensor,
    xs: Tensor,
    out: Tensor,
}

impl Image<'_> {
    fn convolve(&self) -> Result<()> {
        let (channels, height, width) = self.xs.dims3()?;
        let (_, rows, columns) = self.out.dims3()?;
        if self.geometry == Geometry::POINTWISE && !self.doubled {
            return self.product(&self.xs.reshape((channels, height * width))?, 0);
        }
        let inner = channels * self.geometry.kernel * self.geometry.kernel;
        let band = (PATCHES_BYTES / (inner * columns * self.xs.dtype().size_in_bytes()).max(1)).clamp(1, rows.max(1));
        for first in (0..rows).step_by(band) {
            let pixels = band.min(rows - first) * columns;
            let patches = empty((inner, pixels), self.xs.dtype(), self.xs.device())?;
            with_addresses(&[Some(&self.xs), Some(&patches)], |device, at| {
                let Geometry { kernel, stride, before, .. } = self.geometry;
                let sizes = [inner * pixels, height, width, kernel, stride, before, columns, first, pixels];
                let arguments: Vec<_> = [Argument::Address(at[0]), Argument::Address(at[1])]
                    .into_iter()
                    .chain(sizes.map(Argument::Count))
                    .chain([Argument::Code(self.doubled.into())])
                    .collect();
                launch_by_number(device, ("patches", self.xs.dtype()), inner * pixels, &arguments)
            })?;
            self.product(&patches, first * columns)?;
        }
        Ok(())
    }

    /// Writes the products of the weights and `patches` (inner, pixels) to the pixels from `first` on.
    fn product(&self, patches: &Tensor, first: usize) -> Result<()> {
        let (inner, pixels) = patches.dims2()?;
        let (channels, rows, columns) = self.out.dims3()?;
        with_addresses(&[Some(&self.out), Some(self.weight), Some(patches)], |device, at| {
            let dtype = self.out.dtype();
            let matrix = |address, row_stride| Matrices { address, dtype, row_stride, batch_stride: 0 };
            let out = matrix(at[0] + (first * dtype.size_in_bytes()) as u64, rows * columns);
            let sizes = Sizes { batch: 1, m: channels, k: inner, n: pixels };
            multiply(device, out, matrix(at[1], inner), (matrix(at[2], pixels), false), sizes, false)
        })
    }
}

/// Returns the group norm of `xs` (batch, channels, height, width), in its type; then x · σ(x) if `silu`. `weight` and `bias`
/// are (channels) in float32.
pub(in crate::layers) fn group_norm(
    xs: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    config: NormConfig,
    silu: bool,
) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let (batch, channels, height, width) = xs.dims4()?;
    if channels != weight.elem_count() || config.groups == 0 || channels % config.groups != 0 {
        bail!("the norm is for {} channels, the map has {channels}", weight.elem_count());
    }
    let (groups, group_size) = (batch * config.groups, channels / config.groups * height * width);
    let chunks = group_size.div_ceil(CHUNK);
    let moments = empty((groups * chunks, 2), DType::F32, xs.device())?;
    let out = empty(xs.shape(), xs.dtype(), xs.device())?;
    with_addresses(&[Some(&xs), Some(&moments), Some(weight), Some(bias), Some(&out)], |device, at| {
        let size = [group_size, CHUNK, chunks].map(Argument::Count);
        let arguments: Vec<_> = [at[0], at[1]].map(Argument::Address).into_iter().chain(size).collect();
        launch_by_row(device, ("group_moments", xs.dtype()), groups * chunks, &arguments)?;
        let shape = [height * width, channels].map(Argument::Count);
        let addresses = at.iter().map(|address| Argument::Address(*address));
        let last = [Argument::Float(config.eps as f32), Argument::Code(silu.into())];
        let arguments: Vec<_> = addresses.chain(shape).chain(size).chain(last).collect();
        launch_by_row(device, ("group_norm", xs.dtype()), groups * chunks, &arguments)
    })?;
    Ok(out)
}
