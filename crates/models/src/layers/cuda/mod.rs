//! Kernels for NVIDIA GPUs: what takes candle several launches and copies between two matrix products is one launch here.
//!
//! The kernels are in `rows.cu`, `maps.cu`, `draws.cu` and `flash.cu`, which the build script compiles to PTX. They compute
//! what the functions of the same names in `kernels`, `draws` and `attention` do, in float32, and round once to the type of the
//! result. [`takes`] says where they apply; all else runs candle's operations. The integration test `gpu_kernels` compares the
//! two.

mod attention;
mod conv;
mod draws;
mod flash;
mod launch;

use candle_core::{D, DType, Result, Tensor, bail};

pub(super) use attention::{append_heads, attend_rows, split_parts};
pub(super) use conv::{conv, group_norm};
pub(super) use draws::{add_codes, code_tokens, draw, takes_f32, takes_sum, weighted_sum};
use launch::{Argument, Matrices, Sizes, empty, launch_by_number, launch_by_row, multiply, with_addresses};

use super::{kernel_choice::has_device_kernels, kernels::Activation};

/// Whether these kernels run on `xs`.
pub(super) fn takes(xs: &Tensor) -> bool {
    has_device_kernels(xs) && matches!(xs.dtype(), DType::F32 | DType::F16 | DType::BF16)
}

/// As `kernels::modulated_norm`, in the type `dtype`. The indices of the gains are within them.
pub(super) fn modulated_norm(
    xs: &Tensor,
    gains: &Tensor,
    (scale, shift): (usize, usize),
    eps: f64,
    dtype: DType,
) -> Result<Tensor> {
    let (count, width) = xs.dims2()?;
    let (rows, kinds, _) = gains.dims3()?;
    let (xs, gains) = (xs.to_dtype(DType::F32)?.contiguous()?, gains.to_dtype(DType::F32)?.contiguous()?);
    let out = empty((count, width), dtype, xs.device())?;
    with_addresses(&[Some(&xs), Some(&gains), Some(&out)], |device, at| {
        let gain = |index: usize| Argument::Address(at[1] + (index * width * size_of::<f32>()) as u64);
        let arguments = [
            Argument::Address(at[0]),
            gain(scale),
            gain(shift),
            Argument::Address(at[2]),
            Argument::Count(width),
            Argument::Count(count / rows),
            Argument::Count(kinds * width),
            Argument::Float(eps as f32),
        ];
        launch_by_row(device, ("modulated_norm", dtype), count, &arguments)
    })?;
    Ok(out)
}

/// As `kernels::affine_norm`, in the type `dtype`.
pub(super) fn affine_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, dtype: DType) -> Result<Tensor> {
    // Weights of more digits than the result are not rounded to it.
    let inner = if weight.dtype() == dtype { dtype } else { DType::F32 };
    let row = |xs: &Tensor| xs.to_dtype(inner)?.contiguous();
    let (xs, weight, bias) = (xs.to_dtype(DType::F32)?.contiguous()?, row(weight)?, row(bias)?);
    let width = xs.dim(D::Minus1)?;
    let out = empty(xs.shape(), inner, xs.device())?;
    with_addresses(&[Some(&xs), Some(&weight), Some(&bias), Some(&out)], |device, at| {
        let addresses = at.iter().map(|address| Argument::Address(*address));
        let arguments: Vec<_> = addresses.chain([Argument::Count(width), Argument::Float(eps as f32)]).collect();
        launch_by_row(device, ("affine_norm", inner), xs.elem_count() / width.max(1), &arguments)
    })?;
    out.to_dtype(dtype)
}

/// What follows the addition of a bias.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    /// Nothing.
    Nothing,
    /// An activation.
    Activation(Activation),
    /// max(x, 0).
    Relu,
}

impl After {
    /// The number that the kernel knows it by.
    fn code(self) -> i32 {
        match self {
            Self::Nothing => 0,
            Self::Activation(Activation::GeluTanh) => 1,
            Self::Activation(Activation::GeluErf) => 2,
            Self::Activation(Activation::Silu) => 3,
            Self::Relu => 4,
        }
    }
}

