//! Resizing of 8-bit pictures, bit-identical to Pillow.
//!
//! The published networks were trained on pictures that Pillow resized, so its arithmetic is part of the model:
//! separable kernels whose support widens when shrinking, fixed-point coefficients with 22 fraction bits, rows before
//! columns, and rounding and clipping to 8 bits after each of the two passes (Pillow's `Resample.c`). Resamplers that
//! use floats or 15 bits differ by one level in places. Resamplers that process columns first differ by up to 60
//! levels on hard edges (`fast_image_resize` does so, and Pillow 13 where it is less work; Pillow 11 and earlier
//! always process rows first).

use image::RgbImage;
use rayon::prelude::*;

use crate::error::ImageError;

/// Fraction bits of a coefficient: of 32 bits, 8 are for the pixel and 2 for overshoot and sign.
const FRACTION_BITS: u32 = 22;

/// Bytes per pixel.
const CHANNELS: usize = 3;

/// Resampling kernels, under Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle of radius 1.
    Bilinear,
    /// Cubic with a = -0.5, radius 2.
    Bicubic,
    /// Windowed sinc with three lobes.
    Lanczos,
}

impl Filter {
    fn radius(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => -0.5 * (((distance - 5.0) * distance + 8.0) * distance - 4.0),
            // The interval is half open: at 3 the sinc is zero except for rounding.
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let angle = x * std::f64::consts::PI;
    angle.sin() / angle
}

/// A range of a resized side: pixels `first .. first + count` of `total`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) total: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Span {
    fn whole(total: u32) -> Self {
        Self { total, first: 0, count: total }
    }
}

/// Resizes the picture to `height` x `width`.
///
/// # Errors
///
/// [`ImageError::NoPixels`] if the picture or the target has no pixels.
pub fn resize(picture: &RgbImage, height: u32, width: u32, filter: Filter) -> Result<RgbImage, ImageError> {
    resize_part(picture, Span::whole(height), Span::whole(width), filter)
}

/// Returns the part `rows` x `columns` of the resized picture without computing the rest. Memory is bounded by the
/// part plus a strip of the part's width and the input's height.
pub(crate) fn resize_part(
    picture: &RgbImage,
    rows: Span,
    columns: Span,
    filter: Filter,
) -> Result<RgbImage, ImageError> {
    let (width, height) = picture.dimensions();
    for (width, height) in [(width, height), (columns.count, rows.count)] {
        if width == 0 || height == 0 {
            return Err(ImageError::NoPixels { width, height });
        }
    }
    let vertical = kernels(height, rows, filter);
    // Only the input rows that the second pass reads are resized in the first pass.
    let first_row = vertical.iter().map(|kernel| kernel.first).min().unwrap_or(0);
    let end_row = vertical.iter().map(|kernel| kernel.first + kernel.weights.len()).max().unwrap_or(0);
    let strip = resize_rows(picture, first_row..end_row, &kernels(width, columns, filter));
    let pixels = resize_columns(&strip, first_row, columns.count as usize * CHANNELS, &vertical);
    Ok(RgbImage::from_raw(columns.count, rows.count, pixels).expect("one row of the part's width for each kernel"))
}

/// The input pixels and coefficients of one output pixel.
struct Kernel {
    first: usize,
    weights: Vec<i32>,
}

/// Returns the kernels of the output pixels of `span`, for an input side of `size` pixels.
fn kernels(size: u32, span: Span, filter: Filter) -> Vec<Kernel> {
    let scale = f64::from(size) / f64::from(span.total);
    let stretch = scale.max(1.0);
    let radius = filter.radius() * stretch;
    let kernel = |index: u32| {
        let center = (f64::from(index) + 0.5) * scale;
        let first = (center - radius + 0.5).max(0.0) as usize;
        let end = ((center + radius + 0.5) as usize).min(size as usize);
        let weight = |position: usize| filter.weight((position as f64 - center + 0.5) * (1.0 / stretch));
        Kernel { first, weights: fixed_point(&(first..end).map(weight).collect::<Vec<_>>()) }
    };
    (span.first..span.first + span.count).map(kernel).collect()
}

/// Normalises the weights to sum 1 and converts them to fixed point, rounding halves away from zero.
fn fixed_point(weights: &[f64]) -> Vec<i32> {
    let sum: f64 = weights.iter().sum();
    let scale = f64::from(1 << FRACTION_BITS);
    let normalised = weights.iter().map(|weight| if sum == 0.0 { *weight } else { weight * (1.0 / sum) });
    normalised.map(|weight| (weight * scale + 0.5f64.copysign(weight)) as i32).collect()
}

