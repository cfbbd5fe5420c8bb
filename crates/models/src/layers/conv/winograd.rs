//! 3x3 convolution by Winograd's minimal filtering F(4x4, 3x3).
//!
//! A tile of 4x4 outputs depends on 6x6 inputs. Interpreted as polynomials evaluated at six points, its 144
//! multiplications per pair of channels become 36: B transforms the input tile, G the kernel, the 36 positions are
//! multiplied as 36 matrix products over channels, and A transforms the products to outputs (S. Winograd 1980; A.
//! Lavin, S. Gray, arXiv:1509.09308). The points are 0, ±3/4, ±3/2 and infinity: the constants are exact in binary,
//! and close to 1, which keeps the rounding error near that of direct summation (measured: root mean square 8e-7 of
//! the output over 128 channels, direct 5e-7; the usual points 0, ±1, ±2 give 1.7e-6).
//!
//! Weights are transformed at each call. Storing them transformed would take four times the memory of the weights, and
//! the transform is cheap compared with the products wherever the map is large enough for this algorithm to be faster.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::channels_last::{FeatureMap, Finish, parts_of_planes};
use crate::layers::{
    kernels::{in_place, with_slice},
    simd::{load, store},
};

/// Side of an output tile.
const TILE: usize = 4;
/// Side of an input tile, and number of evaluation points.
const POINTS: usize = 6;
/// Number of positions of a transformed tile.
const PLACES: usize = POINTS * POINTS;
/// Maximum number of values in transformed tiles at a time, inputs and products together (32 MiB).
const BAND: usize = 8 << 20;

/// The first pair of evaluation points is ±P, the second ±Q.
const P: f32 = 0.75;
const Q: f32 = 1.5;

/// A transformed tile for as many channels as a vector register holds.
type Tile<V> = [[V; POINTS]; POINTS];

/// Whether this algorithm is faster than [`super::im2col`]: a map needs many tiles to amortise the transform of the
/// weights.
pub(super) fn pays(map: &FeatureMap) -> bool {
    map.channels >= 16 && map.batch * map.height.div_ceil(TILE) * map.width.div_ceil(TILE) >= 32
}

/// Convolves `xs` (batch, height, width, in) with `weight` (9 · in, out) and one row or column of zero padding on
/// every side. The result is (batch, height, width, out).
pub(super) fn conv3x3(xs: &Tensor, map: &FeatureMap, weight: &Tensor, finish: &Finish) -> Result<Vec<f32>> {
    let (_, out_channels) = weight.dims2()?;
    let weight = transformed_weight(weight)?; // (36, in, out)
    let columns = map.width.div_ceil(TILE);
    let line = PLACES * columns * (map.channels + out_channels);
    let lines = map.batch * map.height.div_ceil(TILE);
    let band = (BAND / line.max(1)).clamp(1, lines.max(1));
    let scratch = Tensor::zeros((PLACES, band * columns, map.channels), DType::F32, &Device::Cpu)?;

    let mut ys = vec![0f32; map.batch * map.height * map.width * out_channels];
    let image = (map.height * map.width * out_channels).max(1);
    let strip = (TILE * map.width * out_channels).max(1);
    let mut strips: Vec<&mut [f32]> = ys.chunks_mut(image).flat_map(|image| image.chunks_mut(strip)).collect();
    for (index, strips) in strips.chunks_mut(band).enumerate() {
        let first = index * band;
        with_slice(xs, |xs| in_place(&scratch, |scratch| transform_inputs(xs, map, first, strips.len(), scratch)))?;
        let products = scratch.narrow(1, 0, strips.len() * columns)?.matmul(&weight)?; // (36, tiles, out)
        with_slice(&products, |products| write_outputs(products, map, first, strips, finish))?;
    }
    Ok(ys)
}

