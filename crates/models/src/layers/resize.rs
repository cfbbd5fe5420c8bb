//! Resampling of pictures and feature maps: bilinear, bicubic (two variants), area, nearest.
//!
//! All except nearest are separable: each output row or column is a weighted sum of input rows or columns. The weights
//! form a small matrix per axis, so a resize is two matrix products and runs on every device. Coordinates and weights
//! are computed in f32 in the order of PyTorch's `interpolate`; f64 coordinates would be more exact than the reference
//! and differ from it in the fifth digit. Sums are f32; other dtypes are converted and converted back.
//!
//! There are two bicubic variants because published pipelines use both: [`resize_bicubic`] reads four neighbours at
//! any scale, [`resize_bicubic_antialias`] has a sharper kernel that widens when shrinking.

use candle_core::{DType, Result, Tensor, bail};

use super::checked_matmul::CheckedMatmul;

/// Resizes (batch, channels, height, width) by bilinear interpolation: half-pixel centres, no antialiasing.
pub fn resize_bilinear(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resize_separable(xs, height, width, bilinear_weights)
}

/// Resizes (batch, channels, height, width) by cubic convolution with a = -0.75: half-pixel centres, edges clamped,
/// no antialiasing. Results may overshoot the range of the input.
pub fn resize_bicubic(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resize_separable(xs, height, width, bicubic_weights)
}

/// Resizes (batch, channels, height, width) by cubic convolution with a = -0.5. When shrinking, the kernel's support
/// widens by the scale. Weights outside the input are dropped and the others renormalised.
pub fn resize_bicubic_antialias(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resize_separable(xs, height, width, bicubic_antialias_weights)
}

/// Resizes (batch, channels, height, width) by averaging: each output cell is the mean of all input cells that it
/// overlaps (adaptive average pooling).
pub fn resize_area(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    resize_separable(xs, height, width, area_weights)
}

/// Doubles height and width of (batch, channels, height, width) by repeating each cell.
pub fn resize_nearest_2x(xs: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = xs.dims4()?;
    xs.upsample_nearest2d(2 * height, 2 * width)
}

/// Computes the weights of one axis from input size and output size: a matrix (output, input), row-major.
type AxisWeights = fn(usize, usize) -> Vec<f32>;

fn resize_separable(xs: &Tensor, height: usize, width: usize, weights: AxisWeights) -> Result<Tensor> {
    let (batch, channels, from_height, from_width) = xs.dims4()?;
    if [height, width, from_height, from_width].contains(&0) {
        bail!("cannot resize {from_height} x {from_width} to {height} x {width}: no side may be 0");
    }
    if (from_height, from_width) == (height, width) {
        return Ok(xs.clone());
    }
    let planes = batch * channels;
    let mut resized = xs.to_dtype(DType::F32)?.contiguous()?;
    if from_width != width {
        let columns = Tensor::from_vec(weights(from_width, width), (width, from_width), xs.device())?;
        // (batch * channels * from_height, width)
        resized = resized.reshape((planes * from_height, from_width))?.checked_matmul(&columns.t()?)?;
    }
    if from_height != height {
        let rows = Tensor::from_vec(weights(from_height, height), (height, from_height), xs.device())?;
        // A view with batch stride 0: all products read one matrix, and nothing is copied.
        let rows = rows.broadcast_as((planes, height, from_height))?;
        // (batch * channels, height, width)
        resized = rows.checked_matmul(&resized.reshape((planes, from_height, width))?)?;
    }
    resized.reshape((batch, channels, height, width))?.to_dtype(xs.dtype())
}

/// Returns the position of output cell `to` in input cells; cell centres are at integers.
fn source_position(to: usize, scale: f32) -> f32 {
    scale * (to as f32 + 0.5) - 0.5
}

fn bilinear_weights(from: usize, to: usize) -> Vec<f32> {
    let scale = from as f32 / to as f32;
    let mut weights = vec![0.0; to * from];
    for (out, row) in weights.chunks_exact_mut(from).enumerate() {
        let position = source_position(out, scale).max(0.0);
        let left = (position as usize).min(from - 1);
        let right = (left + 1).min(from - 1);
        let fraction = (position - left as f32).clamp(0.0, 1.0);
        row[left] += 1.0 - fraction;
        row[right] += fraction;
    }
    weights
}

