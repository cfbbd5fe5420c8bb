//! Group normalisation, optionally with SiLU in the same pass over memory.

use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::channels_last::{channels_last, channels_last_view};
#[cfg(feature = "cuda")]
use crate::layers::cuda;
use crate::layers::{has_own_kernels, kernels::with_slice};

/// Number of pixels per task. Their sums are accumulated in f32, the sums of tasks in f64.
const PIXELS: usize = 256;

/// Groups and epsilon of a group norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormConfig {
    /// Number of groups; must divide the number of channels.
    pub groups: usize,
    /// Epsilon, added to the variance.
    pub eps: f64,
}

/// Normalises each group of channels over all pixels of an image, then scales and shifts each channel. Computed in float32,
/// as in the published code; the result has the type of the weights.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    /// In the type that is computed in.
    weight: Tensor,
    bias: Tensor,
    /// The type of the result.
    dtype: DType,
    config: NormConfig,
}

/// The operation after the normalisation.
#[derive(Debug, Clone, Copy)]
enum Activation {
    None,
    Silu,
}

impl GroupNorm {
    /// Loads `weight` and `bias` (channels) below `vb`.
    pub fn new(vb: &VarBuilder, channels: usize, config: NormConfig) -> Result<Self> {
        if config.groups == 0 || !channels.is_multiple_of(config.groups) {
            bail!("{channels} channels do not divide into {} groups", config.groups);
        }
        let load = |name: &str| vb.get(channels, name)?.to_dtype(DType::F32)?.contiguous();
        Ok(Self { weight: load("weight")?, bias: load("bias")?, dtype: vb.dtype(), config })
    }

    /// Returns SiLU of the normalised map, y · sigmoid(y). Takes and returns (batch, channels, height, width).
    pub fn forward_silu(&self, xs: &Tensor) -> Result<Tensor> {
        match has_own_kernels(xs) {
            true => self.forward_own(xs, Activation::Silu),
            false => self.forward_plain(xs, Activation::Silu)?.to_dtype(self.dtype),
        }
    }

    /// The norm and the activation where the loops of this module do not apply.
    fn forward_plain(&self, xs: &Tensor, activation: Activation) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if cuda::takes(xs) {
            let is_silu = matches!(activation, Activation::Silu);
            return cuda::group_norm(xs, &self.weight, &self.bias, self.config, is_silu);
        }
        let ys = self.forward_candle(xs)?;
        match activation {
            Activation::None => Ok(ys),
            Activation::Silu => ys.silu(),
        }
    }

    /// The norm in the type that is computed in.
    fn forward_candle(&self, xs: &Tensor) -> Result<Tensor> {
        let (channels, NormConfig { groups, eps }) = (self.weight.elem_count(), self.config);
        let norm = candle_nn::GroupNorm::new(self.weight.clone(), self.bias.clone(), channels, groups, eps)?;
        norm.forward(&xs.to_dtype(self.weight.dtype())?.contiguous()?)
    }

    fn forward_own(&self, xs: &Tensor, activation: Activation) -> Result<Tensor> {
        let xs = channels_last(xs)?;
        let shape @ (_, height, width, channels) = xs.dims4()?;
        if channels != self.weight.elem_count() {
            bail!("the norm is for {} channels, the map has {channels}", self.weight.elem_count());
        }
        let mut ys = vec![0f32; xs.elem_count()];
        with_slice(&xs, |xs| {
            let image = (height * width * channels).max(1);
            for (xs, ys) in xs.chunks(image).zip(ys.chunks_mut(image)) {
                let (scale, shift) = self.scale_and_shift(xs)?;
                let chunk = PIXELS * channels;
                ys.par_chunks_mut(chunk).zip(xs.par_chunks(chunk)).for_each(|(ys, xs)| {
                    pulp::Arch::new().dispatch(|| apply(xs, &scale, &shift, activation, ys));
                });
            }
            Ok(())
        })?;
        channels_last_view(ys, shape)
    }

    /// Returns the norm of one image (pixels, channels) as one scale and one shift per channel.
    fn scale_and_shift(&self, xs: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let channels = self.weight.elem_count();
        let size = channels / self.config.groups;
        let pixels = (xs.len() / channels) as f64;
        let moments = Moments::of_image(xs, channels);
        let mut scale = vec![0f32; channels];
        let mut shift = vec![0f32; channels];
        with_slice(&self.weight, |weight| {
            with_slice(&self.bias, |bias| {
                for group in (0..channels).step_by(size) {
                    let group = group..group + size;
                    let (mean, variance) = moments.mean_and_variance(group.clone(), pixels);
                    let inverse = 1.0 / (variance + self.config.eps).sqrt();
                    for channel in group {
                        let factor = inverse * f64::from(weight[channel]);
                        scale[channel] = factor as f32;
                        shift[channel] = (f64::from(bias[channel]) - mean * factor) as f32;
                    }
                }
                Ok(())
            })
        })?;
        Ok((scale, shift))
    }
}