/// First pass: resizes each of the given input rows to `kernels.len()` pixels.
fn resize_rows(picture: &RgbImage, rows: std::ops::Range<usize>, kernels: &[Kernel]) -> Vec<u8> {
    let input_stride = picture.width() as usize * CHANNELS;
    let input = &picture.as_raw()[rows.start * input_stride..rows.end * input_stride];
    let mut output = vec![0; rows.len() * kernels.len() * CHANNELS];
    let lines = output.par_chunks_mut(kernels.len() * CHANNELS).zip(input.par_chunks(input_stride));
    lines.for_each(|(output, input)| {
        for (pixel, kernel) in output.chunks_exact_mut(CHANNELS).zip(kernels) {
            pixel.copy_from_slice(&weighted_pixel(&input[kernel.first * CHANNELS..], &kernel.weights));
        }
    });
    output
}

fn weighted_pixel(input: &[u8], weights: &[i32]) -> [u8; CHANNELS] {
    let mut sums = [ROUNDING; CHANNELS];
    for (pixel, weight) in input.chunks_exact(CHANNELS).zip(weights) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += i32::from(*value) * weight;
        }
    }
    sums.map(to_byte)
}

/// Second pass: computes one output row per kernel. `strip` begins with input row `first_row`.
fn resize_columns(strip: &[u8], first_row: usize, stride: usize, kernels: &[Kernel]) -> Vec<u8> {
    let mut output = vec![0; kernels.len() * stride];
    output.par_chunks_mut(stride).zip(kernels).for_each(|(output, kernel)| {
        let mut sums = vec![ROUNDING; stride];
        let input = strip[(kernel.first - first_row) * stride..].chunks_exact(stride);
        for (row, weight) in input.zip(&kernel.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (byte, sum) in output.iter_mut().zip(sums) {
            *byte = to_byte(sum);
        }
    });
    output
}

/// One half in fixed point, added before the shift to round.
const ROUNDING: i32 = 1 << (FRACTION_BITS - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hard-edged noise, which is sensitive to the order of the passes and to the clipping between them.
    fn noise() -> RgbImage {
        let byte = |i: u32| match (i * i * 31 + i * 17 + i / 7 * 97) % 256 {
            0..100 => 0,
            value @ 100..=156 => value as u8,
            _ => 255,
        };
        RgbImage::from_raw(13, 9, (0..13 * 9 * 3).map(byte).collect()).unwrap()
    }

    fn resized(filter: Filter, width: u32, height: u32) -> Vec<u8> {
        resize(&noise(), height, width, filter).unwrap().into_raw()
    }

    /// Computed with Pillow 11.3.
    #[test]
    fn small_pictures_are_pillows() {
        let lanczos = [117, 134, 159, 101, 145, 113, 161, 131, 172, 111, 131, 104];
        assert_eq!(resized(Filter::Lanczos, 2, 2), lanczos);
        assert_eq!(resized(Filter::Lanczos, 3, 1), [146, 124, 182, 125, 147, 135, 99, 131, 103]);
        let bicubic = [117, 134, 161, 102, 143, 115, 161, 131, 171, 109, 132, 107];
        assert_eq!(resized(Filter::Bicubic, 2, 2), bicubic);
        let bilinear = [121, 133, 161, 103, 141, 117, 158, 129, 167, 110, 133, 113];
        assert_eq!(resized(Filter::Bilinear, 2, 2), bilinear);
    }

    /// Checksums of Pillow 11.3's output. They depend on every byte and its position.
    #[test]
    fn larger_pictures_are_pillows_to_the_last_bit() {
        let sizes = [(29, 5), (5, 31), (40, 40), (4, 3), (13, 20)];
        for (filter, expected) in [
            (Filter::Lanczos, [467_858, 359_471, 224_746, 57_508, 965_237]),
            (Filter::Bicubic, [497_089, 476_637, 132_608, 602_331, 397_491]),
            (Filter::Bilinear, [642_181, 942_940, 312_649, 75_306, 578_052]),
        ] {
            for ((width, height), expected) in sizes.into_iter().zip(expected) {
                let checksum = |sum: u64, byte: &u8| (sum * 31 + u64::from(*byte)) % 1_000_003;
                let sum = resized(filter, width, height).iter().fold(0, checksum);
                assert_eq!(sum, expected, "{filter:?} {width} x {height}");
            }
        }
    }

    #[test]
    fn the_same_size_gives_the_same_picture() {
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            assert_eq!(resize(&noise(), 9, 13, filter).unwrap(), noise(), "{filter:?}");
        }
    }
}
