//! Convolution as a matrix product (im2col): the input patch of every output pixel is one row of a matrix.
//!
//! Patches are gathered for a band of output rows at a time. A 1x1 convolution needs no gathering: the map is the
//! matrix.

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    Geometry,
    channels_last::{FeatureMap, Finish},
};
use crate::layers::kernels::{in_place, with_slice};

/// Maximum number of patch values in memory at a time (16 MiB).
const BAND: usize = 4 << 20;

/// Convolves `xs` (batch, height, width, in) with `weight` (kernel · kernel · in, out). The result is (batch, rows,
/// columns, out) with (rows, columns) = `size`.
pub(super) fn conv(
    xs: &Tensor,
    map: &FeatureMap,
    weight: &Tensor,
    geometry: Geometry,
    size: (usize, usize),
    finish: &Finish,
) -> Result<Vec<f32>> {
    let (rows, columns) = size;
    let (patch, out_channels) = weight.dims2()?;
    let lines = map.batch * rows;
    let band = (BAND / (columns * patch).max(1)).clamp(1, lines.max(1));
    let patches = Patches::new(xs, map, geometry, size, band * columns)?;
    let mut ys = vec![0f32; lines * columns * out_channels];
    finish.with_slices(|bias, residual| {
        for (index, ys) in ys.chunks_mut(band * columns * out_channels).enumerate() {
            let first = index * band;
            let products = patches.of_lines(first, ys.len() / (columns * out_channels))?.matmul(weight)?;
            let start = first * columns * out_channels;
            let residual = residual.get(start..start + ys.len()).unwrap_or(&[]);
            with_slice(&products, |products| {
                add_all(ys, products, bias, residual);
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Ok(ys)
}

/// The source of a band's patch matrix.
enum Patches<'a> {
    /// The map itself, (pixels, in), for 1x1 convolutions.
    Map { pixels: Tensor, columns: usize },
    /// Gathered into scratch memory (pixels of a band, patch).
    Gathered { xs: &'a Tensor, map: &'a FeatureMap, geometry: Geometry, size: (usize, usize), scratch: Tensor },
}

impl<'a> Patches<'a> {
    fn new(xs: &'a Tensor, map: &'a FeatureMap, geometry: Geometry, size: (usize, usize), band: usize) -> Result<Self> {
        let is_map = geometry == Geometry::POINTWISE && xs.elem_count() == map.batch * size.0 * size.1 * map.channels;
        if is_map {
            return Ok(Self::Map { pixels: xs.reshape(((), map.channels))?, columns: size.1 });
        }
        let patch = geometry.kernel * geometry.kernel * map.channels;
        let scratch = Tensor::zeros((band, patch), DType::F32, &Device::Cpu)?;
        Ok(Self::Gathered { xs, map, geometry, size, scratch })
    }

    /// Returns the patches (pixels, patch) of `count` output rows from `first` on; rows are numbered across all
    /// images.
    fn of_lines(&self, first: usize, count: usize) -> Result<Tensor> {
        match self {
            Self::Map { pixels, columns } => pixels.narrow(0, first * columns, count * columns),
            Self::Gathered { xs, map, geometry, size, scratch } => {
                with_slice(xs, |values| {
                    in_place(scratch, |scratch| gather(values, map, *geometry, *size, first, scratch))
                })?;
                scratch.narrow(0, 0, count * size.1)
            }
        }
    }
}

/// Writes the patches of the output rows from `first` on, as many as fit into `scratch`.
fn gather(
    values: &[f32],
    map: &FeatureMap,
    geometry: Geometry,
    size: (usize, usize),
    first: usize,
    scratch: &mut [f32],
) {
    let (rows, columns) = size;
    let Geometry { kernel, stride, before, .. } = geometry;
    let patch = kernel * kernel * map.channels;
    scratch.par_chunks_mut(patch).enumerate().with_min_len(16).for_each(|(index, patch)| {
        let (line, column) = (first + index / columns, index % columns);
        let (image, row) = (line / rows, line % rows);
        for (place, channels) in patch.chunks_exact_mut(map.channels).enumerate() {
            let y = (row * stride + place / kernel) as isize - before as isize;
            let x = (column * stride + place % kernel) as isize - before as isize;
            match map.pixel(values, image, y, x).filter(|_| image < map.batch) {
                Some(pixel) => channels.copy_from_slice(pixel),
                None => channels.fill(0.0),
            }
        }
    });
}

/// ys = products + bias + residual; an empty residual is omitted.
fn add_all(ys: &mut [f32], products: &[f32], bias: &[f32], residual: &[f32]) {
    let chunk = bias.len() * 256;
    ys.par_chunks_mut(chunk).enumerate().for_each(|(index, ys)| {
        let start = index * chunk;
        let products = &products[start..start + ys.len()];
        let residual = residual.get(start..start + ys.len());
        for (pixel, (ys, products)) in ys.chunks_mut(bias.len()).zip(products.chunks(bias.len())).enumerate() {
            match residual {
                Some(residual) => {
                    let residual = &residual[pixel * bias.len()..];
                    for (((y, p), b), r) in ys.iter_mut().zip(products).zip(bias).zip(residual) {
                        *y = p + b + r;
                    }
                }
                None => {
                    for ((y, p), b) in ys.iter_mut().zip(products).zip(bias) {
                        *y = p + b;
                    }
                }
            }
        }
    });
}
