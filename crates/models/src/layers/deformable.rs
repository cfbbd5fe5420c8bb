//! Multi-scale deformable attention: every query samples a few learned points on maps of several resolutions.
//!
//! Zhu et al., "Deformable DETR" (2021). A sampling point interpolates its four neighbouring cells bilinearly, with
//! zeros outside the map. The points of a head are first converted to a list of cells and weights; then the head's
//! channels are summed in registers. On other devices the tensors are copied to the CPU, which is correct but slow.

use candle_core::{DType, Device, Result, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    kernel_choice::has_own_kernels,
    kernels::{exp, for_each_row, in_place, with_slice},
    simd::{load, store},
};

/// Number of queries per parallel task.
const BLOCK: usize = 32;

/// The queries' reference points, relative to the map, for every level.
#[derive(Clone, Debug)]
pub enum References {
    /// (queries, levels, 2): x, y. Offsets are in cells.
    Points(Vec<f32>),
    /// (queries, levels, 4): centre x, centre y, width, height. Offsets are in half box sizes, divided by the number
    /// of points.
    Boxes(Vec<f32>),
}

impl References {
    fn numbers(&self) -> (&[f32], usize) {
        match self {
            Self::Points(numbers) => (numbers, 2),
            Self::Boxes(numbers) => (numbers, 4),
        }
    }
}

/// The parameters that all queries share.
#[derive(Clone, Copy, Debug)]
pub struct Sampling<'a> {
    /// Height and width of each level's map; the cells of the levels are concatenated.
    pub levels: &'a [(usize, usize)],
    /// Number of heads; each has an equal part of a cell's channels.
    pub heads: usize,
    /// Number of sampling points per head and level.
    pub points: usize,
}

impl Sampling<'_> {
    fn cells(&self) -> usize {
        self.levels.iter().map(|(height, width)| height * width).sum()
    }

    /// Returns the number of sampling points of a head on all levels.
    fn taps(&self) -> usize {
        self.levels.len() * self.points
    }

    /// Returns the number of projection outputs per query: two offsets and one weight per sampling point.
    pub fn choices(&self) -> usize {
        self.heads * self.taps() * 3
    }
}

/// Returns values + bias, computed in place, with zeros for cells where `keep` is false. `values` is (cells,
/// channels); no other tensor may share its storage.
pub fn masked_values(values: Tensor, bias: Option<&Tensor>, keep: Option<&[bool]>) -> Result<Tensor> {
    let values = super::bias::add_bias(values, bias)?;
    let Some(keep) = keep else { return Ok(values) };
    let (cells, channels) = values.dims2()?;
    if keep.len() != cells {
        bail!("a mask of {} cells does not fit {cells}", keep.len());
    }
    if !has_own_kernels(&values) {
        let keep: Vec<f32> = keep.iter().map(|keep| f32::from(u8::from(*keep))).collect();
        let keep = Tensor::from_vec(keep, (cells, 1), values.device())?.to_dtype(values.dtype())?;
        return values.broadcast_mul(&keep);
    }
    in_place(&values, |data| {
        for_each_row(data, channels, |cell, row| {
            if !keep[cell] {
                row.fill(0.0);
            }
        });
    })?;
    Ok(values)
}

/// Returns the weighted sums of values at every query's sampling points, (queries, channels). `values` is (cells,
/// channels). `choices` is (queries, [`Sampling::choices`]): first the offsets (heads, levels, points, 2), then the
/// logits of the weights (heads, levels · points).
pub fn deformable_attention(
    values: &Tensor,
    choices: &Tensor,
    references: &References,
    sampling: Sampling<'_>,
) -> Result<Tensor> {
    let ((cells, channels), (queries, width)) = (values.dims2()?, choices.dims2()?);
    let (numbers, per_level) = references.numbers();
    if cells != sampling.cells() || width != sampling.choices() || !channels.is_multiple_of(sampling.heads.max(1)) {
        bail!("{cells} cells of {channels} channels and {width} choices do not fit {sampling:?}");
    }
    if numbers.len() != queries * sampling.levels.len() * per_level {
        bail!("{} numbers are no references of {queries} queries for {sampling:?}", numbers.len());
    }
    let on_cpu = |xs: &Tensor| xs.to_device(&Device::Cpu)?.to_dtype(DType::F32);
    let (on_cpu_values, on_cpu_choices) = (on_cpu(values)?, on_cpu(choices)?);
    let mut out = vec![0f32; queries * channels];
    with_slice(&on_cpu_values, |values| {
        with_slice(&on_cpu_choices, |choices| {
            out.par_chunks_mut((BLOCK * channels).max(1)).enumerate().for_each(|(block, out)| {
                let first = block * BLOCK;
                Arch::new().dispatch(Block { values, choices, references, sampling, channels, first, out });
            });
            Ok(())
        })
    })?;
    Tensor::from_vec(out, (queries, channels), &Device::Cpu)?.to_device(values.device())?.to_dtype(values.dtype())
}

