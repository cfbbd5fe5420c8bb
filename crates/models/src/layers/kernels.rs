//! Row kernels: normalisation, activation, residual addition and head splitting, each in one pass over memory.
//!
//! Every function has several implementations with the same results: float32 on the CPU runs a vectorised loop in this
//! file, compiled for several instruction sets and selected at run time; a GPU runs the kernels of the module `cuda`;
//! everything else uses candle operations. Tests compare them. Shapes: `rows` guidance rows of `tokens` tokens each are flattened to (rows · tokens, channels).

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda;
use super::kernel_choice::has_own_kernels;

/// Number of elements per parallel task: large enough to amortise scheduling, small enough to stay in the L2 cache.
pub(crate) const BLOCK_ELEMENTS: usize = 1 << 14;

/// Number of independent partial sums in a reduction, so that it can be vectorised.
const LANES: usize = 16;

/// Index of a block's six gain vectors, in the checkpoint's order (gate, gate, scale, scale, shift, shift).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// Gate of the attention branch.
    Gate1 = 0,
    /// Gate of the MLP branch.
    Gate2 = 1,
    /// Scale before attention.
    Scale1 = 2,
    /// Scale before the MLP.
    Scale2 = 3,
    /// Shift before attention.
    Shift1 = 4,
    /// Shift before the MLP.
    Shift2 = 5,
}

/// Returns e^x with an error of about one unit in the last place. Saturates instead of overflowing; 0 below -87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to an integer, which is then in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let p = r.mul_add(1.0 / 5040.0, 1.0 / 720.0);
    let p = p.mul_add(r, 1.0 / 120.0).mul_add(r, 1.0 / 24.0).mul_add(r, 1.0 / 6.0).mul_add(r, 0.5);
    let p = p.mul_add(r, 1.0).mul_add(r, 1.0);
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// GELU in its tanh form: x · σ(2u), u = sqrt(2/π)(x + 0.044715 x³).
#[inline(always)]
fn gelu_tanh_scalar(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let u = TWICE_SQRT_2_OVER_PI * (0.044_715 * x * x).mul_add(x, x);
    x / (1.0 + exp(-u))
}

/// GELU in its erf form, by the rational approximation 7.1.26 of Abramowitz and Stegun (absolute error 1.5e-7).
#[inline(always)]
fn gelu_erf_scalar(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1f32.mul_add(z, 1.0);
    let p = 1.061_405_4f32.mul_add(t, -1.453_152).mul_add(t, 1.421_413_7).mul_add(t, -0.284_496_74);
    let erf = 1.0 - p.mul_add(t, 0.254_829_6) * t * exp(-z * z);
    0.5 * x * (1.0 + erf.copysign(x))
}

#[inline(always)]
fn silu_scalar(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Returns the sum of `f(x)` over a row, accumulated in [`LANES`] partial sums.
#[inline(always)]
pub(crate) fn lane_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|x| f(*x)).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Returns the largest value of a row.
#[inline(always)]
pub(crate) fn lane_max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().fold(tail, |a, b| a.max(*b))
}

/// Calls `f(row index, row)` for all rows of `width` elements, in parallel and vectorised.
pub(crate) fn for_each_row(data: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if width == 0 {
        return;
    }
    let rows = (BLOCK_ELEMENTS / width).max(1);
    data.par_chunks_mut(rows * width).enumerate().for_each(|(block, chunk)| {
        vectorized(
            chunk,
            #[inline(always)]
            |chunk| {
                for (index, row) in chunk.chunks_exact_mut(width).enumerate() {
                    f(block * rows + index, row);
                }
            },
        );
    });
}

/// Calls `f(argument)` compiled for the widest instruction set of this machine.
///
/// `f` and every closure that it calls need `#[inline(always)]`: code that is not inlined here is compiled for the
/// baseline instruction set, where each `mul_add` is a call into the C library.
pub(crate) fn vectorized<A, R>(argument: A, f: impl Fn(A) -> R) -> R {
    /// A closure passed to `dispatch` directly would go through a shim for `FnOnce` that the compiler may not inline.
    struct Inlined<A, F>(A, F);

    impl<A, R, F: Fn(A) -> R> WithSimd for Inlined<A, F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> R {
            (self.1)(self.0)
        }
    }

    Arch::new().dispatch(Inlined(argument, f))
}

/// Calls `f` with the elements of a float32 CPU tensor in row-major order; copies only if the tensor is not
/// contiguous.
pub(crate) fn with_slice<R>(xs: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("a CPU kernel was given a tensor of another device") };
    f(contiguous(storage.as_slice::<f32>()?, layout)?)
}

