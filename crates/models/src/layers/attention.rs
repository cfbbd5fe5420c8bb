//! Attention over keys and values that lie in several places, and the head splitting around it.
//!
//! A row attends alone, so no padding and no mask is ever needed: its keys are exactly those that it may see, in one
//! softmax over any number of [`KeyValue`] segments. Nothing is glued together. On the CPU the scores of a band of
//! queries are formed at a time, exponentiated in place, and normalised only in the output.

use candle_core::{D, DType, Result, Tensor, bail};
use rayon::prelude::*;

use super::kernels::{self, in_place, is_cpu_f32, lane_max, lane_sum, with_slice};

/// Scores that are formed at a time on the CPU: 4 MiB of floats, within reach of the caches.
const BAND_SCORES: usize = 1 << 20;

/// Keys and values of all heads, each (heads, tokens, head_dim).
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// Keys.
    pub keys: Tensor,
    /// Values.
    pub values: Tensor,
}

impl KeyValue {
    /// The bytes that both hold.
    pub fn bytes(&self) -> usize {
        [&self.keys, &self.values].iter().map(|t| t.elem_count() * t.dtype().size_in_bytes()).sum()
    }
}

/// softmax(q Kᵀ · scale) V in one softmax over all segments; `queries` (heads, tokens, head_dim). Returns
/// (tokens, heads · head_dim).
pub fn attend(queries: &Tensor, segments: &[&KeyValue], scale: f64) -> Result<Tensor> {
    let (heads, tokens, head_dim) = queries.dims3()?;
    if segments.is_empty() {
        bail!("attention needs keys");
    }
    if !is_cpu_f32(queries) {
        return attend_spelled_out(queries, segments, scale);
    }
    let keys: usize = segments.iter().map(|s| s.keys.dim(1)).sum::<Result<usize>>()?;
    let band = (BAND_SCORES / (heads * keys).max(1)).clamp(16, tokens.max(16));
    let mut out = vec![0f32; tokens * heads * head_dim];
    for start in (0..tokens).step_by(band) {
        let count = band.min(tokens - start);
        let queries = queries.narrow(1, start, count)?;
        let parts = segments.iter().map(|s| Part::new(&queries, s, scale)).collect::<Result<Vec<_>>>()?;
        let rows = &mut out[start * heads * head_dim..][..count * heads * head_dim];
        merge(&parts, rows, heads, head_dim)?;
    }
    Tensor::from_vec(out, (tokens, heads * head_dim), queries.device())
}

/// What one segment contributes: Σ e^(s − max) v, not yet normalised.
struct Part {
    weighted: Tensor, // (heads, tokens, head_dim)
    max: Vec<f32>,    // heads · tokens
    sum: Vec<f32>,    // heads · tokens
}

impl Part {
    fn new(queries: &Tensor, segment: &KeyValue, scale: f64) -> Result<Self> {
        let scores = queries.matmul(&segment.keys.t()?)?; // (heads, tokens, keys)
        let (max, sum) = exponentiate(&scores, scale as f32)?;
        Ok(Self { weighted: scores.matmul(&segment.values)?, max, sum })
    }
}

/// Turns scores s into e^(scale · s − max) in place; returns the maximum and the sum of every row.
fn exponentiate(scores: &Tensor, scale: f32) -> Result<(Vec<f32>, Vec<f32>)> {
    let width = scores.dim(D::Minus1)?;
    let rows = scores.elem_count() / width.max(1);
    let collected = std::sync::Mutex::new((vec![0f32; rows], vec![0f32; rows]));
    in_place(scores, |data| {
        let (mut max, mut sum) = (vec![0f32; rows], vec![0f32; rows]);
        let block = (kernels::BLOCK_ELEMENTS / width.max(1)).max(1);
        data.par_chunks_mut(block * width).zip(max.par_chunks_mut(block)).zip(sum.par_chunks_mut(block)).for_each(
            |((data, max), sum)| {
                kernels::vectorized(
                    (data, max, sum),
                    #[inline(always)]
                    |(data, max, sum)| {
                        for ((row, max), sum) in data.chunks_exact_mut(width).zip(max).zip(sum) {
                            (*max, *sum) = exponentiate_row(row, scale);
                        }
                    },
                );
            },
        );
        if let Ok(mut collected) = collected.lock() {
            *collected = (max, sum);
        }
    })?;
    collected.into_inner().map_err(|_| candle_core::Error::Msg("a softmax row panicked".to_owned()))
}

#[inline(always)]
fn exponentiate_row(row: &mut [f32], scale: f32) -> (f32, f32) {
    let max = lane_max(row) * scale; // a softmax scale is positive
    for x in row.iter_mut() {
        *x = kernels::exp(x.mul_add(scale, -max));
    }
    (
        max,
        lane_sum(
            row,
            #[inline(always)]
            |x| x,
        ),
    )
}