fn bicubic_weights(from: usize, to: usize) -> Vec<f32> {
    let scale = from as f32 / to as f32;
    let mut weights = vec![0.0; to * from];
    for (out, row) in weights.chunks_exact_mut(from).enumerate() {
        let position = source_position(out, scale);
        let left = position.floor();
        let fraction = position - left;
        for tap in -1..=2 {
            let cell = (left as i64 + tap).clamp(0, from as i64 - 1) as usize;
            row[cell] += cubic_kernel(tap as f32 - fraction, -0.75);
        }
    }
    weights
}

fn bicubic_antialias_weights(from: usize, to: usize) -> Vec<f32> {
    let scale = from as f32 / to as f32;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let mut weights = vec![0.0; to * from];
    for (out, row) in weights.chunks_exact_mut(from).enumerate() {
        let centre = scale * (out as f32 + 0.5);
        let first = ((centre - support + 0.5).max(0.0) as usize).min(from - 1);
        let end = ((centre + support + 0.5) as usize).clamp(first + 1, from);
        let taps = &mut row[first..end];
        for (cell, weight) in (first..end).zip(taps.iter_mut()) {
            *weight = cubic_kernel((cell as f32 - centre + 0.5) / stretch, -0.5);
        }
        let sum: f32 = taps.iter().sum();
        taps.iter_mut().for_each(|weight| *weight /= sum);
    }
    weights
}

fn area_weights(from: usize, to: usize) -> Vec<f32> {
    let mut weights = vec![0.0; to * from];
    for (out, row) in weights.chunks_exact_mut(from).enumerate() {
        let first = out * from / to;
        let end = ((out + 1) * from).div_ceil(to);
        row[first..end].fill(1.0 / (end - first) as f32);
    }
    weights
}

