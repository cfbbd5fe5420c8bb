//! Window attention of the Swin transformer: shifted windows, and a learned relative position bias.
//!
//! On the CPU one task computes one window head by head, so only one head's scores are in memory. Padding cells in
//! windows at the map's edge take part with the projection of a zero vector, as in the reference. On other devices the
//! tensors are copied to the CPU, which is correct but slow.

use candle_core::{DType, Device, Result, Tensor, bail};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    kernels::{exp, for_each_row, lane_max, lane_sum, with_slice},
    simd::{COLUMNS, ROWS, small_product},
};

/// Mask value between cells of different regions; the reference uses this finite value.
const OTHER_REGION: f32 = -100.0;

/// Bias of the columns that pad a row to whole vectors; their softmax weight is 0.
const NO_CELL: f32 = -1e30;

/// How a batch of maps is partitioned into windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowGrid {
    /// Number of maps.
    pub batch: usize,
    /// Rows of a map.
    pub height: usize,
    /// Columns of a map.
    pub width: usize,
    /// Number of rows and of columns of a window.
    pub side: usize,
    /// Number of cells by which the map is shifted cyclically up and to the left before partitioning.
    pub shift: usize,
}

impl WindowGrid {
    fn area(&self) -> usize {
        self.side * self.side
    }

    /// Returns the numbers of window rows and window columns of a map.
    fn windows(&self) -> (usize, usize) {
        (self.height.div_ceil(self.side), self.width.div_ceil(self.side))
    }

    /// Returns the window of a cell, and the cell's position in the window.
    fn place(&self, row: usize, column: usize) -> (usize, usize) {
        let (rows, columns) = self.windows();
        let rolled = |at: usize, windows: usize| {
            let padded = windows * self.side;
            (at + padded - self.shift % padded) % padded
        };
        let (row, column) = (rolled(row, rows), rolled(column, columns));
        let window = row / self.side * columns + column / self.side;
        (window, row % self.side * self.side + column % self.side)
    }

    /// Returns the cells of a window, row-major: position in the map (`None` for padding) and region.
    fn cells(&self, window: usize) -> Vec<Cell> {
        let (rows, columns) = self.windows();
        let (padded_height, padded_width) = (rows * self.side, columns * self.side);
        let (top, left) = (window / columns * self.side, window % columns * self.side);
        let region = |at: usize, size: usize| match self.shift {
            0 => 0,
            shift => u8::from(at + self.side >= size) + u8::from(at + shift >= size),
        };
        let cell = |place: usize| {
            let (y, x) = (top + place / self.side, left + place % self.side);
            let (row, column) = ((y + self.shift) % padded_height, (x + self.shift) % padded_width);
            let inside = row < self.height && column < self.width;
            Cell {
                index: inside.then_some(row * self.width + column),
                region: region(y, padded_height) * 3 + region(x, padded_width),
            }
        };
        (0..self.area()).map(cell).collect()
    }
}

/// One cell of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    index: Option<usize>,
    region: u8,
}

/// The relative position bias of each head for each pair of cells of a window.
#[derive(Clone, Debug)]
pub struct OffsetBias {
    heads: usize,
    side: usize,
    /// Columns of a row, including padding to whole vectors.
    columns: usize,
    /// (heads, area, columns)
    values: Vec<f32>,
}

impl OffsetBias {
    /// Creates the bias from the checkpoint's table ((2 · side - 1)², heads), whose rows are relative positions of two
    /// cells.
    pub fn new(table: &Tensor, side: usize) -> Result<Self> {
        let (offsets, heads) = table.dims2()?;
        let span = 2 * side - 1;
        if side == 0 || offsets != span * span {
            bail!("a table of {offsets} offsets does not fit windows of {side} x {side}");
        }
        let area = side * side;
        let columns = area.next_multiple_of(COLUMNS);
        let mut values = vec![NO_CELL; heads * area * columns];
        let table = table.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        with_slice(&table, |table| {
            for (row, values) in values.chunks_exact_mut(columns).enumerate() {
                let (head, query) = (row / area, row % area);
                for (key, value) in values.iter_mut().enumerate().take(area) {
                    let down = query / side + side - 1 - key / side;
                    let right = query % side + side - 1 - key % side;
                    *value = table[(down * span + right) * heads + head];
                }
            }
            Ok(())
        })?;
        Ok(Self { heads, side, columns, values })
    }

