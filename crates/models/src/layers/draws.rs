//! What lies between two scales of a picture: the guided logits, the bits drawn from them, the sum of the bits' codes, and the
//! next scale's input.
//!
//! Each function runs where its input is. On a GPU these are kernels of ours, which give the bits of the CPU bit by bit and its
//! codes to the last digit or two, and the host learns of a scale only whether its logits were finite: one number. candle's
//! operations do the same there with the logits and the bits going through the host.
//!
//! A bit is drawn in f64. A device's exponential may differ from the CPU's in the last digit of an f64, which decides about one
//! bit in 10^15.

use candle_core::{DType, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use super::cuda;
use super::resize::resize_bilinear;
use crate::random::CounterRng;

/// How a bit is chosen from its pair of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Whether the larger logit decides.
    pub is_greedy: bool,
    /// A value with probability 1 − top_p or less is never drawn; 0 disables this.
    pub top_p: f64,
}

/// The bits of one picture that are to be drawn.
#[derive(Debug)]
pub struct Draw<'a> {
    /// Pairs (bit 0, bit 1), f32, of any shape.
    pub logits: &'a Tensor,
    /// How each bit is chosen.
    pub choice: Choice,
    /// The picture's random numbers, one for each bit.
    pub rng: &'a mut CounterRng,
}

/// Returns the sum of tensors times their weights; all of one shape, at least one.
pub fn weighted_sum(terms: &[(&Tensor, f64)]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes_sum(terms) {
        return cuda::weighted_sum(terms);
    }
    let mut sum: Option<Tensor> = None;
    for (term, weight) in terms {
        let term = (*term * *weight)?;
        sum = Some(match sum {
            None => term,
            Some(sum) => (sum + term)?,
        });
    }
    sum.map_or_else(|| bail!("a sum needs a term"), Ok)
}

/// Draws the bits of several pictures: u8, one for each pair, where the logits are. Returns `None` if a logit is not finite:
/// the networks have overflowed, and any bit would be a lie.
///
/// On a GPU this waits until the logits are computed.
pub fn draw(draws: &mut [Draw<'_>]) -> Result<Option<Vec<Tensor>>> {
    #[cfg(feature = "cuda")]
    if draws.iter().all(|draw| cuda::takes_f32(draw.logits)) && !draws.is_empty() {
        return cuda::draw(draws);
    }
    let mut bits = Vec::with_capacity(draws.len());
    for Draw { logits, choice, rng } in draws {
        let values = logits.flatten_all()?.to_vec1::<f32>()?;
        if !values.iter().all(|logit| logit.is_finite()) {
            return Ok(None);
        }
        let drawn = draw_bits(&values, *choice, rng);
        bits.push(Tensor::from_vec(drawn, values.len() / 2, logits.device())?);
    }
    Ok(Some(bits))
}

/// Draws every bit independently from its pair of logits. One uniform number is consumed per bit, in the order (scale,
/// token, bit), even where the outcome is certain, so the n-th bit of a picture always uses the n-th number of its seed.
/// `logits` holds pairs (bit 0, bit 1). Returns one byte per bit.
pub fn draw_bits(logits: &[f32], choice: Choice, rng: &mut CounterRng) -> Vec<u8> {
    let mut uniforms = vec![0f32; logits.len() / 2];
    rng.fill_uniform(&mut uniforms);
    let pairs = logits.chunks_exact(2);
    if choice.is_greedy {
        return pairs.map(|pair| u8::from(pair[1] > pair[0])).collect();
    }
    pairs.zip(uniforms).map(|(pair, u)| u8::from(f64::from(u) < probability_of_one(pair, choice.top_p))).collect()
}

/// Returns the probability of a 1. A value with probability 1 − top_p or less gets probability 0.
fn probability_of_one(pair: &[f32], top_p: f64) -> f64 {
    let one = 1.0 / (1.0 + (f64::from(pair[0]) - f64::from(pair[1])).exp());
    if top_p > 0.0 && one <= 1.0 - top_p {
        0.0
    } else if top_p > 0.0 && 1.0 - one <= 1.0 - top_p {
        1.0
    } else {
        one
    }
}

/// Returns the sum of codes (batch, depth, height, width) plus those of one scale's bits (batch, h, w, depth), 0 or 1 as u8,
/// resized bilinearly without antialiasing.
pub fn add_codes(sum: &Tensor, bits: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes_f32(sum) && bits.dtype() == DType::U8 {
        return cuda::add_codes(sum, bits);
    }
    let (_, _, height, width) = sum.dims4()?;
    sum + resize_bilinear(&bits_to_codes(bits, sum.dtype())?, height, width)?
}

/// Converts bits (batch, h, w, depth) to codes (batch, depth, h, w): ±1 / √depth.
fn bits_to_codes(bits: &Tensor, dtype: DType) -> Result<Tensor> {
    let scale = code(bits.dim(3)?);
    bits.to_dtype(dtype)?.affine(2.0 * scale, -scale)?.permute((0, 3, 1, 2))?.contiguous()
}

/// The value that stands for a 1.
pub(super) fn code(depth: usize) -> f64 {
    1.0 / (depth as f64).sqrt()
}

/// Returns a sum of codes (batch, depth, height, width) resized bilinearly without antialiasing (four neighbours also when
/// shrinking), as tokens (batch, h · w, depth).
pub fn code_tokens(sum: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::takes_f32(sum) {
        return cuda::code_tokens(sum, (height, width));
    }
    resize_bilinear(sum, height, width)?.flatten_from(2)?.transpose(1, 2)?.contiguous()
}

#[cfg(test)]
mod tests;