/// A cell and its weight.
#[derive(Clone, Copy)]
struct Tap {
    cell: usize,
    weight: f32,
}

/// A range of consecutive queries.
struct Block<'a> {
    values: &'a [f32],
    choices: &'a [f32],
    references: &'a References,
    sampling: Sampling<'a>,
    channels: usize,
    first: usize,
    out: &'a mut [f32],
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let head_dim = self.channels / self.sampling.heads;
        let mut taps = Vec::with_capacity(4 * self.sampling.taps());
        let mut weights = vec![0f32; self.sampling.taps()];
        for (index, out) in self.out.chunks_exact_mut(self.channels).enumerate() {
            let query = self.first + index;
            let choices = &self.choices[query * self.sampling.choices()..][..self.sampling.choices()];
            for head in 0..self.sampling.heads {
                taps.clear();
                find_taps(self.sampling, self.references, choices, (query, head), &mut weights, &mut taps);
                let out = &mut out[head * head_dim..][..head_dim];
                for at in (0..head_dim).step_by(2 * S::F32_LANES) {
                    let (mut left, mut right) = (simd.splat_f32s(0.0), simd.splat_f32s(0.0));
                    for tap in &taps {
                        let from = &self.values[tap.cell * self.channels + head * head_dim..][..head_dim];
                        let weight = simd.splat_f32s(tap.weight);
                        left = simd.mul_add_e_f32s(weight, load(simd, from, at), left);
                        right = simd.mul_add_e_f32s(weight, load(simd, from, at + S::F32_LANES), right);
                    }
                    store(simd, out, at, left);
                    store(simd, out, at + S::F32_LANES, right);
                }
            }
        }
    }
}

/// Converts one head's offsets and logits to cells and weights.
#[inline(always)]
fn find_taps(
    sampling: Sampling<'_>,
    references: &References,
    choices: &[f32],
    (query, head): (usize, usize),
    weights: &mut [f32],
    taps: &mut Vec<Tap>,
) {
    let count = sampling.taps();
    let (offsets, logits) = choices.split_at(sampling.heads * count * 2);
    let offsets = &offsets[head * count * 2..][..count * 2];
    softmax(&logits[head * count..][..count], weights);
    let (numbers, per_level) = references.numbers();
    let numbers = &numbers[query * sampling.levels.len() * per_level..];
    let mut start = 0;
    for (level, (height, width)) in sampling.levels.iter().enumerate() {
        let reference = &numbers[level * per_level..][..per_level];
        for point in level * sampling.points..(level + 1) * sampling.points {
            let (dx, dy) = (offsets[2 * point], offsets[2 * point + 1]);
            let (x, y) = match references {
                References::Points(_) => (reference[0] + dx / *width as f32, reference[1] + dy / *height as f32),
                References::Boxes(_) => {
                    let half = 0.5 / sampling.points as f32;
                    (reference[0] + dx * reference[2] * half, reference[1] + dy * reference[3] * half)
                }
            };
            let place = (x * *width as f32 - 0.5, y * *height as f32 - 0.5);
            four_cells(place, (*height, *width), start, weights[point], taps);
        }
        start += height * width;
    }
}

/// Returns the four cells around a point with their bilinear weights, without cells outside the map.
#[inline(always)]
fn four_cells((x, y): (f32, f32), (height, width): (usize, usize), start: usize, weight: f32, taps: &mut Vec<Tap>) {
    // Also false where an offset is NaN.
    let near = x > -1.0 && y > -1.0 && x < width as f32 && y < height as f32;
    if !near {
        return;
    }
    let (left, top) = (x.floor(), y.floor());
    let (right_share, lower_share) = (x - left, y - top);
    let (left, top) = (left as isize, top as isize);
    for (row, row_share) in [(top, 1.0 - lower_share), (top + 1, lower_share)] {
        for (column, share) in [(left, 1.0 - right_share), (left + 1, right_share)] {
            if (0..height as isize).contains(&row) && (0..width as isize).contains(&column) {
                let cell = start + row as usize * width + column as usize;
                taps.push(Tap { cell, weight: weight * row_share * share });
            }
        }
    }
}