/// Joins the segments' parts into rows of (tokens, heads · head_dim).
fn merge(parts: &[Part], out: &mut [f32], heads: usize, head_dim: usize) -> Result<()> {
    let tokens = out.len() / (heads * head_dim).max(1);
    for part in parts {
        with_slice(&part.weighted, |weighted| {
            kernels::for_each_row(
                out,
                heads * head_dim,
                #[inline(always)]
                |token, row| {
                    for (head, row) in row.chunks_exact_mut(head_dim).enumerate() {
                        let place = head * tokens + token;
                        let factor = share(parts, part, place);
                        let weighted = &weighted[place * head_dim..][..head_dim];
                        for (y, x) in row.iter_mut().zip(weighted) {
                            *y = x.mul_add(factor, *y);
                        }
                    }
                },
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// The factor that makes `part`'s sum at `place` a share of the softmax over all parts.
#[inline(always)]
fn share(parts: &[Part], part: &Part, place: usize) -> f32 {
    let max = parts.iter().fold(f32::NEG_INFINITY, |max, p| max.max(p.max[place]));
    let total: f32 = parts.iter().map(|p| p.sum[place] * (p.max[place] - max).exp()).sum();
    (part.max[place] - max).exp() / total
}

fn attend_spelled_out(queries: &Tensor, segments: &[&KeyValue], scale: f64) -> Result<Tensor> {
    let (heads, tokens, head_dim) = queries.dims3()?;
    let scores = segments.iter().map(|s| queries.matmul(&s.keys.t()?)).collect::<Result<Vec<_>>>()?;
    let scores = (Tensor::cat(&scores, D::Minus1)?.to_dtype(DType::F32)? * scale)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(queries.dtype())?;
    let mut start = 0;
    let mut sum: Option<Tensor> = None;
    for segment in segments {
        let count = segment.keys.dim(1)?;
        let part = weights.narrow(D::Minus1, start, count)?.contiguous()?.matmul(&segment.values)?;
        sum = Some(sum.map_or(Ok(part.clone()), |sum| sum + part)?);
        start += count;
    }
    let Some(sum) = sum else { bail!("attention needs keys") };
    sum.transpose(0, 1)?.reshape((tokens, heads * head_dim))
}

/// Rotation angles of consecutive tokens: cosines and sines, each (tokens, head_dim / 2), float32.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl Rotation {
    /// The angles of `count` tokens from `start` on; a view.
    pub fn narrow(&self, start: usize, count: usize) -> Result<Self> {
        Ok(Self { cos: self.cos.narrow(0, start, count)?, sin: self.sin.narrow(0, start, count)? })
    }
}

/// What is done to each head's vector on the way from a projection's output to attention.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadOptions<'a> {
    /// Added first; (channels).
    pub bias: Option<&'a Tensor>,
    /// Divide the vector by max(‖·‖₂, 1e-12).
    pub unit: bool,
    /// Then multiply by the head's sharpness; (heads).
    pub sharpness: Option<&'a [f32]>,
    /// Then turn neighbouring channel pairs by the token's angles.
    pub rotation: Option<&'a Rotation>,
}

/// Splits columns `offset .. offset + channels` of `xs` (rows · tokens, width) into heads: (rows, heads, tokens,
/// head_dim), with bias, normalisation and rotation on the way.
pub fn split_heads(
    xs: &Tensor,
    offset: usize,
    (rows, heads, head_dim): (usize, usize, usize),
    options: HeadOptions<'_>,
) -> Result<Tensor> {
    let (count, width) = xs.dims2()?;
    if rows == 0 || count % rows != 0 || offset + heads * head_dim > width || head_dim % 2 != 0 {
        bail!("cannot split {:?} at {offset} into {rows} rows of {heads} heads of {head_dim}", xs.dims());
    }
    let tokens = count / rows;
    if let Some(rotation) = options.rotation {
        let expected = (tokens, head_dim / 2);
        if rotation.cos.dims2()? != expected || rotation.sin.dims2()? != expected {
            bail!("rotation of shape {:?} does not fit {expected:?}", rotation.cos.dims());
        }
    }
    if !is_cpu_f32(xs) {
        return split_spelled_out(xs, offset, (rows, heads, head_dim), options);
    }
    let bias = optional_row(options.bias)?;
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
                let mut factor = options.sharpness.map_or(1.0, |s| s[head]);
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
        xs = xs.broadcast_mul(&Tensor::from_slice(sharpness, (1, heads, 1, 1), xs.device())?)?;
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
        // 3 heads x 30,000 keys leave room for 16 queries a band.
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
        let sharpness = [0.5, 2.0, 3.0];
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
