//! Attention over keys and values in several segments, and the splitting of projections into heads.
//!
//! Every guidance row attends separately, so no padding or mask is needed: its keys are exactly the visible ones, in
//! one softmax over any number of [`KeyValue`] segments, which are not concatenated. On the CPU a task is one head of
//! a range of queries: scores, softmax weights and weighted sum are computed within the CPU caches.

use std::{cell::RefCell, ops::Deref};

use candle_core::{D, DType, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{
    checked_matmul::CheckedMatmul,
    kernel_choice::has_own_kernels,
    kernels::{self, lane_max, lane_sum, with_slice},
    product::{Matrix, MatrixMut, multiply},
};

/// Maximum number of scores of one task on the CPU: half a mebibyte of floats, which fits into the L2 cache.
const TASK_SCORES: usize = 1 << 17;

/// Maximum number of queries of one task; larger products are not faster.
const TASK_QUERIES: usize = 128;

/// Number of queries from which on transposing the keys once is faster.
const TURN_KEYS_FROM: usize = 16;

/// Sizes of heads for which attention on a GPU is one kernel, which keeps no scores.
pub(crate) const FUSED_HEAD_DIMS: [usize; 3] = [64, 96, 128];

/// Maximum size of the scores of a band of queries on a GPU for heads of other sizes, in bytes of float32.
pub(crate) const SCORES_BYTES: usize = 2 << 30;

/// Keys and values of all heads, each (heads, tokens, head_dim).
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// Keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

impl KeyValue {
    /// Returns the memory of both in bytes.
    pub fn bytes(&self) -> usize {
        [&self.keys, &self.values].iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
    }
}

/// Returns softmax(q Kᵀ · scale) V with one softmax over all segments. `queries` is (heads, tokens, head_dim); the
/// result is (tokens, heads · head_dim).
pub fn attend(queries: &Tensor, segments: &[&KeyValue], scale: f64) -> Result<Tensor> {
    let (heads, tokens, head_dim) = queries.dims3()?;
    if segments.is_empty() {
        bail!("attention needs keys");
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(queries) {
        return attend_rows(&[Row { queries: queries.clone(), segments: segments.to_vec() }], scale);
    }
    if !has_own_kernels(queries) {
        return attend_spelled_out(queries, segments, scale);
    }
    let held = segments.iter().map(|segment| hold(segment)).collect::<Result<Vec<_>>>()?;
    let turned = held.iter().map(|held| held.turned_keys(tokens)).collect::<Result<Vec<_>>>()?;
    let sides =
        held.iter().zip(&turned).map(|(held, turned)| held.side(turned.as_deref())).collect::<Result<Vec<_>>>()?;
    let (storage, layout) = queries.storage_and_layout();
    let queries_of = HeadSlices::new(&storage, layout)?;
    let shape = (heads, tokens, head_dim);
    let by_head = attend_by_head(&queries_of, &sides, shape, scale as f32)?;
    Tensor::from_vec(interleave(&by_head, shape), (tokens, heads * head_dim), queries.device())
}

/// Queries, and the keys and values that they see.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// (heads, tokens, head_dim).
    pub queries: Tensor,
    /// One softmax is over all of these.
    pub segments: Vec<&'a KeyValue>,
}

/// Returns [`attend`] of each row, one below the other: (all tokens, heads · head_dim).
pub fn attend_rows(rows: &[Row<'_>], scale: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(first) = rows.first().filter(|first| cuda::takes(&first.queries)) {
        return cuda::attend_rows(rows, (first.queries.dim(0)?, first.queries.dim(2)?), scale);
    }
    match rows {
        [row] => attend(&row.queries, &row.segments, scale),
        rows => {
            let attended = rows.iter().map(|row| attend(&row.queries, &row.segments, scale));
            Tensor::cat(&attended.collect::<Result<Vec<_>>>()?, 0)
        }
    }
}

/// Access to every head's matrix (tokens, head_dim) in a tensor (heads, tokens, head_dim), which may be a view.
#[derive(Clone, Copy)]
struct HeadSlices<'a> {
    data: &'a [f32],
    head_stride: usize,
    token_stride: usize,
    tokens: usize,
    head_dim: usize,
}