/// The cubic convolution kernel of Keys (1981) with parameter `a`, at distance `x` in cells.
fn cubic_kernel(x: f32, a: f32) -> f32 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((x - 5.0) * x + 8.0) * x * a - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// A 3 x 5 map of small integers without symmetry.
    const MAP: [f32; 15] = [-5., 5., -4., 1., -2., -2., 1., -4., 5., -5., -1., -5., 5., -4., 1.];

    type Resize = fn(&Tensor, usize, usize) -> Result<Tensor>;

    fn map() -> Tensor {
        Tensor::from_slice(&MAP, (1, 1, 3, 5), &Device::Cpu).unwrap()
    }

    /// The expected values come from `torch.nn.functional.interpolate` 2.15 on `MAP`.
    fn check(resize: Resize, height: usize, width: usize, expected: &[f32]) {
        let resized = resize(&map(), height, width).unwrap();
        assert_eq!(resized.dims(), [1, 1, height, width]);
        let resized = resized.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (actual, expected) in resized.iter().zip(expected) {
            assert!((actual - expected).abs() < 5e-6, "expected {expected}, got {actual}, of {resized:?}");
        }
    }

    #[test]
    fn bilinear_equals_torch() {
        let taller_narrower = [
            -1.666667, -4.0, -0.9999995, -1.4, -4.0, -1.266666, -1.0, -4.0, -1.666665, -1.8, 1.400001, -1.066666,
            -2.333333, 5.0, -0.6666675,
        ];
        check(resize_bilinear, 5, 3, &taller_narrower);
        let lower_wider = [
            -4.25,
            0.4642861,
            1.714285,
            -4.0,
            0.2857151,
            -0.03571445,
            -2.75,
            -1.25,
            -2.535714,
            -1.714285,
            2.75,
            -0.4642863,
            -1.214286,
            -0.5,
        ];
        check(resize_bilinear, 2, 7, &lower_wider);
    }

    #[test]
    fn bicubic_equals_torch() {
        let taller_narrower = [
            -1.406964, -4.0, -0.7226652, -0.9824454, -4.647998, -1.020516, -0.7777785, -4.0, -1.351849, -1.983111,
            1.508001, -1.223185, -3.01037, 5.864, -1.04741,
        ];
        check(resize_bicubic, 5, 3, &taller_narrower);
        let lower_wider = [
            -5.037176, 1.573775, 2.69087, -4.316406, 0.6793529, 0.7622883, -3.293131, -0.9116933, -3.372083, -2.084075,
            2.960938, -0.4121332, -1.753075, -0.3581449,
        ];
        check(resize_bicubic, 2, 7, &lower_wider);
    }

    #[test]
    fn bicubic_with_antialias_equals_torch() {
        let taller_narrower = [
            -0.7114657, -0.5860464, -0.8885332, -0.6957517, -0.64311, -0.8084952, -0.8769228, -0.5860465, -0.7230763,
            -2.062457, 0.2413747, -0.9259474, -2.829318, 0.7845545, -1.070538,
        ];
        check(resize_bicubic_antialias, 5, 3, &taller_narrower);
        let lower_wider = [
            -4.446571, 0.937079, 2.219458, -4.361156, 1.239368, 0.5690359, -3.643036, -1.122847, -2.580881, -1.931854,
            1.850723, 0.1064581, -1.092435, -1.250759,
        ];
        check(resize_bicubic_antialias, 2, 7, &lower_wider);
    }

    #[test]
    fn area_equals_torch() {
        let taller_narrower = [
            0.0, 0.6666667, -0.5, -0.25, 0.6666667, -0.25, -0.5, 0.6666667, 0.0, -1.75, -0.3333333, -0.75, -3.0,
            -1.333333, -1.5,
        ];
        check(resize_area, 5, 3, &taller_narrower);
        let lower_wider = [-3.5, -0.25, -0.5, -4.0, -0.5, -0.25, -3.5, -1.5, -1.75, -0.75, 0.5, 0.5, -0.75, -2.0];
        check(resize_area, 2, 7, &lower_wider);
    }

    #[test]
    fn nearest_repeats_each_cell() {
        let doubled = resize_nearest_2x(&map()).unwrap();
        assert_eq!(doubled.dims(), [1, 1, 6, 10]);
        let doubled = doubled.squeeze(0).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap();
        for (y, row) in doubled.iter().enumerate() {
            for (x, value) in row.iter().enumerate() {
                assert_eq!(*value, MAP[y / 2 * 5 + x / 2]);
            }
        }
    }

    #[test]
    fn the_same_size_returns_the_input() {
        for resize in [resize_bilinear as Resize, resize_bicubic, resize_bicubic_antialias, resize_area] {
            let map = map();
            let same = resize(&map, 3, 5).unwrap();
            assert_eq!(same.id(), map.id(), "no copy is made");
            assert_eq!(same.flatten_all().unwrap().to_vec1::<f32>().unwrap(), MAP);
        }
    }

    #[test]
    fn every_plane_is_resized_alone() {
        let (first, second) = (map(), map().affine(-3.0, 2.0).unwrap());
        let planes = Tensor::cat(&[&first, &second, &second, &first], 0).unwrap().reshape((2, 2, 3, 5)).unwrap();
        // The same values as a non-contiguous view.
        let batch = planes.transpose(2, 3).unwrap().contiguous().unwrap().transpose(2, 3).unwrap();
        let resized = resize_bicubic(&batch, 4, 6).unwrap();
        for (b, c, plane) in [(0, 0, &first), (0, 1, &second), (1, 0, &second), (1, 1, &first)] {
            let alone = resize_bicubic(plane, 4, 6).unwrap().squeeze(0).unwrap().squeeze(0).unwrap();
            let together = resized.get(b).unwrap().get(c).unwrap();
            assert_eq!(together.to_vec2::<f32>().unwrap(), alone.to_vec2::<f32>().unwrap());
        }
    }

    #[test]
    fn other_types_come_back_as_they_were() {
        let half = map().to_dtype(DType::BF16).unwrap();
        assert_eq!(resize_area(&half, 6, 2).unwrap().dtype(), DType::BF16);
    }

    #[test]
    fn no_side_may_be_zero() {
        assert!(resize_bilinear(&map(), 0, 4).unwrap_err().to_string().contains("no side may be 0"));
    }
}