impl Module for GroupNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match has_own_kernels(xs) {
            true => self.forward_own(xs, Activation::None),
            false => self.forward_plain(xs, Activation::None)?.to_dtype(self.dtype),
        }
    }
}

/// Sums per channel over an image: of the differences to a pivot near the mean, and of their squares. Without the
/// pivot the variance of a map far from zero would be lost in rounding.
struct Moments<'a> {
    pivot: &'a [f32],
    sum: Vec<f64>,
    square: Vec<f64>,
}

impl<'a> Moments<'a> {
    fn of_image(xs: &'a [f32], channels: usize) -> Self {
        let pivot = &xs[..channels];
        let partial: Vec<_> = xs
            .par_chunks(PIXELS * channels)
            .map(|xs| {
                let (mut sum, mut square) = (vec![0f32; channels], vec![0f32; channels]);
                pulp::Arch::new().dispatch(|| accumulate(xs, pivot, &mut sum, &mut square));
                (sum, square)
            })
            .collect();
        // Summed in pixel order, independent of the threads, so results are reproducible.
        let (mut sum, mut square) = (vec![0f64; channels], vec![0f64; channels]);
        for (partial_sum, partial_square) in &partial {
            for channel in 0..channels {
                sum[channel] += f64::from(partial_sum[channel]);
                square[channel] += f64::from(partial_square[channel]);
            }
        }
        Self { pivot, sum, square }
    }

    /// Returns mean and variance of a range of channels, each with `pixels` values.
    fn mean_and_variance(&self, group: std::ops::Range<usize>, pixels: f64) -> (f64, f64) {
        let count = pixels * group.len() as f64;
        let pivot = |channel: usize| f64::from(self.pivot[channel]);
        let mean = group.clone().map(|c| self.sum[c] + pixels * pivot(c)).sum::<f64>() / count;
        let squares = group.map(|c| {
            let offset = mean - pivot(c);
            self.square[c] - 2.0 * offset * self.sum[c] + pixels * offset * offset
        });
        (mean, (squares.sum::<f64>() / count).max(0.0))
    }
}

#[inline(always)]
fn accumulate(xs: &[f32], pivot: &[f32], sum: &mut [f32], square: &mut [f32]) {
    for pixel in xs.chunks_exact(pivot.len()) {
        for (((x, pivot), sum), square) in pixel.iter().zip(pivot).zip(&mut *sum).zip(&mut *square) {
            let difference = x - pivot;
            *sum += difference;
            *square += difference * difference;
        }
    }
}