fn contiguous<'a>(all: &'a [f32], layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets().and_then(|(start, stop)| all.get(start..stop)) {
        Some(slice) => Ok(slice),
        None => bail!("a CPU kernel needs a contiguous tensor"),
    }
}

/// An in-place operation on a contiguous float32 CPU tensor. No other tensor may share its storage.
struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in-place-row-kernel"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(all) = storage else { bail!("a CPU kernel was given a dtype other than f32") };
        match layout.contiguous_offsets().and_then(|(start, stop)| all.get_mut(start..stop)) {
            Some(slice) => (self.0)(slice),
            None => bail!("a CPU kernel needs a contiguous tensor"),
        }
        Ok(())
    }
}

/// Modifies a contiguous float32 CPU tensor in place. No other tensor may share its storage.
pub(crate) fn in_place(xs: &Tensor, f: impl Fn(&mut [f32])) -> Result<()> {
    xs.inplace_op1(&InPlace(f))
}

/// Activation functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU, tanh form (EchoGen, T5's `gelu_new`).
    GeluTanh,
    /// GELU, erf form (DINOv2).
    GeluErf,
    /// x · σ(x).
    Silu,
}

/// Returns activation(xs + bias); `xs` is (…, channels), `bias` (channels). Modifies `xs` in place, so no other tensor
/// may share its storage.
#[expect(
    clippy::redundant_closure,
    reason = "a function given by name is called through its pointer type and not inlined into the vectorised loop"
)]
pub fn activate(xs: Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes(&xs) {
        return cuda::add_and(&xs, bias, cuda::After::Activation(activation));
    }
    if !(has_own_kernels(&xs) && xs.is_contiguous()) {
        let (dtype, xs) = (xs.dtype(), bias.map_or(Ok(xs.clone()), |bias| xs.broadcast_add(bias))?);
        // As in the published code, in float32: candle's own would round every step.
        let xs = if dtype == DType::F64 { xs } else { xs.to_dtype(DType::F32)? };
        let activated = match activation {
            Activation::GeluTanh => xs.gelu(),
            Activation::GeluErf => xs.gelu_erf(),
            Activation::Silu => xs.silu(),
        };
        return activated?.to_dtype(dtype);
    }
    let width = xs.dim(candle_core::D::Minus1)?;
    let bias = row_of(bias, width)?;
    in_place(&xs, |data| match activation {
        Activation::GeluTanh => map_rows(
            data,
            width,
            &bias,
            #[inline(always)]
            |x| gelu_tanh_scalar(x),
        ),
        Activation::GeluErf => map_rows(
            data,
            width,
            &bias,
            #[inline(always)]
            |x| gelu_erf_scalar(x),
        ),
        Activation::Silu => map_rows(
            data,
            width,
            &bias,
            #[inline(always)]
            |x| silu_scalar(x),
        ),
    })?;
    Ok(xs)
}

#[inline(always)]
fn map_rows(data: &mut [f32], width: usize, bias: &[f32], f: impl Fn(f32) -> f32 + Sync) {
    for_each_row(
        data,
        width,
        #[inline(always)]
        |_, row| {
            for (x, b) in row.iter_mut().zip(bias) {
                *x = f(*x + b);
            }
        },
    );
}

/// Returns a vector of `width` values as f32; zeros if there is none.
fn row_of(xs: Option<&Tensor>, width: usize) -> Result<Vec<f32>> {
    match xs {
        None => Ok(vec![0.0; width]),
        Some(xs) if xs.elem_count() == width => with_slice(&xs.to_dtype(DType::F32)?, |slice| Ok(slice.to_vec())),
        Some(xs) => bail!("expected {width} numbers, got the shape {:?}", xs.dims()),
    }
}

/// Returns (mean, 1 / sqrt(variance + eps)) of a row.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let mean = lane_sum(
        row,
        #[inline(always)]
        |x| x,
    ) / count;
    let variance = lane_sum(
        row,
        #[inline(always)]
        |x| (x - mean) * (x - mean),
    ) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// Returns LN(x) · (1 + scale) + shift, computed in float32 and rounded to `dtype`, where LN has no affine parameters.
