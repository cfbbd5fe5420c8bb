//! Sampling of bits from logits.

use super::guidance::SamplingOptions;
use crate::random::CounterRng;

/// Number of the random stream that bits are drawn from. The posterior's noise uses another stream.
pub const BIT_STREAM: u64 = 1;

/// Samples every bit independently from its pair of logits. One uniform number is consumed per bit, in the order
/// (scale, token, bit), even where the outcome is certain, so the n-th bit of a picture always uses the n-th number of
/// its seed. `logits` holds pairs (bit 0, bit 1). Returns one byte per bit.
pub fn draw_bits(logits: &[f32], options: &SamplingOptions, rng: &mut CounterRng) -> Vec<u8> {
    let mut uniforms = vec![0f32; logits.len() / 2];
    rng.fill_uniform(&mut uniforms);
    let pairs = logits.chunks_exact(2);
    if options.top_k == 1 {
        return pairs.map(|pair| u8::from(pair[1] > pair[0])).collect();
    }
    pairs.zip(uniforms).map(|(pair, u)| u8::from(f64::from(u) < probability_of_one(pair, options.top_p))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(pair: [f32; 2], options: &SamplingOptions) -> f64 {
        let logits: Vec<f32> = pair.iter().copied().cycle().take(40_000).collect();
        let bits = draw_bits(&logits, options, &mut CounterRng::new(7, BIT_STREAM));
        bits.iter().map(|bit| f64::from(*bit)).sum::<f64>() / bits.len() as f64
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let options = SamplingOptions::default();
        assert!((draws([0.0, 1.0], &options) - 0.7311).abs() < 0.01);
        assert!((draws([1.0, 0.0], &options) - 0.2689).abs() < 0.01);
    }

    #[test]
    fn top_p_settles_rare_values_and_top_k_one_is_greedy() {
        let options = SamplingOptions::default();
        assert_eq!(draws([0.0, 3.6], &options), 1.0);
        assert_eq!(draws([3.6, 0.0], &options), 0.0);
        assert!(draws([0.0, 3.6], &SamplingOptions { top_p: 0.0, ..options.clone() }) < 1.0);
        let greedy = SamplingOptions { top_k: 1, ..options };
        assert_eq!((draws([0.1, 0.2], &greedy), draws([0.2, 0.1], &greedy)), (1.0, 0.0));
    }

    #[test]
    fn settled_bits_use_up_their_number_too() {
        let mut rng = CounterRng::new(1, BIT_STREAM);
        draw_bits(&[0.0, 50.0, 50.0, 0.0], &SamplingOptions::default(), &mut rng);
        assert_eq!(rng.position(), 2);
    }
}