/// Returns `after` of xs + bias; `bias` is (channels). Modifies `xs` in place if it is contiguous, so no other tensor may
/// share its storage.
pub(super) fn add_and(xs: &Tensor, bias: Option<&Tensor>, after: After) -> Result<Tensor> {
    let (xs, width) = (xs.contiguous()?, xs.dim(D::Minus1)?);
    let bias = bias.map(|bias| bias.to_dtype(xs.dtype())?.contiguous()).transpose()?;
    with_addresses(&[Some(&xs), bias.as_ref()], |device, at| {
        let arguments = [
            Argument::Address(at[0]),
            Argument::Address(at[1]),
            Argument::Address(at[0]),
            Argument::Count(xs.elem_count()),
            Argument::Count(width),
            Argument::Code(after.code()),
        ];
        launch_by_number(device, ("activate", xs.dtype()), xs.elem_count(), &arguments)
    })?;
    Ok(xs)
}

/// As `kernels::residual`; the shapes fit.
pub(super) fn residual(
    xs: &Tensor,
    ys: &Tensor,
    bias: Option<&Tensor>,
    gate: Option<(&Tensor, usize)>,
) -> Result<Tensor> {
    let (count, width) = xs.dims2()?;
    let (rows, kinds) = gate.map_or(Ok((1, 0)), |(gains, _)| gains.dims3().map(|(rows, kinds, _)| (rows, kinds)))?;
    let (xs, ys) = (xs.to_dtype(DType::F32)?.contiguous()?, ys.contiguous()?);
    let bias = bias.map(|bias| bias.to_dtype(ys.dtype())?.contiguous()).transpose()?;
    let gains = gate.map(|(gains, _)| gains.to_dtype(DType::F32)?.contiguous()).transpose()?;
    let out = empty((count, width), DType::F32, xs.device())?;
    with_addresses(&[Some(&xs), Some(&ys), bias.as_ref(), gains.as_ref(), Some(&out)], |device, at| {
        let gate = gate.map_or(0, |(_, index)| at[3] + (index * width * size_of::<f32>()) as u64);
        let arguments = [
            Argument::Address(at[0]),
            Argument::Address(at[1]),
            Argument::Address(at[2]),
            Argument::Address(gate),
            Argument::Address(at[4]),
            Argument::Count(count * width),
            Argument::Count(width),
            Argument::Count((count / rows.max(1)).max(1)),
            Argument::Count(kinds * width),
        ];
        launch_by_number(device, ("residual", ys.dtype()), count * width, &arguments)
    })?;
    Ok(out)
}

/// Adds xs · weight to `onto`; `xs` is (…, in), `weight` (in, out), `onto` (…, out), all of one type.
pub(super) fn product_onto(xs: &Tensor, weight: &Tensor, onto: Tensor) -> Result<Tensor> {
    let (xs, onto) = (xs.contiguous()?, onto.contiguous()?);
    let (k, n) = weight.dims2()?;
    let m = xs.elem_count() / k.max(1);
    let dtype = weight.dtype();
    if xs.dim(D::Minus1)? != k || onto.elem_count() != m * n || !weight.is_contiguous() {
        bail!("the product of {:?} and {:?} does not fit {:?}", xs.dims(), weight.dims(), onto.dims());
    }
    if xs.dtype() != dtype || onto.dtype() != dtype {
        bail!("a product of {dtype:?} was given {:?} and {:?}", xs.dtype(), onto.dtype());
    }
    with_addresses(&[Some(&xs), Some(weight), Some(&onto)], |device, at| {
        let matrix = |address, row_stride| Matrices { address, dtype, row_stride, batch_stride: 0 };
        let sizes = Sizes { batch: 1, m, k, n };
        multiply(device, matrix(at[2], n), matrix(at[0], k), (matrix(at[1], n), false), sizes, true)
    })?;
    Ok(onto)
}