/// `xs` is (rows · tokens, channels), `gains` (rows, n, channels); `scale` and `shift` are indices into the n gain
/// vectors.
pub fn modulated_norm(
    xs: &Tensor,
    gains: &Tensor,
    (scale, shift): (usize, usize),
    eps: f64,
    dtype: DType,
) -> Result<Tensor> {
    let (count, channels) = xs.dims2()?;
    let (rows, kinds, _) = gains.dims3()?;
    if rows == 0 || count % rows != 0 || scale >= kinds || shift >= kinds {
        bail!("gains of shape {:?} do not fit tokens of shape {:?}", gains.dims(), xs.dims());
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(xs) {
        return cuda::modulated_norm(xs, gains, (scale, shift), eps, dtype);
    }
    if !has_own_kernels(xs) {
        let pick = |index: usize| gains.narrow(1, index, 1); // (rows, 1, channels)
        let normed = layer_norm_plain(xs, eps)?.reshape((rows, count / rows, channels))?;
        let modulated = normed.broadcast_mul(&(pick(scale)? + 1.0)?)?.broadcast_add(&pick(shift)?)?;
        return modulated.reshape((count, channels))?.to_dtype(dtype);
    }
    let tokens = count / rows;
    let out = with_slice(gains, |gains| {
        normed_rows(
            xs,
            eps,
            #[inline(always)]
            |index, row, out, mean, inverse| {
                let base = index / tokens * kinds * channels;
                let scale = &gains[base + scale * channels..][..channels];
                let shift = &gains[base + shift * channels..][..channels];
                for (((y, x), scale), shift) in out.iter_mut().zip(row).zip(scale).zip(shift) {
                    *y = ((x - mean) * inverse).mul_add(1.0 + scale, *shift);
                }
            },
        )
    })?;
    Tensor::from_vec(out, (count, channels), xs.device())?.to_dtype(dtype)
}

/// Layer norm with weight and bias (channels), computed in float32 and rounded to `dtype`; `xs` is (…, channels).
pub fn affine_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, dtype: DType) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes(xs) {
        return cuda::affine_norm(xs, weight, bias, eps, dtype);
    }
    if !has_own_kernels(xs) {
        let (weight, bias) = (weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?);
        return layer_norm_plain(xs, eps)?.broadcast_mul(&weight)?.broadcast_add(&bias)?.to_dtype(dtype);
    }
    let width = xs.dim(candle_core::D::Minus1)?;
    let (weight, bias) = (row_of(Some(weight), width)?, row_of(Some(bias), width)?);
    let out = normed_rows(
        xs,
        eps,
        #[inline(always)]
        |_, row, out, mean, inverse| {
            for (((y, x), weight), bias) in out.iter_mut().zip(row).zip(&weight).zip(&bias) {
                *y = ((x - mean) * inverse).mul_add(*weight, *bias);
            }
        },
    )?;
    Tensor::from_vec(out, xs.dims(), xs.device())?.to_dtype(dtype)
}

#[inline(always)]
fn normed_rows(xs: &Tensor, eps: f64, f: impl Fn(usize, &[f32], &mut [f32], f32, f32) + Sync) -> Result<Vec<f32>> {
    let width = xs.dim(candle_core::D::Minus1)?;
    with_slice(xs, |data| {
        let mut out = vec![0f32; data.len()];
        for_each_row(
            &mut out,
            width,
            #[inline(always)]
            |index, out| {
                let row = &data[index * width..][..width];
                let (mean, inverse) = moments(row, eps as f32);
                f(index, row, out, mean, inverse);
            },
        );
        Ok(out)
    })
}