impl<'a> HeadSlices<'a> {
    fn new(storage: &'a Storage, layout: &Layout) -> Result<Self> {
        let Storage::Cpu(storage) = storage else { bail!("a CPU kernel was given a tensor of another device") };
        let (_, tokens, head_dim) = layout.shape().dims3()?;
        let &[head_stride, token_stride, column_stride] = layout.stride() else { bail!("attention takes three axes") };
        if column_stride != 1 && head_dim > 1 {
            bail!("the channels of a head must lie side by side");
        }
        let data = storage.as_slice::<f32>()?.get(layout.start_offset()..).unwrap_or_default();
        Ok(Self { data, head_stride, token_stride, tokens, head_dim })
    }

    fn head(&self, head: usize, start: usize, count: usize) -> Result<Matrix<'a>> {
        let at = head * self.head_stride + start * self.token_stride;
        Matrix::new(self.data.get(at..).unwrap_or_default(), (count, self.head_dim), (self.token_stride, 1))
    }
}

/// The storage guards and layouts of one segment.
struct Held<'a, Guard> {
    keys: (Guard, &'a Layout),
    values: (Guard, &'a Layout),
}

fn hold(segment: &KeyValue) -> Result<Held<'_, impl Deref<Target = Storage>>> {
    if segment.keys.dims() != segment.values.dims() {
        bail!("keys of shape {:?} with values of {:?}", segment.keys.dims(), segment.values.dims());
    }
    Ok(Held { keys: segment.keys.storage_and_layout(), values: segment.values.storage_and_layout() })
}

/// One segment, as the tasks read it.
struct Side<'a> {
    keys: HeadSlices<'a>,
    /// The keys transposed to (heads, head_dim, keys), if there are enough queries.
    turned: Option<&'a [f32]>,
    values: HeadSlices<'a>,
}

impl<Guard: Deref<Target = Storage>> Held<'_, Guard> {
    /// Returns the keys transposed to (heads, head_dim, keys) for the score product; `None` for few queries.
    fn turned_keys(&self, queries: usize) -> Result<Option<Vec<f32>>> {
        if queries < TURN_KEYS_FROM {
            return Ok(None);
        }
        let keys = HeadSlices::new(&self.keys.0, self.keys.1)?;
        let (heads, count, head_dim) = self.keys.1.shape().dims3()?;
        let mut turned = vec![0f32; heads * count * head_dim];
        turned.par_chunks_mut((count * head_dim).max(1)).enumerate().for_each(|(head, out)| {
            let from = keys.data.get(head * keys.head_stride..).unwrap_or_default();
            turn(from, keys.token_stride, out, (count, head_dim));
        });
        Ok(Some(turned))
    }

    fn side<'a>(&'a self, turned: Option<&'a [f32]>) -> Result<Side<'a>> {
        let keys = HeadSlices::new(&self.keys.0, self.keys.1)?;
        Ok(Side { keys, turned, values: HeadSlices::new(&self.values.0, self.values.1)? })
    }
}

impl Side<'_> {
    /// Returns one head's keys as (head_dim, keys).
    fn keys_of(&self, head: usize) -> Result<Matrix<'_>> {
        let (count, head_dim) = (self.keys.tokens, self.keys.head_dim);
        match self.turned {
            None => Ok(self.keys.head(head, 0, count)?.transposed()),
            Some(turned) => {
                let own = turned.get(head * count * head_dim..).unwrap_or_default();
                Matrix::new(own, (head_dim, count), (count, 1))
            }
        }
    }
}

/// Writes the transpose of `from` (rows, columns) into `out`, in tiles.
fn turn(from: &[f32], row_stride: usize, out: &mut [f32], (rows, columns): (usize, usize)) {
    const TILE: usize = 16;
    for first in (0..rows).step_by(TILE) {
        let last = (first + TILE).min(rows);
        for column in 0..columns {
            for (row, y) in (first..last).zip(&mut out[column * rows + first..]) {
                *y = from[row * row_stride + column];
            }
        }
    }
}

