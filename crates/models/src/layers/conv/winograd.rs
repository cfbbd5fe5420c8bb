//! 3x3 convolution by Winograd's minimal filtering F(4x4, 3x3).
//!
//! A tile of 4x4 outputs depends on 6x6 inputs. Read as polynomials evaluated at six points, its 144 multiplications
//! per pair of channels become 36: B transforms the input tile, G the kernel, the 36 places are multiplied as 36
//! matrix products over channels, and A turns the products into outputs (S. Winograd 1980; A. Lavin, S. Gray,
//! arXiv:1509.09308). The points here are 0, ±3/4, ±3/2 and infinity: constants stay exact in binary, and being close
//! to 1 they keep the rounding error near that of direct summation (measured: root mean square 8e-7 of the output
//! over 128 channels, direct 5e-7; the usual points 0, ±1, ±2 give 1.7e-6).
//!
//! Weights are transformed at each call: kept, they would take four times the memory of the weights themselves, and
//! the transform costs little beside the products wherever the map is large enough for this way to pay.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::channels_last::{FeatureMap, Finish, overwrite, parts_of_planes, with_values};

/// Outputs of a tile along one side.
const TILE: usize = 4;
/// Inputs that a tile reads along one side, and points of evaluation.
const POINTS: usize = 6;
/// Places of a transformed tile.
const PLACES: usize = POINTS * POINTS;
/// Channels worked on at a time: one AVX-512 register, two of AVX.
const LANES: usize = 16;
/// Transformed tiles held at a time, inputs and products together, in numbers (32 MiB).
const BAND: usize = 8 << 20;

/// The first pair of points is ±P, the second ±Q.
const P: f32 = 0.75;
const Q: f32 = 1.5;

type Lanes = [f32; LANES];

/// Whether this way is faster than [`super::im2col`]: only a map of many tiles repays transforming the weights.
pub(super) fn pays(map: &FeatureMap) -> bool {
    map.channels >= LANES && map.batch * map.height.div_ceil(TILE) * map.width.div_ceil(TILE) >= 32
}

/// Convolves `xs` (batch, height, width, in) with `weight` (9 · in, out), one zero line on every side; the result is
/// (batch, height, width, out).
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
        with_values(xs, |xs| overwrite(&scratch, |scratch| transform_inputs(xs, map, first, strips.len(), scratch)))?;
        let products = scratch.narrow(1, 0, strips.len() * columns)?.matmul(&weight)?; // (36, tiles, out)
        with_values(&products, |products| write_outputs(products, map, first, strips, finish))?;
    }
    Ok(ys)
}

/// (9 · in, out) to (36, in, out).
fn transformed_weight(weight: &Tensor) -> Result<Tensor> {
    let (rows, out_channels) = weight.dims2()?;
    let in_channels = rows / 9;
    let transformed = Tensor::zeros((PLACES, in_channels, out_channels), DType::F32, &Device::Cpu)?;
    with_values(weight, |weight| {
        overwrite(&transformed, |transformed| {
            let parts = parts_of_planes(transformed, in_channels * out_channels, out_channels);
            parts.into_par_iter().enumerate().with_min_len(8).for_each(|(channel, mut planes)| {
                let kernel: [&[f32]; 9] = std::array::from_fn(|place| {
                    let start = (place * in_channels + channel) * out_channels;
                    &weight[start..start + out_channels]
                });
                pulp::Arch::new().dispatch(|| transform_kernels(&kernel, &mut planes));
            });
        })
    })?;
    Ok(transformed)
}

/// The kernels of one input channel for all output channels: 3x3 rows to 6x6 rows, both (out).
#[inline(always)]
fn transform_kernels(kernel: &[&[f32]; 9], planes: &mut [&mut [f32]]) {
    for at in (0..kernel[0].len()).step_by(LANES) {
        let mut half = [[[0f32; LANES]; 3]; POINTS];
        for column in 0..3 {
            let ys = kernel_1d(std::array::from_fn(|row| load(Some(kernel[row * 3 + column]), at)));
            for point in 0..POINTS {
                half[point][column] = ys[point];
            }
        }
        for (row, half) in half.iter().enumerate() {
            for (column, y) in kernel_1d(*half).iter().enumerate() {
                store(planes[row * POINTS + column], at, y);
            }
        }
    }
}