#[inline(always)]
fn softmax(logits: &[f32], weights: &mut [f32]) {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, x| max.max(*x));
    weights.iter_mut().zip(logits).for_each(|(w, x)| *w = exp(x - max));
    let inverse = 1.0 / weights.iter().sum::<f32>();
    weights.iter_mut().for_each(|w| *w *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::{Kernels, with_kernels};

    #[test]
    fn masked_cells_are_zero_on_either_way() {
        let keep = [true, false, true];
        for (kernels, dtype) in
            [(Kernels::Own, DType::F32), (Kernels::Generic, DType::F32), (Kernels::Own, DType::BF16)]
        {
            let values = Tensor::arange(1f32, 7.0, &Device::Cpu).unwrap().reshape((3, 2)).unwrap();
            let values = values.to_dtype(dtype).unwrap();
            let masked = with_kernels(kernels, || masked_values(values, None, Some(&keep))).unwrap();
            assert_eq!(masked.dtype(), dtype);
            let masked = masked.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(masked, [[1.0, 2.0], [0.0, 0.0], [5.0, 6.0]], "{kernels:?}");
        }
    }

    const LEVELS: [(usize, usize); 2] = [(2, 3), (1, 2)];

    /// Samples one head of one channel; cell n has the value 10^n, so the sum identifies the cells.
    fn sample(points: Vec<f32>, offsets: [f32; 4], logits: [f32; 2]) -> f32 {
        let values: Vec<f32> = (0..8).map(|n| 10f32.powi(n)).collect();
        let values = Tensor::from_vec(values, (8, 1), &Device::Cpu).unwrap();
        let choices = [offsets.as_slice(), logits.as_slice()].concat();
        let choices = Tensor::from_vec(choices, (1, 6), &Device::Cpu).unwrap();
        let sampling = Sampling { levels: &LEVELS, heads: 1, points: 1 };
        let references = if points.len() == 4 { References::Points(points) } else { References::Boxes(points) };
        let out = deformable_attention(&values, &choices, &references, sampling).unwrap();
        out.to_vec2::<f32>().unwrap()[0][0]
    }

    #[test]
    fn a_point_in_a_cells_middle_is_that_cell() {
        // Cell (1, 2) of the first map has number 5, cell (0, 0) of the second number 6.
        let middle = vec![2.5 / 3.0, 0.75, 0.25, 0.5];
        assert!((sample(middle.clone(), [0.0; 4], [0.0, 0.0]) - 550_000.0).abs() < 1.0);
        assert!((sample(middle.clone(), [0.0; 4], [40.0, 0.0]) - 100_000.0).abs() < 1.0);
        // One cell to the left and up; and beyond the edge, where values are zero.
        assert!((sample(middle.clone(), [-1.0, -1.0, 0.0, 0.0], [40.0, 0.0]) - 10.0).abs() < 0.01);
        assert!(sample(middle, [2.0, 0.0, 0.0, 0.0], [40.0, 0.0]).abs() < 0.01);
    }

    #[test]
    fn a_point_between_cells_takes_of_both_and_zero_outside() {
        let between = vec![1.0 / 3.0, 0.25, 0.25, 0.5];
        assert!((sample(between, [0.0; 4], [40.0, 0.0]) - 5.5).abs() < 1e-3);
        let on_the_edge = vec![0.0, 0.25, 0.25, 0.5];
        assert!((sample(on_the_edge, [0.0; 4], [40.0, 0.0]) - 0.5).abs() < 1e-3);
        assert_eq!(sample(vec![f32::NAN; 4], [0.0; 4], [40.0, 0.0]), 0.0);
    }

    #[test]
    fn offsets_of_boxes_are_in_halves_of_the_box() {
        // From the centre of cell (0, 1), half a box of two thirds (one cell) to the right.
        let boxes = vec![0.5, 0.25, 2.0 / 3.0, 1.0, 0.25, 0.5, 1.0, 1.0];
        assert!((sample(boxes, [1.0, 0.0, 0.0, 0.0], [40.0, 0.0]) - 100.0).abs() < 0.01);
    }

    #[test]
    fn cells_that_are_not_kept_are_zero() {
        let values = Tensor::ones((3, 2), DType::F32, &Device::Cpu).unwrap();
        let bias = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let masked = masked_values(values, Some(&bias), Some(&[true, false, true])).unwrap();
        assert_eq!(masked.to_vec2::<f32>().unwrap(), [[2.0, 3.0], [0.0, 0.0], [2.0, 3.0]]);
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let sampling = Sampling { levels: &LEVELS, heads: 1, points: 1 };
        let good = References::Points(vec![0.5; 4]);
        assert!(deformable_attention(&zeros((8, 1)), &zeros((1, 6)), &good, sampling).is_ok());
        assert!(deformable_attention(&zeros((7, 1)), &zeros((1, 6)), &good, sampling).is_err());
        assert!(deformable_attention(&zeros((8, 1)), &zeros((1, 5)), &good, sampling).is_err());
        let few = References::Points(vec![0.5; 3]);
        assert!(deformable_attention(&zeros((8, 1)), &zeros((1, 6)), &few, sampling).is_err());
    }
}