/// Transforms (9 · in, out) to (36, in, out).
fn transformed_weight(weight: &Tensor) -> Result<Tensor> {
    let (rows, out_channels) = weight.dims2()?;
    let in_channels = rows / 9;
    let transformed = Tensor::zeros((PLACES, in_channels, out_channels), DType::F32, &Device::Cpu)?;
    with_slice(weight, |weight| {
        in_place(&transformed, |transformed| {
            let parts = parts_of_planes(transformed, in_channels * out_channels, out_channels);
            parts.into_par_iter().enumerate().with_min_len(8).for_each(|(channel, planes)| {
                Arch::new().dispatch(KernelLine { weight, in_channels, out_channels, channel, planes });
            });
        })
    })?;
    Ok(transformed)
}

/// The kernels of one input channel for all output channels: from 3x3 rows to 6x6 rows, both (out).
struct KernelLine<'a> {
    weight: &'a [f32],
    in_channels: usize,
    out_channels: usize,
    channel: usize,
    planes: Vec<&'a mut [f32]>,
}

impl WithSimd for KernelLine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for at in (0..self.out_channels).step_by(S::F32_LANES) {
            let mut half = [[simd.splat_f32s(0.0); 3]; POINTS];
            for column in 0..3 {
                let mut taps = [simd.splat_f32s(0.0); 3];
                for (row, tap) in taps.iter_mut().enumerate() {
                    let start = ((row * 3 + column) * self.in_channels + self.channel) * self.out_channels;
                    *tap = load(simd, &self.weight[start..start + self.out_channels], at);
                }
                for (half, y) in half.iter_mut().zip(kernel_1d(simd, taps)) {
                    half[column] = y;
                }
            }
            for (planes, half) in self.planes.chunks_exact_mut(POINTS).zip(half) {
                for (plane, y) in planes.iter_mut().zip(kernel_1d(simd, half)) {
                    store(simd, plane, at, y);
                }
            }
        }
    }
}

/// Transforms the tiles of `count` tile rows from `first` on (numbered across all images) to (36, tiles, in).
fn transform_inputs(xs: &[f32], map: &FeatureMap, first: usize, count: usize, scratch: &mut [f32]) {
    let lines = map.height.div_ceil(TILE);
    let part = map.width.div_ceil(TILE) * map.channels;
    let parts = parts_of_planes(scratch, scratch.len() / PLACES, part);
    parts.into_par_iter().take(count).enumerate().for_each(|(index, planes)| {
        let (image, line) = ((first + index) / lines, (first + index) % lines);
        Arch::new().dispatch(InputLine { xs, map, image, line, planes });
    });
}

/// One row of input tiles, and the destination planes, one per position of a tile, each (tiles, in).
struct InputLine<'a> {
    xs: &'a [f32],
    map: &'a FeatureMap,
    image: usize,
    line: usize,
    planes: Vec<&'a mut [f32]>,
}

impl WithSimd for InputLine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { xs, map, image, line, mut planes } = self;
        for tile in 0..map.width.div_ceil(TILE) {
            let pixels = pixels_of_tile(xs, map, image, line, tile);
            for at in (0..map.channels).step_by(S::F32_LANES) {
                let transformed = transformed_input(simd, &pixels, at);
                for (planes, transformed) in planes.chunks_exact_mut(POINTS).zip(transformed) {
                    for (plane, y) in planes.iter_mut().zip(transformed) {
                        store(simd, &mut plane[tile * map.channels..][..map.channels], at, y);
                    }
                }
            }
        }
    }
}

/// Returns the 6x6 pixels that a tile reads; `None` in the padding.
#[inline(always)]
fn pixels_of_tile<'a>(
    xs: &'a [f32],
    map: &FeatureMap,
    image: usize,
    line: usize,
    tile: usize,
) -> Tile<Option<&'a [f32]>> {
    let mut pixels = [[None; POINTS]; POINTS];
    for (row, pixels) in pixels.iter_mut().enumerate() {
        for (column, pixel) in pixels.iter_mut().enumerate() {
            let (y, x) = (line * TILE + row, tile * TILE + column);
            *pixel = map.pixel(xs, image, y as isize - 1, x as isize - 1);
        }
    }
    pixels
}

