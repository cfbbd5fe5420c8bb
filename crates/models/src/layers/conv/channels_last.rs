//! Channels-last access to CPU tensors: each pixel's channels are contiguous.

use candle_core::{Result, Tensor};

use super::Scale;
use crate::layers::kernels::with_slice;

/// Returns (batch, channels, height, width) as a contiguous tensor (batch, height, width, channels). Does not copy if
/// `xs` is a view from [`channels_last_view`].
pub(super) fn channels_last(xs: &Tensor) -> Result<Tensor> {
    xs.permute((0, 2, 3, 1))?.contiguous()
}

/// Returns `ys` (batch, height, width, channels) as a tensor (batch, channels, height, width) over the same memory.
pub(super) fn channels_last_view(ys: Vec<f32>, shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    Tensor::from_vec(ys, shape, &candle_core::Device::Cpu)?.permute((0, 3, 1, 2))
}

/// The size of a map as a convolution reads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct FeatureMap {
    pub(super) batch: usize,
    /// Height in pixels, after upscaling.
    pub(super) height: usize,
    /// Width in pixels, after upscaling.
    pub(super) width: usize,
    pub(super) channels: usize,
    /// Stored coordinate = read coordinate >> shift.
    shift: u32,
}

impl FeatureMap {
    /// Returns the size of `xs` (batch, height, width, channels), read at the given scale.
    pub(super) fn shape_of(xs: &Tensor, scale: Scale) -> Result<Self> {
        let (batch, height, width, channels) = xs.dims4()?;
        let shift = match scale {
            Scale::One => 0,
            Scale::Two => 1,
        };
        Ok(Self { batch, height: height << shift, width: width << shift, channels, shift })
    }

    /// Returns the channels of a pixel of `values`, or `None` in the padding.
    #[inline(always)]
    pub(super) fn pixel<'a>(&self, values: &'a [f32], image: usize, y: isize, x: isize) -> Option<&'a [f32]> {
        let inside = (0..self.height as isize).contains(&y) && (0..self.width as isize).contains(&x);
        if !inside {
            return None;
        }
        let (y, x) = (y as usize >> self.shift, x as usize >> self.shift);
        let (height, width) = (self.height >> self.shift, self.width >> self.shift);
        let start = ((image * height + y) * width + x) * self.channels;
        values.get(start..start + self.channels)
    }
}

/// What is added to the convolution's result.
pub(super) struct Finish<'a> {
    /// (out).
    pub(super) bias: &'a Tensor,
    /// (batch, height, width, out), contiguous.
    pub(super) residual: Option<&'a Tensor>,
}

impl Finish<'_> {
    /// Calls `f` with the bias and the residual as slices; the residual is empty if there is none.
    pub(super) fn with_slices<R>(&self, f: impl FnOnce(&[f32], &[f32]) -> Result<R>) -> Result<R> {
        with_slice(self.bias, |bias| match self.residual {
            Some(residual) => with_slice(residual, |residual| f(bias, residual)),
            None => f(bias, &[]),
        })
    }
}

/// Splits every plane of `planes` (planes, parts · part_length) into parts: element [part][plane] of the result. Each
/// thread can then write one part of all planes.
pub(super) fn parts_of_planes(planes: &mut [f32], plane_length: usize, part_length: usize) -> Vec<Vec<&mut [f32]>> {
    let parts = plane_length.div_ceil(part_length.max(1));
    let mut result: Vec<Vec<&mut [f32]>> = (0..parts).map(|_| Vec::new()).collect();
    for plane in planes.chunks_exact_mut(plane_length.max(1)) {
        for (part, piece) in result.iter_mut().zip(plane.chunks_mut(part_length.max(1))) {
            part.push(piece);
        }
    }
    result
}