    fn of_head(&self, head: usize) -> impl Iterator<Item = &[f32]> {
        let area = self.side * self.side;
        self.values[head * area * self.columns..].chunks_exact(self.columns).take(area)
    }
}

/// Self-attention within every window. `qkv` (batch · height · width, 3 · channels) holds queries, keys and values
/// without their bias (3 · channels). Returns (batch · height · width, channels).
pub fn window_attention(qkv: &Tensor, bias: Option<&Tensor>, offsets: &OffsetBias, grid: WindowGrid) -> Result<Tensor> {
    let (cells, width) = qkv.dims2()?;
    let channels = width / 3;
    if width % 3 != 0 || channels == 0 || !channels.is_multiple_of(offsets.heads) || grid.side != offsets.side {
        bail!("{width} channels do not split into three times {} heads, or the windows differ", offsets.heads);
    }
    if cells != grid.batch * grid.height * grid.width || cells == 0 {
        bail!("{cells} cells are not {} maps of {} x {}", grid.batch, grid.height, grid.width);
    }
    let on_cpu = |xs: &Tensor| xs.to_device(&Device::Cpu)?.to_dtype(DType::F32);
    let bias = match bias {
        Some(bias) => with_slice(&on_cpu(bias)?, |bias| Ok(bias.to_vec()))?,
        None => vec![0.0; width],
    };
    if bias.len() != width {
        bail!("a bias of {} numbers does not fit {width} channels", bias.len());
    }
    let out = with_slice(&on_cpu(qkv)?, |qkv| {
        let by_window = all_windows(&Job { qkv, bias: &bias, offsets, grid, channels });
        Ok(back_to_maps(&by_window, grid, channels))
    })?;
    Tensor::from_vec(out, (cells, channels), &Device::Cpu)?.to_device(qkv.device())?.to_dtype(qkv.dtype())
}

/// The inputs that all windows share.
struct Job<'a> {
    qkv: &'a [f32],
    bias: &'a [f32],
    offsets: &'a OffsetBias,
    grid: WindowGrid,
    channels: usize,
}

/// (batch · windows, area, channels)
fn all_windows(job: &Job<'_>) -> Vec<f32> {
    let grid = job.grid;
    let (rows, columns) = grid.windows();
    let windows = rows * columns;
    let mut out = vec![0f32; grid.batch * windows * grid.area() * job.channels];
    let chunks = out.par_chunks_mut(grid.area() * job.channels).enumerate();
    chunks.for_each_init(
        || Scratch::new(job),
        |scratch, (index, out)| {
            let (image, window) = (index / windows, index % windows);
            Arch::new().dispatch(Window { job, image, cells: grid.cells(window), scratch, out });
        },
    );
    out
}

/// Reorders cells from window order to map order and drops padding cells.
fn back_to_maps(by_window: &[f32], grid: WindowGrid, channels: usize) -> Vec<f32> {
    let (rows, columns) = grid.windows();
    let size = grid.height * grid.width;
    let mut out = vec![0f32; grid.batch * size * channels];
    for_each_row(&mut out, channels, |index, out| {
        let (image, cell) = (index / size, index % size);
        let (window, place) = grid.place(cell / grid.width, cell % grid.width);
        let from = ((image * rows * columns + window) * grid.area() + place) * channels;
        out.copy_from_slice(&by_window[from..from + channels]);
    });
    out
}

/// Per-thread scratch memory, reused for each head.
struct Scratch {
    queries: Vec<f32>, // (rows, head_dim)
    keys: Vec<f32>,    // (head_dim, columns)
    values: Vec<f32>,  // (area, lanes)
    scores: Vec<f32>,  // (rows, columns)
    mixed: Vec<f32>,   // (rows, lanes)
    mask: Vec<f32>,    // (area, columns), empty where all cells are of one region
}

impl Scratch {
    fn new(job: &Job<'_>) -> Self {
        let (area, columns) = (job.grid.area(), job.offsets.columns);
        let rows = area.next_multiple_of(ROWS);
        let head_dim = job.channels / job.offsets.heads;
        let lanes = head_dim.next_multiple_of(COLUMNS);
        Self {
            queries: vec![0.0; rows * head_dim],
            keys: vec![0.0; head_dim * columns],
            values: vec![0.0; area * lanes],
            scores: vec![0.0; rows * columns],
            mixed: vec![0.0; rows * lanes],
            mask: Vec::new(),
        }
    }

