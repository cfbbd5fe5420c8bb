//! Attention and head splitting on a GPU.
//!
//! Rows that `fused_attention` does not take are computed row by row: scores are float32 products of the blocks' type, so
//! nothing is rounded before the softmax and no operand is copied. Each segment's scores begin at a multiple of [`ALIGNMENT`],
//! so that the tensor cores take the weights too.

use candle_core::{DType, Result, Tensor, bail};

use super::{
    flash::FusedKernel,
    launch::{Argument, Matrices, Part, Sizes, empty, launch_by_head, launch_by_row, multiply, with_addresses},
};
use crate::layers::{
    attention::{HeadOptions, KeyValue, Row, SCORES_BYTES},
    fused_attention::{self, FusedAttention, strides},
};

/// Number of elements to whose multiples rows of scores are padded.
const ALIGNMENT: usize = 8;

/// Number of segments that the softmax takes.
const SEGMENTS: usize = 2;

/// Returns (heads, tokens, head_dim) with channels that lie side by side: a copy if they do not.
fn by_heads(xs: &Tensor) -> Result<Tensor> {
    if strides(xs).is_ok() { Ok(xs.clone()) } else { xs.contiguous() }
}

/// As `attention::attend_rows`; `heads` and `head_dim` are those of all rows.
pub(in crate::layers) fn attend_rows(
    rows: &[Row<'_>],
    (heads, head_dim): (usize, usize),
    scale: f64,
) -> Result<Tensor> {
    if fused_attention::takes(rows) {
        return FusedKernel.attend(rows, scale);
    }
    let counts = rows.iter().map(|row| row.queries.dim(1)).collect::<Result<Vec<_>>>()?;
    let Some(Row { queries, .. }) = rows.first() else { bail!("attention needs queries") };
    let out = empty((counts.iter().sum::<usize>(), heads * head_dim), queries.dtype(), queries.device())?;
    let mut first = 0;
    for (row, count) in rows.iter().zip(counts) {
        attend_onto(&out, first, &row.queries, &row.segments, scale)?;
        first += count;
    }
    Ok(out)
}

/// Writes softmax(q Kᵀ · scale) V into rows `first .. first + tokens` of `out`, (all tokens, heads · head_dim). `queries` is
/// (heads, tokens, head_dim); there is one softmax over all segments.
fn attend_onto(out: &Tensor, first: usize, queries: &Tensor, segments: &[&KeyValue], scale: f64) -> Result<()> {
    let (heads, tokens, head_dim) = queries.dims3()?;
    if segments.is_empty() || segments.len() > SEGMENTS || out.dim(1)? != heads * head_dim {
        bail!("attention of {tokens} tokens over {} segments into {:?}", segments.len(), out.dims());
    }
    let queries = by_heads(queries)?;
    let segments = segments
        .iter()
        .map(|segment| Ok(KeyValue { keys: by_heads(&segment.keys)?, values: by_heads(&segment.values)? }));
    let segments = segments.collect::<Result<Vec<_>>>()?;
    let counts = segments.iter().map(|segment| segment.keys.dim(1)).collect::<Result<Vec<_>>>()?;
    let starts: Vec<_> = counts
        .iter()
        .scan(0, |next, count| Some(std::mem::replace(next, *next + count.next_multiple_of(ALIGNMENT))))
        .collect();
    let stride: usize = counts.iter().map(|count| count.next_multiple_of(ALIGNMENT)).sum();
    let band = (SCORES_BYTES / (heads * stride * size_of::<f32>()).max(1)).clamp(1, tokens.max(1));
    for start in (0..tokens).step_by(band) {
        let count = band.min(tokens - start);
        let scores = Scores { heads, tokens: count, head_dim, stride };
        let columns = (counts.as_slice(), starts.as_slice());
        scores.attend(
            &out.narrow(0, first + start, count)?,
            &queries.narrow(1, start, count)?,
            &segments,
            columns,
            scale,
        )?;
    }
    Ok(())
}

/// The shape of a band's scores, (heads, tokens, stride).
struct Scores {
    heads: usize,
    tokens: usize,
    head_dim: usize,
    stride: usize,
}

impl Scores {
    /// Computes the attention of these queries; `counts` and `starts` are the numbers of the segments' keys and their first
    /// columns.
    fn attend(
        &self,
        out: &Tensor,
        queries: &Tensor,
        segments: &[KeyValue],
        (counts, starts): (&[usize], &[usize]),
        scale: f64,
    ) -> Result<()> {
        let exact = empty((self.heads, self.tokens, self.stride), DType::F32, queries.device())?;
        for (segment, start) in segments.iter().zip(starts) {
            self.of_segment(&exact, queries, &segment.keys, *start)?;
        }
        let weights = self.softmax(&exact, queries.dtype(), (counts, starts), scale)?;
        for (segment, start) in segments.iter().zip(starts) {
            self.sum(out, &weights, &segment.values, *start)?;
        }
        Ok(())
    }

    /// Returns the scores or weights from column `start` on as the matrices of all heads.
    fn window(&self, address: u64, dtype: DType, start: usize) -> Matrices {
        let address = address + (start * dtype.size_in_bytes()) as u64;
        Matrices { address, dtype, row_stride: self.stride, batch_stride: self.tokens * self.stride }
    }

    /// Writes q Kᵀ of one segment.
    fn of_segment(&self, scores: &Tensor, queries: &Tensor, keys: &Tensor, start: usize) -> Result<()> {
        let count = self.check(keys, queries.dtype())?;
        let ((query_head, query_token), (key_head, key_token)) = (strides(queries)?, strides(keys)?);
        with_addresses(&[Some(scores), Some(queries), Some(keys)], |device, at| {
            let of = |address, row_stride, batch_stride| Matrices {
                address,
                dtype: queries.dtype(),
                row_stride,
                batch_stride,
            };
            let sizes = Sizes { batch: self.heads, m: self.tokens, k: self.head_dim, n: count };
            let keys = (of(at[2], key_token, key_head), true);
            let queries = of(at[1], query_token, query_head);
            multiply(device, self.window(at[0], DType::F32, start), queries, keys, sizes, false)
        })
    }

    /// Returns the softmax of the scores, in place if they have that type already.
    fn softmax(
        &self,
        scores: &Tensor,
        dtype: DType,
        (counts, starts): (&[usize], &[usize]),
        scale: f64,
    ) -> Result<Tensor> {
        let second = |numbers: &[usize]| Argument::Count(numbers.get(1).copied().unwrap_or_default());
        let weights = match dtype {
            DType::F32 => scores.clone(),
            _ => empty(scores.shape(), dtype, scores.device())?,
        };
        with_addresses(&[Some(scores), Some(&weights)], |device, at| {
            let arguments = [
                Argument::Address(at[0]),
                Argument::Address(at[1]),
                Argument::Count(self.stride),
                Argument::Count(counts[0]),
                second(starts),
                second(counts),
                Argument::Float(scale as f32),
            ];
            launch_by_row(device, ("softmax", dtype), self.heads * self.tokens, &arguments)
        })?;
        Ok(weights)
    }

    /// Sets `out`, (tokens, heads · head_dim), to the weighted sum of the first segment's values, or adds a further one's.
    fn sum(&self, out: &Tensor, weights: &Tensor, values: &Tensor, start: usize) -> Result<()> {
        let count = self.check(values, weights.dtype())?;
        let (head, token) = strides(values)?;
        with_addresses(&[Some(out), Some(weights), Some(values)], |device, at| {
            let dtype = weights.dtype();
            let sizes = Sizes { batch: self.heads, m: self.tokens, k: count, n: self.head_dim };
            let width = self.heads * self.head_dim;
            let out = Matrices { address: at[0], dtype, row_stride: width, batch_stride: self.head_dim };
            let values = Matrices { address: at[2], dtype, row_stride: token, batch_stride: head };
            multiply(device, out, self.window(at[1], dtype, start), (values, false), sizes, start > 0)
        })
    }

    /// Returns the number of tokens of keys or values, whose other sizes must fit.
    fn check(&self, xs: &Tensor, dtype: DType) -> Result<usize> {
        match xs.dims3()? {
            (heads, count, head_dim) if (heads, head_dim) == (self.heads, self.head_dim) && xs.dtype() == dtype => {
                Ok(count)
            }
            _ => bail!("{:?} of {:?} do not fit {} heads of {}", xs.dims(), xs.dtype(), self.heads, self.head_dim),
        }
    }
}

/// Where the heads of one part go: element c of a head's token t is at row · `row_stride` + head · `head_stride` + t ·
/// head_dim + c of `out`.
struct Target<'a> {
    out: &'a Tensor,
    row_stride: usize,
    head_stride: usize,
}