thread_local! {
    /// Scratch memory for a task's scores. Kept per thread, because new memory would have to be zeroed and paged in.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Returns the attention output, (heads, tokens, head_dim). A task is one head of a range of queries. The ranges
/// depend on the shapes only, so the result does not depend on the number of threads.
fn attend_by_head(
    queries: &HeadSlices<'_>,
    sides: &[Side<'_>],
    (heads, tokens, head_dim): (usize, usize, usize),
    scale: f32,
) -> Result<Vec<f32>> {
    let keys: usize = sides.iter().map(|side| side.keys.tokens).sum();
    let run = (TASK_SCORES / keys.max(1)).clamp(TURN_KEYS_FROM, TASK_QUERIES);
    let mut out = vec![0f32; heads * tokens * head_dim];
    let runs = out.par_chunks_mut((tokens * head_dim).max(1)).enumerate().flat_map(|(head, own)| {
        own.par_chunks_mut(run * head_dim).enumerate().map(move |(index, out)| (head, index * run, out))
    });
    runs.try_for_each(|(head, start, out)| {
        let queries = queries.head(head, start, out.len() / head_dim)?;
        SCORES.with_borrow_mut(|scores| attend_run(queries, head, sides, (keys, head_dim), scale, scores, out))
    })?;
    Ok(out)
}

/// Computes one head of one range of queries: scores of all segments side by side, one softmax, the weighted sum of
/// values.
fn attend_run(
    queries: Matrix<'_>,
    head: usize,
    sides: &[Side<'_>],
    (keys, head_dim): (usize, usize),
    scale: f32,
    scores: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<()> {
    let count = out.len() / head_dim;
    if scores.len() < count * keys {
        scores.resize(count * keys, 0.0);
    }
    let scores = &mut scores[..count * keys];
    let mut start = 0;
    for side in sides {
        let own = side.keys.tokens;
        let mut window = MatrixMut::new(&mut scores[start..], (count, own), keys)?;
        multiply(&mut window, queries, side.keys_of(head)?, false)?;
        start += own;
    }
    exponentiate(scores, keys, scale);
    let mut start = 0;
    for side in sides {
        let own = side.keys.tokens;
        let weights = Matrix::new(&scores[start..], (count, own), (keys, 1))?;
        let mut sum = MatrixMut::new(out, (count, head_dim), head_dim)?;
        multiply(&mut sum, weights, side.values.head(head, 0, own)?, start > 0)?;
        start += own;
    }
    Ok(())
}

/// Replaces each row of scores s by its softmax weights, e^(scale · (s − max)) divided by their sum.
fn exponentiate(scores: &mut [f32], width: usize, scale: f32) {
    kernels::vectorized(
        scores,
        #[inline(always)]
        |scores| {
            for row in scores.chunks_exact_mut(width) {
                let max = lane_max(row) * scale; // a softmax scale is positive
                for x in row.iter_mut() {
                    *x = kernels::exp(x.mul_add(scale, -max));
                }
                let sum = lane_sum(
                    row,
                    #[inline(always)]
                    |x| x,
                );
                let share = 1.0 / sum;
                row.iter_mut().for_each(|x| *x *= share);
            }
        },
    );
}

/// Reorders (heads, tokens, head_dim) to (tokens, heads · head_dim).
fn interleave(by_head: &[f32], (heads, tokens, head_dim): (usize, usize, usize)) -> Vec<f32> {
    if tokens == 1 {
        return by_head.to_vec();
    }
    let mut out = vec![0f32; by_head.len()];
    kernels::for_each_row(
        &mut out,
        heads * head_dim,
        #[inline(always)]
        |token, row| {
            for (head, row) in row.chunks_exact_mut(head_dim).enumerate() {
                row.copy_from_slice(&by_head[(head * tokens + token) * head_dim..][..head_dim]);
            }
        },
    );
    out
}

pub(super) fn attend_spelled_out(queries: &Tensor, segments: &[&KeyValue], scale: f64) -> Result<Tensor> {
    let (heads, tokens, head_dim) = queries.dims3()?;
    // In float32 up to the weights: scores that are rounded to a reduced type differ from those of a fused kernel.
    let exact = queries.to_dtype(DType::F32)?;
    let scores = segments
        .iter()
        .map(|s| exact.checked_matmul(&s.keys.to_dtype(DType::F32)?.t()?))
        .collect::<Result<Vec<_>>>()?;
    let scores = (Tensor::cat(&scores, D::Minus1)? * scale)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(queries.dtype())?;
    let mut start = 0;
    let mut sum: Option<Tensor> = None;
    for segment in segments {
        let count = segment.keys.dim(1)?;
        let part = weights.narrow(D::Minus1, start, count)?.contiguous()?.checked_matmul(&segment.values)?;
        sum = Some(sum.map_or(Ok(part.clone()), |sum| sum + part)?);
        start += count;
    }
    let Some(sum) = sum else { bail!("attention needs keys") };
    sum.transpose(0, 1)?.reshape((tokens, heads * head_dim))
}

/// Rotary angles of consecutive tokens: cosines and sines, each (tokens, head_dim / 2), float32.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl Rotation {
    /// Returns a view of the angles of `count` tokens from `start` on.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        Ok(Self { cos: self.cos.narrow(0, start, count)?, sin: self.sin.narrow(0, start, count)? })
    }
}

/// The operations on each head's vector between projection and attention, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadOptions<'a> {
    /// Added first; (channels).
    pub bias: Option<&'a Tensor>,
    /// Then divide the vector by max(‖·‖₂, 1e-12).
    pub unit: bool,
    /// Then multiply by the head's sharpness (logit scale); (heads), float32.
    pub sharpness: Option<&'a Tensor>,
    /// Then rotate neighbouring channel pairs by the token's angles.
    pub rotation: Option<&'a Rotation>,
}

/// Splits columns `offset .. offset + channels` of `xs` (rows · tokens, width) into heads: (rows, heads, tokens,
/// head_dim). Applies bias, normalisation and rotation in the same pass.
pub fn split_heads(
    xs: &Tensor,
    offset: usize,
    (rows, heads, head_dim): (usize, usize, usize),
    options: HeadOptions<'_>,
) -> Result<Tensor> {
    check_split(xs, offset, (rows, heads, head_dim), &options)?;
    #[cfg(feature = "cuda")]
    if cuda::takes(xs) {
        return first_of(cuda::split_parts(xs, offset, (rows, heads, head_dim), &[options])?);
    }
    if !has_own_kernels(xs) {
        return split_spelled_out(xs, offset, (rows, heads, head_dim), options);
    }
    let (count, width) = xs.dims2()?;
    let tokens = count / rows;
    let bias = optional_row(options.bias)?;
    let sharpness = optional_row(options.sharpness)?;
    let angles = match options.rotation {
        None => None,
        Some(r) => Some((with_slice(&r.cos, |s| Ok(s.to_vec()))?, with_slice(&r.sin, |s| Ok(s.to_vec()))?)),
    };
    let mut out = vec![0f32; count * heads * head_dim];
    with_slice(xs, |xs| {
        kernels::for_each_row(
            &mut out,
            head_dim,
            #[inline(always)]
            |place, out| {
                let (token, head, row) = (place % tokens, place / tokens % heads, place / tokens / heads);
                let source = &xs[(row * tokens + token) * width + offset + head * head_dim..][..head_dim];
                match &bias {
                    None => out.copy_from_slice(source),
                    Some(bias) => {
                        let bias = &bias[head * head_dim..][..head_dim];
                        out.iter_mut().zip(source).zip(bias).for_each(|((y, x), b)| *y = x + b);
                    }
                }
                let mut factor = sharpness.as_ref().map_or(1.0, |s| s[head]);
                if options.unit {
                    factor /= lane_sum(
                        out,
                        #[inline(always)]
                        |x| x * x,
                    )
                    .sqrt()
                    .max(1e-12);
                }
                if options.unit || options.sharpness.is_some() {
                    out.iter_mut().for_each(|x| *x *= factor);
                }
                if let Some((cos, sin)) = &angles {
                    let half = head_dim / 2;
                    rotate(out, &cos[token * half..][..half], &sin[token * half..][..half]);
                }
            },
        );
        Ok(())
    })?;
    Tensor::from_vec(out, (rows, heads, tokens, head_dim), xs.device())
}

/// Splits several parts that lie side by side, the first of which begins at column `offset`: one tensor for each of
/// `options`, as from [`split_heads`].
pub fn split_parts<const PARTS: usize>(
    xs: &Tensor,
    offset: usize,
    shape @ (_, heads, head_dim): (usize, usize, usize),
    options: [HeadOptions<'_>; PARTS],
) -> Result<Vec<Tensor>> {
    #[cfg(feature = "cuda")]
    if cuda::takes(xs) {
        for (part, options) in options.iter().enumerate() {
            check_split(xs, offset + part * heads * head_dim, shape, options)?;
        }
        return cuda::split_parts(xs, offset, shape, &options);
    }
    let parts = options.into_iter().enumerate();
    parts.map(|(part, options)| split_heads(xs, offset + part * heads * head_dim, shape, options)).collect()
}

/// Splits queries, keys and values that lie side by side in `xs` (rows · tokens, 3 · channels). Returns the queries, (rows,
/// heads, tokens, head_dim), and writes keys and values into the rows' caches, (heads, capacity, head_dim), from
/// `position` on.
pub fn append_heads(
    xs: &Tensor,
    shape @ (rows, heads, head_dim): (usize, usize, usize),
    options: [HeadOptions<'_>; 3],
    caches: &[&KeyValue],
    position: usize,
) -> Result<Tensor> {
    if caches.len() != rows {
        bail!("{rows} rows with {} caches", caches.len());
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(xs) {
        for (part, options) in options.iter().enumerate() {
            check_split(xs, part * heads * head_dim, shape, options)?;
        }
        return cuda::append_heads(xs, shape, options, caches, position);
    }
    let [queries, keys, values] = options;
    let channels = heads * head_dim;
    let queries = split_heads(xs, 0, shape, queries)?;
    let (keys, values) = (split_heads(xs, channels, shape, keys)?, split_heads(xs, 2 * channels, shape, values)?);
    for (row, cache) in caches.iter().enumerate() {
        cache.keys.slice_set(&keys.get(row)?, 1, position)?;
        cache.values.slice_set(&values.get(row)?, 1, position)?;
    }
    Ok(queries)
}

fn check_split(
    xs: &Tensor,
    offset: usize,
    (rows, heads, head_dim): (usize, usize, usize),
    options: &HeadOptions<'_>,
) -> Result<()> {
    let (count, width) = xs.dims2()?;
    let channels = heads * head_dim;
    if rows == 0 || count % rows != 0 || offset + channels > width || head_dim % 2 != 0 {
        bail!("cannot split {:?} at {offset} into {rows} rows of {heads} heads of {head_dim}", xs.dims());
    }
    if let Some(rotation) = options.rotation {
        let expected = (count / rows, head_dim / 2);
        if rotation.cos.dims2()? != expected || rotation.sin.dims2()? != expected {
            bail!("rotation of shape {:?} does not fit {expected:?}", rotation.cos.dims());
        }
    }
    for (row, length) in [(options.bias, channels), (options.sharpness, heads)] {
        if let Some(row) = row.filter(|row| row.elem_count() != length) {
            bail!("{:?} do not fit {heads} heads of {head_dim}", row.dims());
        }
    }
    Ok(())
}

#[cfg(feature = "cuda")]
fn first_of(mut parts: Vec<Tensor>) -> Result<Tensor> {
    parts.pop().map_or_else(|| bail!("nothing was split"), Ok)
}

#[inline(always)]
fn rotate(row: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in row.chunks_exact_mut(2).zip(cos).zip(sin) {
        let (even, odd) = (pair[0], pair[1]);
        pair[0] = even * cos - odd * sin;
        pair[1] = even * sin + odd * cos;
    }
}

fn optional_row(xs: Option<&Tensor>) -> Result<Option<Vec<f32>>> {
    xs.map(|xs| with_slice(xs, |slice| Ok(slice.to_vec()))).transpose()
}

fn split_spelled_out(
    xs: &Tensor,
    offset: usize,
    (rows, heads, head_dim): (usize, usize, usize),
    options: HeadOptions<'_>,
) -> Result<Tensor> {
    let dtype = xs.dtype();
    let tokens = xs.dim(0)? / rows;
    let mut xs = xs.narrow(1, offset, heads * head_dim)?;
    if let Some(bias) = options.bias {
        xs = xs.broadcast_add(bias)?;
    }
    let mut xs = xs.reshape((rows, tokens, heads, head_dim))?.transpose(1, 2)?.to_dtype(DType::F32)?.contiguous()?;
    if options.unit {
        let norm = xs.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
        xs = xs.broadcast_div(&norm)?;
    }
    if let Some(sharpness) = options.sharpness {
        xs = xs.broadcast_mul(&sharpness.reshape((1, heads, 1, 1))?)?;
    }
    if let Some(rotation) = options.rotation {
        let pairs = xs.reshape((rows, heads, tokens, head_dim / 2, 2))?;
        let (even, odd) = (pairs.narrow(4, 0, 1)?.squeeze(4)?, pairs.narrow(4, 1, 1)?.squeeze(4)?);
        let (cos, sin) = (&rotation.cos, &rotation.sin);
        let first = (even.broadcast_mul(cos)? - odd.broadcast_mul(sin)?)?;
        let second = (even.broadcast_mul(sin)? + odd.broadcast_mul(cos)?)?;
        xs = Tensor::stack(&[first, second], D::Minus1)?.reshape((rows, heads, tokens, head_dim))?;
    }
    xs.to_dtype(dtype)?.contiguous()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn tensor(shape: &[usize], seed: u64) -> Tensor {
        let count = shape.iter().product();
        let mut values = vec![0f32; count];
        crate::random::CounterRng::new(seed, 0).fill_uniform(&mut values);
        values.iter_mut().for_each(|x| *x = *x * 4.0 - 2.0);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn assert_close(a: &Tensor, b: &Tensor) {
        let worst = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 3e-6, "off by {worst}");
    }

    fn segment(tokens: usize, seed: u64) -> KeyValue {
        KeyValue { keys: tensor(&[3, tokens, 8], seed), values: tensor(&[3, tokens, 8], seed + 1) }
    }

    #[test]
    fn one_softmax_over_segments_equals_one_over_the_glued_keys() {
        let (a, b) = (segment(5, 1), segment(40, 3));
        for tokens in [1, 2, 37] {
            let queries = tensor(&[3, tokens, 8], 7);
            let glued = KeyValue {
                keys: Tensor::cat(&[&a.keys, &b.keys], 1).unwrap(),
                values: Tensor::cat(&[&a.values, &b.values], 1).unwrap(),
            };
            let expected = attend_spelled_out(&queries, &[&glued], 0.7).unwrap();
            assert_close(&attend(&queries, &[&a, &b], 0.7).unwrap(), &expected);
            assert_close(&attend(&queries, &[&glued], 0.7).unwrap(), &expected);
            assert_close(&attend_spelled_out(&queries, &[&a, &b], 0.7).unwrap(), &expected);
        }
    }

    #[test]
    fn bands_do_not_show() {
        // With 3 heads and 30,000 keys, a band has 16 queries.
        let (long, queries) = (segment(30_000, 9), tensor(&[3, 40, 8], 11));
        let whole = attend_spelled_out(&queries, &[&long], 1.0).unwrap();
        assert_close(&attend(&queries, &[&long], 1.0).unwrap(), &whole);
    }

    #[test]
    fn keys_may_be_views_of_a_larger_cache() {
        let cache = segment(50, 13);
        let view = |t: &Tensor| t.narrow(1, 0, 20).unwrap();
        let (viewed, queries) =
            (KeyValue { keys: view(&cache.keys), values: view(&cache.values) }, tensor(&[3, 4, 8], 15));
        let copied = KeyValue { keys: viewed.keys.contiguous().unwrap(), values: viewed.values.contiguous().unwrap() };
        assert_close(&attend(&queries, &[&viewed], 1.0).unwrap(), &attend(&queries, &[&copied], 1.0).unwrap());
    }

    #[test]
    fn head_splitting_equals_the_spelled_out_one() {
        let (xs, bias) = (tensor(&[10, 48], 17), tensor(&[24], 19));
        let rotation = Rotation { cos: tensor(&[5, 4], 21), sin: tensor(&[5, 4], 23) };
        let sharpness = Tensor::new(&[0.5f32, 2.0, 3.0], &Device::Cpu).unwrap();
        for (unit, rotated, sharp, biased) in [
            (true, true, true, true),
            (false, false, false, true),
            (true, false, false, false),
            (false, true, true, false),
        ] {
            let options = HeadOptions {
                bias: biased.then_some(&bias),
                unit,
                sharpness: sharp.then_some(&sharpness),
                rotation: rotated.then_some(&rotation),
            };
            let fast = split_heads(&xs, 16, (2, 3, 8), options).unwrap();
            assert_close(&fast, &split_spelled_out(&xs, 16, (2, 3, 8), options).unwrap());
        }
        assert!(split_heads(&xs, 32, (2, 3, 8), HeadOptions::default()).is_err());
    }
}