    fn set_mask(&mut self, cells: &[Cell], columns: usize) {
        self.mask.clear();
        if cells.iter().all(|cell| cell.region == cells[0].region) {
            return;
        }
        self.mask.resize(cells.len() * columns, 0.0);
        for (row, query) in self.mask.chunks_exact_mut(columns).zip(cells) {
            for (value, key) in row.iter_mut().zip(cells) {
                *value = if key.region == query.region { 0.0 } else { OTHER_REGION };
            }
        }
    }
}

/// One window of one map.
struct Window<'a> {
    job: &'a Job<'a>,
    image: usize,
    cells: Vec<Cell>,
    scratch: &'a mut Scratch,
    out: &'a mut [f32], // (area, channels)
}

impl WithSimd for Window<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let columns = self.job.offsets.columns;
        let head_dim = self.job.channels / self.job.offsets.heads;
        let lanes = head_dim.next_multiple_of(COLUMNS);
        self.scratch.set_mask(&self.cells, columns);
        for head in 0..self.job.offsets.heads {
            self.gather(head, head_dim);
            let Scratch { queries, keys, values, scores, mixed, mask } = &mut *self.scratch;
            small_product(simd, (queries, head_dim, head_dim), keys, columns, scores);
            let rows = scores.chunks_exact_mut(columns).zip(self.job.offsets.of_head(head));
            for (index, (row, bias)) in rows.enumerate() {
                let mask = mask.get(index * columns..(index + 1) * columns).unwrap_or_default();
                softmax(row, bias, mask);
            }
            small_product(simd, (scores, columns, self.cells.len()), values, lanes, mixed);
            let out = self.out.chunks_exact_mut(self.job.channels);
            for (out, mixed) in out.zip(mixed.chunks_exact(lanes)) {
                out[head * head_dim..][..head_dim].copy_from_slice(&mixed[..head_dim]);
            }
        }
    }
}

impl Window<'_> {
    /// Copies the head's scaled queries, transposed keys and values to the scratch memory.
    #[inline(always)]
    fn gather(&mut self, head: usize, head_dim: usize) {
        let Job { qkv, bias, grid, channels, offsets } = self.job;
        let Scratch { queries, keys, values, .. } = &mut *self.scratch;
        let (columns, lanes) = (offsets.columns, head_dim.next_multiple_of(COLUMNS));
        let scale = 1.0 / (head_dim as f32).sqrt();
        let part = |kind: usize| kind * channels + head * head_dim..kind * channels + (head + 1) * head_dim;
        let start = self.image * grid.height * grid.width;
        let zeros = [0f32; 0];
        for (place, cell) in self.cells.iter().enumerate() {
            let row = cell.index.map_or(&zeros[..], |index| &qkv[(start + index) * 3 * channels..][..3 * channels]);
            let of = |kind: usize| (row.get(part(kind)).unwrap_or_default(), &bias[part(kind)]);
            let (xs, b) = of(0);
            let query = &mut queries[place * head_dim..][..head_dim];
            query.copy_from_slice(b);
            query.iter_mut().zip(xs).for_each(|(q, x)| *q += x);
            query.iter_mut().for_each(|q| *q *= scale);
            let (xs, b) = of(1);
            let turned = keys[place..].iter_mut().step_by(columns);
            match xs.is_empty() {
                true => turned.zip(b).for_each(|(k, b)| *k = *b),
                false => turned.zip(b).zip(xs).for_each(|((k, b), x)| *k = b + x),
            }
            let (xs, b) = of(2);
            let value = &mut values[place * lanes..][..head_dim];
            value.copy_from_slice(b);
            value.iter_mut().zip(xs).for_each(|(v, x)| *v += x);
        }
    }
}