/// As `attention::split_heads` for several parts side by side, the first of which begins at `offset`; at most three.
pub(in crate::layers) fn split_parts(
    xs: &Tensor,
    offset: usize,
    (rows, heads, head_dim): (usize, usize, usize),
    options: &[HeadOptions<'_>],
) -> Result<Vec<Tensor>> {
    let tokens = xs.dim(0)? / rows.max(1);
    let shape = (rows, heads, tokens, head_dim);
    let outs = options.iter().map(|_| empty(shape, xs.dtype(), xs.device())).collect::<Result<Vec<_>>>()?;
    let head_stride = tokens * head_dim;
    let targets: Vec<_> = outs.iter().map(|out| Target { out, row_stride: heads * head_stride, head_stride }).collect();
    split(xs, offset, (rows, heads, head_dim), options, &targets)?;
    Ok(outs)
}

/// As `attention::append_heads`: the keys and values go to where they belong in the caches.
pub(in crate::layers) fn append_heads(
    xs: &Tensor,
    (rows, heads, head_dim): (usize, usize, usize),
    options: [HeadOptions<'_>; 3],
    caches: &[&KeyValue],
    position: usize,
) -> Result<Tensor> {
    let tokens = xs.dim(0)? / rows.max(1);
    let queries = empty((rows, heads, tokens, head_dim), xs.dtype(), xs.device())?;
    for (row, cache) in caches.iter().enumerate() {
        let own = queries.get(row)?;
        let (keys, values) = (cache.keys.narrow(1, position, tokens)?, cache.values.narrow(1, position, tokens)?);
        let target = |out| {
            let (head_stride, token_stride) = strides(out)?;
            if token_stride != head_dim || out.dtype() != xs.dtype() {
                bail!("heads of {head_dim} channels of {:?} do not fit a cache of {:?}", xs.dtype(), out.layout());
            }
            Ok(Target { out, row_stride: 0, head_stride })
        };
        let targets = [target(&own)?, target(&keys)?, target(&values)?];
        split(&xs.narrow(0, row * tokens, tokens)?, 0, (1, heads, head_dim), &options, &targets)?;
    }
    Ok(queries)
}

fn split(
    xs: &Tensor,
    offset: usize,
    (rows, heads, head_dim): (usize, usize, usize),
    options: &[HeadOptions<'_>],
    targets: &[Target<'_>],
) -> Result<()> {
    let xs = xs.contiguous()?;
    let (count, width) = xs.dims2()?;
    let (tokens, parts) = (count / rows.max(1), options.len());
    if parts == 0 || parts > 3 || parts != targets.len() || offset + parts * heads * head_dim > width {
        bail!("cannot split {:?} at {offset} into {parts} parts of {heads} heads of {head_dim}", xs.dims());
    }
    let biases = options.iter().map(|part| part.bias.map(|bias| bias.to_dtype(xs.dtype())?.contiguous()).transpose());
    let biases = biases.collect::<Result<Vec<_>>>()?;
    let rotation = options.iter().find_map(|part| part.rotation);
    let mut tensors = vec![Some(&xs), rotation.map(|rotation| &rotation.cos), rotation.map(|rotation| &rotation.sin)];
    for ((part, bias), target) in options.iter().zip(&biases).zip(targets) {
        tensors.extend([bias.as_ref(), part.sharpness, Some(target.out)]);
    }
    with_addresses(&tensors, |device, at| {
        let part = |index: usize| {
            let (Some(options), Some(target)) = (options.get(index), targets.get(index)) else {
                return Part::default();
            };
            let at = &at[3 + 3 * index..];
            Part {
                bias: at[0],
                sharpness: at[1],
                out: at[2],
                row_stride: target.row_stride as u64,
                head_stride: target.head_stride as u64,
                unit: options.unit.into(),
                rotate: options.rotation.is_some().into(),
            }
        };
        let sizes = [parts, rows, tokens, heads, head_dim, width, offset];
        let arguments: Vec<_> = (at[..3].iter().map(|address| Argument::Address(*address)))
            .chain((0..3).map(|index| Argument::Part(part(index))))
            .chain(sizes.map(Argument::Count))
            .collect();
        launch_by_head(device, ("split_heads", xs.dtype()), count * parts * heads, &arguments)
    })
}