/// Transforms the tiles of `count` tile lines from `first` on (lines of all images counted through) into
/// (36, tiles, in).
fn transform_inputs(xs: &[f32], map: &FeatureMap, first: usize, count: usize, scratch: &mut [f32]) {
    let lines = map.height.div_ceil(TILE);
    let part = map.width.div_ceil(TILE) * map.channels;
    let parts = parts_of_planes(scratch, scratch.len() / PLACES, part);
    parts.into_par_iter().take(count).enumerate().for_each(|(index, mut planes)| {
        let (image, line) = ((first + index) / lines, (first + index) % lines);
        pulp::Arch::new().dispatch(|| transform_input_line(xs, map, image, line, &mut planes));
    });
}

#[inline(always)]
fn transform_input_line(xs: &[f32], map: &FeatureMap, image: usize, line: usize, planes: &mut [&mut [f32]]) {
    for tile in 0..map.width.div_ceil(TILE) {
        let mut pixels = [[None; POINTS]; POINTS];
        for (row, pixels) in pixels.iter_mut().enumerate() {
            for (column, pixel) in pixels.iter_mut().enumerate() {
                let y = (line * TILE + row) as isize - 1;
                let x = (tile * TILE + column) as isize - 1;
                *pixel = map.pixel(xs, image, y, x);
            }
        }
        for at in (0..map.channels).step_by(LANES) {
            let mut half = [[[0f32; LANES]; POINTS]; POINTS];
            for column in 0..POINTS {
                let ys = input_1d(std::array::from_fn(|row| load(pixels[row][column], at)));
                for point in 0..POINTS {
                    half[point][column] = ys[point];
                }
            }
            let end = (at + LANES).min(map.channels);
            for (row, half) in half.iter().enumerate() {
                for (column, y) in input_1d(*half).iter().enumerate() {
                    let channels = &mut planes[row * POINTS + column][tile * map.channels..][..end];
                    store(channels, at, y);
                }
            }
        }
    }
}

/// Turns products (36, tiles, out) into the pixels of `strips`, tile lines from `first` on, and adds what `finish` says.
fn write_outputs(
    products: &[f32],
    map: &FeatureMap,
    first: usize,
    strips: &mut [&mut [f32]],
    finish: &Finish,
) -> Result<()> {
    let lines = map.height.div_ceil(TILE);
    finish.with_values(|bias, residual| {
        let plane = products.len() / PLACES;
        let part = map.width.div_ceil(TILE) * bias.len();
        strips.par_iter_mut().enumerate().for_each(|(index, strip)| {
            let planes: [&[f32]; PLACES] =
                std::array::from_fn(|place| &products[place * plane + index * part..][..part]);
            let (image, line) = ((first + index) / lines, (first + index) % lines);
            let start = (image * map.height + line * TILE) * map.width * bias.len();
            let residual = residual.get(start..start + strip.len());
            pulp::Arch::new().dispatch(|| write_output_line(&planes, map.width, bias, residual, strip));
        });
        Ok(())
    })
}

/// Writes a strip of up to four image lines (lines, width, out).
#[inline(always)]
fn write_output_line(
    planes: &[&[f32]; PLACES],
    width: usize,
    bias: &[f32],
    residual: Option<&[f32]>,
    strip: &mut [f32],
) {
    let channels = bias.len();
    let lines = strip.len() / (width * channels);
    for tile in 0..width.div_ceil(TILE) {
        for at in (0..channels).step_by(LANES) {
            let bias = load(Some(bias), at);
            let outputs = output_tile(planes, tile * channels, channels, at);
            for (row, outputs) in outputs.iter().enumerate().take(lines) {
                for (column, output) in outputs.iter().enumerate().take(width - tile * TILE) {
                    let start = (row * width + tile * TILE + column) * channels;
                    let added = load(residual.map(|residual| &residual[start..start + channels]), at);
                    let sum = std::array::from_fn(|lane| output[lane] + bias[lane] + added[lane]);
                    store(&mut strip[start..start + channels], at, &sum);
                }
            }
        }
    }
}