/// softmax(row + bias + mask) in place. An empty mask means no mask.
#[inline(always)]
fn softmax(row: &mut [f32], bias: &[f32], mask: &[f32]) {
    row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    row.iter_mut().zip(mask).for_each(|(x, m)| *x += m);
    let max = lane_max(row);
    row.iter_mut().for_each(|x| *x = exp(*x - max));
    let sum = lane_sum(
        row,
        #[inline(always)]
        |x| x,
    );
    let inverse = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(shape: &[usize], seed: u64) -> Tensor {
        let mut values = vec![0f32; shape.iter().product()];
        crate::random::CounterRng::new(seed, 0).fill_uniform(&mut values);
        values.iter_mut().for_each(|x| *x = *x * 4.0 - 2.0);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Reference implementation: window by window in plain f64 loops.
    fn spelled_out(qkv: &Tensor, bias: &Tensor, table: &Tensor, heads: usize, grid: WindowGrid) -> Vec<f64> {
        let qkv = qkv.to_vec2::<f32>().unwrap();
        let (bias, table) = (bias.to_vec1::<f32>().unwrap(), table.to_vec2::<f32>().unwrap());
        let channels = bias.len() / 3;
        let head_dim = channels / heads;
        let size = grid.height * grid.width;
        let (rows, columns) = grid.windows();
        let mut out = vec![0f64; grid.batch * size * channels];
        for (image, window) in (0..grid.batch).flat_map(|b| (0..rows * columns).map(move |w| (b, w))) {
            let cells = grid.cells(window);
            let value = |cell: Cell, at: usize| {
                f64::from(cell.index.map_or(0.0, |i| qkv[image * size + i][at])) + f64::from(bias[at])
            };
            for (head, (i, query)) in (0..heads).flat_map(|h| cells.iter().enumerate().map(move |c| (h, c))) {
                let score = |(j, key): (usize, &Cell)| {
                    let dot: f64 = (head * head_dim..(head + 1) * head_dim)
                        .map(|c| value(*query, c) * value(*key, channels + c))
                        .sum();
                    let (side, span) = (grid.side, 2 * grid.side - 1);
                    let offset = (i / side + side - 1 - j / side) * span + i % side + side - 1 - j % side;
                    let apart = if key.region == query.region { 0.0 } else { -100.0 };
                    dot / (head_dim as f64).sqrt() + f64::from(table[offset][head]) + apart
                };
                let scores: Vec<f64> = cells.iter().enumerate().map(score).map(f64::exp).collect();
                let sum: f64 = scores.iter().sum();
                let Some(index) = query.index else { continue };
                for c in head * head_dim..(head + 1) * head_dim {
                    let mixed: f64 = scores.iter().zip(&cells).map(|(s, k)| s * value(*k, 2 * channels + c)).sum();
                    out[(image * size + index) * channels + c] = mixed / sum;
                }
            }
        }
        out
    }

    fn check(heads: usize, head_dim: usize, grid: WindowGrid) {
        let channels = heads * head_dim;
        let qkv = noise(&[grid.batch * grid.height * grid.width, 3 * channels], 1);
        let bias = noise(&[3 * channels], 2);
        let table = noise(&[(2 * grid.side - 1).pow(2), heads], 3);
        let offsets = OffsetBias::new(&table, grid.side).unwrap();
        let fast = window_attention(&qkv, Some(&bias), &offsets, grid).unwrap();
        let fast = fast.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in fast.iter().zip(spelled_out(&qkv, &bias, &table, heads, grid)) {
            assert!((f64::from(*a) - b).abs() < 2e-5, "{a} against {b} in {grid:?}");
        }
    }

    #[test]
    fn windows_of_all_sorts_equal_plain_loops() {
        check(2, 4, WindowGrid { batch: 1, height: 8, width: 12, side: 4, shift: 0 });
        check(1, 12, WindowGrid { batch: 2, height: 9, width: 5, side: 4, shift: 2 });
        check(3, 32, WindowGrid { batch: 1, height: 3, width: 2, side: 7, shift: 3 });
        check(2, 33, WindowGrid { batch: 1, height: 7, width: 14, side: 7, shift: 3 });
    }

    #[test]
    fn every_cell_has_one_place() {
        let grid = WindowGrid { batch: 1, height: 9, width: 5, side: 4, shift: 2 };
        for (row, column) in (0..9).flat_map(|row| (0..5).map(move |column| (row, column))) {
            let (window, place) = grid.place(row, column);
            assert_eq!(grid.cells(window)[place].index, Some(row * 5 + column));
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let table = noise(&[49, 2], 1);
        assert!(OffsetBias::new(&table, 3).is_err());
        let offsets = OffsetBias::new(&table, 4).unwrap();
        let grid = WindowGrid { batch: 1, height: 4, width: 4, side: 4, shift: 0 };
        assert!(window_attention(&noise(&[15, 12], 1), None, &offsets, grid).is_err());
        assert!(window_attention(&noise(&[16, 9], 1), None, &offsets, grid).is_err());
        assert!(window_attention(&noise(&[16, 12], 1), None, &offsets, grid).is_ok());
    }
}