fn layer_norm_plain(xs: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = xs.to_dtype(DType::F32)?;
    let centred = xs.broadcast_sub(&xs.mean_keepdim(candle_core::D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(candle_core::D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)
}

/// Returns xs + gate · (ys + bias) in float32. `xs` and `ys` are (rows · tokens, channels), `bias` (channels). `gate`
/// is gains (rows, n, channels) and the index of the gate vector, or `None` for no gate.
pub fn residual(xs: &Tensor, ys: &Tensor, bias: Option<&Tensor>, gate: Option<(&Tensor, usize)>) -> Result<Tensor> {
    let (count, channels) = xs.dims2()?;
    if ys.dims() != xs.dims() {
        bail!("a residual of shape {:?} does not fit {:?}", ys.dims(), xs.dims());
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(xs) && cuda::takes(ys) {
        return cuda::residual(xs, ys, bias, gate);
    }
    if !(has_own_kernels(xs) && has_own_kernels(ys)) {
        let ys = bias.map_or(Ok(ys.clone()), |bias| ys.broadcast_add(bias))?.to_dtype(DType::F32)?;
        let Some((gains, index)) = gate else { return xs + ys };
        let rows = gains.dim(0)?;
        let ys = ys.reshape((rows, count / rows, channels))?.broadcast_mul(&gains.narrow(1, index, 1)?)?;
        return xs + ys.reshape((count, channels))?;
    }
    let bias = row_of(bias, channels)?;
    let out = match gate {
        None => added_rows(xs, ys, &bias, |_| None)?,
        Some((gains, index)) => {
            let (rows, kinds, _) = gains.dims3()?;
            let tokens = count / rows.max(1);
            with_slice(gains, |gains| {
                added_rows(xs, ys, &bias, |row| gains.get((row / tokens * kinds + index) * channels..)?.get(..channels))
            })?
        }
    };
    Tensor::from_vec(out, (count, channels), xs.device())
}

#[inline(always)]
fn added_rows<'a>(
    xs: &Tensor,
    ys: &Tensor,
    bias: &[f32],
    gate: impl Fn(usize) -> Option<&'a [f32]> + Sync,
) -> Result<Vec<f32>> {
    let width = bias.len();
    with_slice(xs, |xs| {
        with_slice(ys, |ys| {
            let mut out = xs.to_vec();
            for_each_row(
                &mut out,
                width,
                #[inline(always)]
                |index, out| {
                    let row = &ys[index * width..][..width];
                    match gate(index) {
                        None => out.iter_mut().zip(row).zip(bias).for_each(|((x, y), b)| *x += y + b),
                        Some(gate) => {
                            for (((x, y), b), gate) in out.iter_mut().zip(row).zip(bias).zip(gate) {
                                *x = (y + b).mul_add(*gate, *x);
                            }
                        }
                    }
                },
            );
            Ok(out)
        })
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 * 8.0 - 4.0
            })
            .collect()
    }

    fn tensor(shape: &[usize], seed: u32) -> Tensor {
        Tensor::from_vec(values(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
    }

    fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64) {
        assert_eq!(a.dims(), b.dims());
        let flat = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (a, b) in flat(a).iter().zip(flat(b)) {
            assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{a} against {b}");
        }
    }

    #[test]
    fn exponential_is_accurate_and_saturates() {
        for x in values(10_000, 1).iter().map(|x| x * 20.0) {
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) - expected).abs() <= 3e-7 * expected, "exp({x})");
        }
        assert!(exp(1e9).is_finite() && exp(-1e9) < 1e-37);
    }

    #[test]
    fn activations_equal_the_spelled_out_ones() {
        let (xs, bias) = (tensor(&[7, 33], 2), tensor(&[33], 3));
        for activation in [Activation::GeluTanh, Activation::GeluErf, Activation::Silu] {
            let slow =
                activate(xs.to_dtype(DType::F64).unwrap(), Some(&bias.to_dtype(DType::F64).unwrap()), activation);
            let fast = activate(xs.copy().unwrap(), Some(&bias), activation).unwrap();
            assert_close(&fast, &slow.unwrap(), 5e-7);
        }
    }

    #[test]
    fn norms_equal_the_spelled_out_ones() {
        let (xs, gains) = (tensor(&[6, 40], 4), tensor(&[2, 6, 40], 5));
        let fast = modulated_norm(&xs, &gains, (2, 4), 1e-6, DType::F32).unwrap();
        let normed = layer_norm_plain(&xs, 1e-6).unwrap().reshape((2, 3, 40)).unwrap();
        let slow = normed.broadcast_mul(&(gains.narrow(1, 2, 1).unwrap() + 1.0).unwrap()).unwrap();
        let slow = slow.broadcast_add(&gains.narrow(1, 4, 1).unwrap()).unwrap().reshape((6, 40)).unwrap();
        assert_close(&fast, &slow, 2e-6);
        let (weight, bias) = (tensor(&[40], 6), tensor(&[40], 7));
        let slow = layer_norm_plain(&xs, 1e-6).unwrap().broadcast_mul(&weight).unwrap().broadcast_add(&bias).unwrap();
        assert_close(&affine_norm(&xs, &weight, &bias, 1e-6, DType::F32).unwrap(), &slow, 2e-6);
    }

    #[test]
    fn residual_adds_bias_and_gate() {
        let (xs, ys, bias, gains) = (tensor(&[4, 9], 8), tensor(&[4, 9], 9), tensor(&[9], 10), tensor(&[2, 6, 9], 11));
        let biased = ys.broadcast_add(&bias).unwrap();
        assert_close(&residual(&xs, &ys, Some(&bias), None).unwrap(), &(&xs + &biased).unwrap(), 1e-6);
        let gated = biased.reshape((2, 2, 9)).unwrap().broadcast_mul(&gains.narrow(1, 1, 1).unwrap()).unwrap();
        let expected = (&xs + gated.reshape((4, 9)).unwrap()).unwrap();
        assert_close(&residual(&xs, &ys, Some(&bias), Some((&gains, 1))).unwrap(), &expected, 1e-6);
        assert!(residual(&xs, &tensor(&[4, 8], 1), None, None).is_err());
    }
}