/// Returns Bᵀ · pixels · B for the channels from `at` on.
#[inline(always)]
fn transformed_input<S: Simd>(simd: S, pixels: &Tile<Option<&[f32]>>, at: usize) -> Tile<S::f32s> {
    let mut tile = [[simd.splat_f32s(0.0); POINTS]; POINTS];
    for column in 0..POINTS {
        let mut inputs = [simd.splat_f32s(0.0); POINTS];
        for (input, pixels) in inputs.iter_mut().zip(pixels) {
            if let Some(pixel) = pixels[column] {
                *input = load(simd, pixel, at);
            }
        }
        for (tile, y) in tile.iter_mut().zip(input_1d(simd, inputs)) {
            tile[column] = y;
        }
    }
    for row in &mut tile {
        *row = input_1d(simd, *row);
    }
    tile
}

/// Transforms products (36, tiles, out) to the pixels of `strips`, tile rows from `first` on, and adds `finish`.
fn write_outputs(
    products: &[f32],
    map: &FeatureMap,
    first: usize,
    strips: &mut [&mut [f32]],
    finish: &Finish,
) -> Result<()> {
    let (lines, width) = (map.height.div_ceil(TILE), map.width);
    finish.with_slices(|bias, residual| {
        let part = width.div_ceil(TILE) * bias.len();
        strips.par_iter_mut().enumerate().for_each(|(index, strip)| {
            let planes: Vec<_> =
                products.chunks_exact(products.len() / PLACES).map(|plane| &plane[index * part..][..part]).collect();
            let (image, line) = ((first + index) / lines, (first + index) % lines);
            let start = (image * map.height + line * TILE) * width * bias.len();
            let residual = residual.get(start..start + strip.len());
            Arch::new().dispatch(OutputLine { planes, width, bias, residual, strip });
        });
        Ok(())
    })
}

/// One row of output tiles.
struct OutputLine<'a> {
    /// Each (tiles, out).
    planes: Vec<&'a [f32]>,
    width: usize,
    bias: &'a [f32],
    /// The residual, in the layout of the strip.
    residual: Option<&'a [f32]>,
    /// Up to four image rows (rows, width, out).
    strip: &'a mut [f32],
}

impl WithSimd for OutputLine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { planes, width, bias, residual, strip } = self;
        let channels = bias.len();
        let lines = strip.len() / (width * channels);
        for tile in 0..width.div_ceil(TILE) {
            for at in (0..channels).step_by(S::F32_LANES) {
                let bias = load(simd, bias, at);
                let outputs = output_tile(simd, &planes, tile * channels..(tile + 1) * channels, at);
                for (row, outputs) in outputs.into_iter().enumerate().take(lines) {
                    for (column, output) in outputs.into_iter().enumerate().take(width - tile * TILE) {
                        let start = (row * width + tile * TILE + column) * channels;
                        let pixel = start..start + channels;
                        let added = match residual {
                            Some(residual) => load(simd, &residual[pixel.clone()], at),
                            None => simd.splat_f32s(0.0),
                        };
                        let sum = simd.add_f32s(simd.add_f32s(output, bias), added);
                        store(simd, &mut strip[pixel], at, sum);
                    }
                }
            }
        }
    }
}

/// Returns Aᵀ · products · A: the 4x4 outputs of the tile at `place` in each plane, for the channels from `at` on.
#[inline(always)]
fn output_tile<S: Simd>(simd: S, planes: &[&[f32]], place: Range<usize>, at: usize) -> [[S::f32s; TILE]; TILE] {
    let mut half = [[simd.splat_f32s(0.0); POINTS]; TILE];
    for column in 0..POINTS {
        let mut products = [simd.splat_f32s(0.0); POINTS];
        for (product, planes) in products.iter_mut().zip(planes.chunks_exact(POINTS)) {
            *product = load(simd, &planes[column][place.clone()], at);
        }
        for (half, y) in half.iter_mut().zip(output_1d(simd, products)) {
            half[column] = y;
        }
    }
    let mut tile = [[simd.splat_f32s(0.0); TILE]; TILE];
    for (tile, half) in tile.iter_mut().zip(half) {
        *tile = output_1d(simd, half);
    }
    tile
}