/// The 4x4 outputs of one tile for the channels from `at` on; `start` is the tile's place in each plane.
#[inline(always)]
fn output_tile(planes: &[&[f32]; PLACES], start: usize, channels: usize, at: usize) -> [[Lanes; TILE]; TILE] {
    let mut half = [[[0f32; LANES]; POINTS]; TILE];
    for column in 0..POINTS {
        let ys = output_1d(std::array::from_fn(|row| {
            load(Some(&planes[row * POINTS + column][start..start + channels]), at)
        }));
        for row in 0..TILE {
            half[row][column] = ys[row];
        }
    }
    half.map(output_1d)
}

/// G: a kernel of three taps evaluated at the six points, each divided by the product of its distances to the others.
#[inline(always)]
fn kernel_1d(g: [Lanes; 3]) -> [Lanes; POINTS] {
    const ZERO: f32 = 1.0 / (P * P * Q * Q);
    const INNER: f32 = 1.0 / (2.0 * P * P * (P * P - Q * Q));
    const OUTER: f32 = 1.0 / (2.0 * Q * Q * (Q * Q - P * P));
    let mut ys = [[0f32; LANES]; POINTS];
    for lane in 0..LANES {
        let (g0, g1, g2) = (g[0][lane], g[1][lane], g[2][lane]);
        let (even_p, odd_p) = (g0 + P * P * g2, P * g1);
        let (even_q, odd_q) = (g0 + Q * Q * g2, Q * g1);
        ys[0][lane] = g0 * ZERO;
        ys[1][lane] = (even_p + odd_p) * INNER;
        ys[2][lane] = (even_p - odd_p) * INNER;
        ys[3][lane] = (even_q + odd_q) * OUTER;
        ys[4][lane] = (even_q - odd_q) * OUTER;
        ys[5][lane] = g2;
    }
    ys
}

/// B transposed: row i is the polynomial that vanishes at all points but the i-th.
#[inline(always)]
fn input_1d(d: [Lanes; POINTS]) -> [Lanes; POINTS] {
    const SUM: f32 = P * P + Q * Q;
    const PRODUCT: f32 = P * P * Q * Q;
    let mut ys = [[0f32; LANES]; POINTS];
    for lane in 0..LANES {
        let [d0, d1, d2, d3, d4, d5] = std::array::from_fn(|i| d[i][lane]);
        let (even_p, odd_p) = (d4 - Q * Q * d2, P * (d3 - Q * Q * d1));
        let (even_q, odd_q) = (d4 - P * P * d2, Q * (d3 - P * P * d1));
        ys[0][lane] = PRODUCT * d0 - SUM * d2 + d4;
        ys[1][lane] = even_p + odd_p;
        ys[2][lane] = even_p - odd_p;
        ys[3][lane] = even_q + odd_q;
        ys[4][lane] = even_q - odd_q;
        ys[5][lane] = PRODUCT * d1 - SUM * d3 + d5;
    }
    ys
}

/// A transposed: row k sums the products, each times the k-th power of its point.
#[inline(always)]
fn output_1d(m: [Lanes; POINTS]) -> [Lanes; TILE] {
    let mut ys = [[0f32; LANES]; TILE];
    for lane in 0..LANES {
        let [m0, m1, m2, m3, m4, m5] = std::array::from_fn(|i| m[i][lane]);
        let (even_p, odd_p) = (m1 + m2, P * (m1 - m2));
        let (even_q, odd_q) = (m3 + m4, Q * (m3 - m4));
        ys[0][lane] = m0 + even_p + even_q;
        ys[1][lane] = odd_p + odd_q;
        ys[2][lane] = P * P * even_p + Q * Q * even_q;
        ys[3][lane] = P * P * odd_p + Q * Q * odd_q + m5;
    }
    ys
}

/// The channels from `at` on; zeros past the end and for padding.
#[inline(always)]
fn load(channels: Option<&[f32]>, at: usize) -> Lanes {
    let Some(channels) = channels else { return [0.0; LANES] };
    let rest = &channels[at..];
    if let Some(lanes) = rest.first_chunk() {
        return *lanes;
    }
    std::array::from_fn(|lane| rest.get(lane).copied().unwrap_or(0.0))
}

/// Writes the channels from `at` on, as many as there are.
#[inline(always)]
fn store(channels: &mut [f32], at: usize, lanes: &Lanes) {
    let rest = &mut channels[at..];
    if let Some(first) = rest.first_chunk_mut() {
        *first = *lanes;
    } else {
        rest.copy_from_slice(&lanes[..rest.len()]);
    }
}
