//! Access to tensors on the CPU whose pixels are contiguous runs of channels.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use super::Scale;

/// (batch, channels, height, width) as a contiguous tensor (batch, height, width, channels); no copy if `xs` is a
/// view made by [`channels_last_view`].
pub(super) fn channels_last(xs: &Tensor) -> Result<Tensor> {
    xs.permute((0, 2, 3, 1))?.contiguous()
}

/// `ys` (batch, height, width, channels), as a tensor (batch, channels, height, width) over the same memory.
pub(super) fn channels_last_view(ys: Vec<f32>, shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    Tensor::from_vec(ys, shape, &candle_core::Device::Cpu)?.permute((0, 3, 1, 2))
}

/// Calls `f` with the numbers of a contiguous f32 tensor on the CPU.
pub(super) fn with_values<R>(xs: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = xs.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("the tensor is not on the CPU") };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("the tensor is not contiguous") };
    match storage.as_slice::<f32>()?.get(start..end) {
        Some(values) => f(values),
        None => bail!("the tensor's layout exceeds its storage"),
    }
}

/// Overwrites the numbers of a contiguous f32 tensor on the CPU: scratch memory that serves every band in turn.
pub(super) fn overwrite(xs: &Tensor, f: impl Fn(&mut [f32])) -> Result<()> {
    struct Overwrite<F>(F);
    impl<F: Fn(&mut [f32])> InplaceOp1 for Overwrite<F> {
        fn name(&self) -> &'static str {
            "overwrite"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            match (storage, layout.contiguous_offsets()) {
                (CpuStorage::F32(values), Some((start, end))) if end <= values.len() => {
                    (self.0)(&mut values[start..end]);
                    Ok(())
                }
                _ => bail!("only contiguous f32 memory can be overwritten"),
            }
        }
    }
    xs.inplace_op1(&Overwrite(f))
}

/// The size of a map as a convolution reads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct FeatureMap {
    pub(super) batch: usize,
    /// As read, after enlarging.
    pub(super) height: usize,
    /// As read, after enlarging.
    pub(super) width: usize,
    pub(super) channels: usize,
    /// Stored coordinate = read coordinate >> shift.
    shift: u32,
}

impl FeatureMap {
    /// The size of `xs` (batch, height, width, channels), read at the given scale.
    pub(super) fn shape_of(xs: &Tensor, scale: Scale) -> Result<Self> {
        let (batch, height, width, channels) = xs.dims4()?;
        let shift = match scale {
            Scale::One => 0,
            Scale::Two => 1,
        };
        Ok(Self { batch, height: height << shift, width: width << shift, channels, shift })
    }

    /// The channels of a pixel of `values`, or nothing where only padding is.
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

/// What is added to the bare convolution.
pub(super) struct Finish<'a> {
    /// (out).
    pub(super) bias: &'a Tensor,
    /// (batch, height, width, out), contiguous.
    pub(super) residual: Option<&'a Tensor>,
}

impl Finish<'_> {
    /// Calls `f` with the bias and the residual, which is empty where there is none.
    pub(super) fn with_values<R>(&self, f: impl FnOnce(&[f32], &[f32]) -> Result<R>) -> Result<R> {
        with_values(self.bias, |bias| match self.residual {
            Some(residual) => with_values(residual, |residual| f(bias, residual)),
            None => f(bias, &[]),
        })
    }
}

/// Cuts every plane of `planes` (planes, parts · part_length) into parts: element [part][plane] of the result.
/// So several threads can each write one part of all planes.
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