// The following are functions and not closures: only code that is forced inline is compiled for the wider registers.

#[inline(always)]
fn times<S: Simd>(simd: S, factor: f32, xs: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), xs)
}

/// xs + factor · ys.
#[inline(always)]
fn add_times<S: Simd>(simd: S, xs: S::f32s, factor: f32, ys: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(factor), ys, xs)
}

/// a + b and a − b.
#[inline(always)]
fn sum_and_difference<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> [S::f32s; 2] {
    [simd.add_f32s(a, b), simd.sub_f32s(a, b)]
}

/// G: evaluates a kernel of three taps at the six points, each divided by the product of its distances to the others.
#[inline(always)]
fn kernel_1d<S: Simd>(simd: S, [g0, g1, g2]: [S::f32s; 3]) -> [S::f32s; POINTS] {
    const INNER: f32 = 1.0 / (2.0 * P * P * (P * P - Q * Q));
    const OUTER: f32 = 1.0 / (2.0 * Q * Q * (Q * Q - P * P));
    let (even_p, odd_p) = (add_times(simd, g0, P * P, g2), times(simd, P, g1));
    let (even_q, odd_q) = (add_times(simd, g0, Q * Q, g2), times(simd, Q, g1));
    let [plus_p, minus_p] = sum_and_difference(simd, times(simd, INNER, even_p), times(simd, INNER, odd_p));
    let [plus_q, minus_q] = sum_and_difference(simd, times(simd, OUTER, even_q), times(simd, OUTER, odd_q));
    [times(simd, 1.0 / (P * P * Q * Q), g0), plus_p, minus_p, plus_q, minus_q, g2]
}

/// Bᵀ: row i is the polynomial that vanishes at all points except the i-th.
#[inline(always)]
fn input_1d<S: Simd>(simd: S, [d0, d1, d2, d3, d4, d5]: [S::f32s; POINTS]) -> [S::f32s; POINTS] {
    const SUM: f32 = P * P + Q * Q;
    const PRODUCT: f32 = P * P * Q * Q;
    let first = add_times(simd, add_times(simd, d4, -SUM, d2), PRODUCT, d0);
    let last = add_times(simd, add_times(simd, d5, -SUM, d3), PRODUCT, d1);
    let (even_p, odd_p) = (add_times(simd, d4, -Q * Q, d2), times(simd, P, add_times(simd, d3, -Q * Q, d1)));
    let (even_q, odd_q) = (add_times(simd, d4, -P * P, d2), times(simd, Q, add_times(simd, d3, -P * P, d1)));
    let [plus_p, minus_p] = sum_and_difference(simd, even_p, odd_p);
    let [plus_q, minus_q] = sum_and_difference(simd, even_q, odd_q);
    [first, plus_p, minus_p, plus_q, minus_q, last]
}

/// Aᵀ: row k sums the products, each times the k-th power of its point.
#[inline(always)]
fn output_1d<S: Simd>(simd: S, [m0, m1, m2, m3, m4, m5]: [S::f32s; POINTS]) -> [S::f32s; TILE] {
    let [even_p, odd_p] = sum_and_difference(simd, m1, m2);
    let [even_q, odd_q] = sum_and_difference(simd, m3, m4);
    [
        simd.add_f32s(m0, simd.add_f32s(even_p, even_q)),
        add_times(simd, times(simd, P, odd_p), Q, odd_q),
        add_times(simd, times(simd, P * P, even_p), Q * Q, even_q),
        add_times(simd, add_times(simd, m5, P * P * P, odd_p), Q * Q * Q, odd_q),
    ]
}