/// ys = activation(xs · scale + shift), pixel by pixel.
#[inline(always)]
fn apply(xs: &[f32], scale: &[f32], shift: &[f32], activation: Activation, ys: &mut [f32]) {
    for (ys, xs) in ys.chunks_exact_mut(scale.len()).zip(xs.chunks_exact(scale.len())) {
        let normalised = xs.iter().zip(scale).zip(shift).map(|((x, scale), shift)| x * scale + shift);
        match activation {
            Activation::None => ys.iter_mut().zip(normalised).for_each(|(y, n)| *y = n),
            Activation::Silu => ys.iter_mut().zip(normalised).for_each(|(y, n)| *y = n / (1.0 + exp(-n))),
        }
    }
}

/// Returns e^x with a relative error of at most 2e-7, without branches, so loops over it vectorise. Arguments are
/// clamped to ±87.
///
/// [`kernels::exp`](crate::layers::kernels::exp) is not used, because it fuses multiply-adds and has one more term:
/// pictures of the same seed would differ from earlier ones by one level in some pixels.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding this constant leaves the rounded integer in the low bits of the significand.
    const ROUNDING: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has few enough bits that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUNDING;
    let power = rounded - ROUNDING;
    let r = x - power * LN2_HIGH - power * LN2_LOW;
    // Taylor series of e^r, |r| <= ln 2 / 2: the next term is below 1.2e-7 / 16.
    let series = 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r + 1.0;
    let series = series * r + 1.0;
    series * f32::from_bits((rounded.to_bits() << 23).wrapping_add(1f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn exp_is_close_everywhere() {
        for step in -9000..=9000 {
            let x = step as f32 * 0.01;
            let expected = f64::from(x.clamp(-87.0, 87.0)).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 4e-7, "exp({x}) is off by {error}");
        }
    }

    /// Values far from zero with little spread, the difficult case for a variance.
    fn sample(shape: (usize, usize, usize, usize), offset: f64) -> Result<Tensor> {
        let count = (shape.0 * shape.1 * shape.2 * shape.3) as f32;
        Tensor::arange(0f32, count, &Device::Cpu)?.sin()?.affine(2.0, offset)?.reshape(shape)
    }

    fn norm(channels: usize, groups: usize) -> Result<GroupNorm> {
        let weight = Tensor::arange(1f32, channels as f32 + 1.0, &Device::Cpu)?.affine(0.25, 0.0)?;
        let bias = Tensor::arange(0f32, channels as f32, &Device::Cpu)?.affine(-0.125, 0.5)?;
        Ok(GroupNorm { weight, bias, dtype: DType::F32, config: NormConfig { groups, eps: 1e-6 } })
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f32> {
        (a.to_dtype(DType::F32)? - b.to_dtype(DType::F32)?)?.abs()?.flatten_all()?.max(0)?.to_scalar()
    }

    #[test]
    fn agrees_with_candle() -> Result<()> {
        for (shape, groups, offset) in
            [((2, 12, 5, 3), 4, 0.0), ((1, 6, 1, 1), 3, 1.0), ((3, 40, 33, 17), 8, 100.0), ((1, 5, 2, 3), 1, -3.0)]
        {
            let norm = norm(shape.1, groups)?;
            let xs = sample(shape, offset)?;
            let exact = GroupNorm {
                weight: norm.weight.to_dtype(DType::F64)?,
                bias: norm.bias.to_dtype(DType::F64)?,
                dtype: DType::F64,
                config: norm.config,
            };
            let expected = exact.forward(&xs.to_dtype(DType::F64)?)?;
            assert!(largest_difference(&norm.forward(&xs)?, &expected)? < 2e-4, "{shape:?}");
            let activated = largest_difference(&norm.forward_silu(&xs)?, &expected.silu()?)?;
            assert!(activated < 2e-4, "{shape:?} {activated}");
        }
        Ok(())
    }

    #[test]
    fn refuses_groups_that_do_not_divide() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        assert!(GroupNorm::new(&vb, 10, NormConfig { groups: 4, eps: 1e-6 }).is_err());
        assert!(GroupNorm::new(&vb, 10, NormConfig { groups: 0, eps: 1e-6 }).is_err());
    }
}
