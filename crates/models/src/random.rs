//! The only source of random numbers: a counter-based generator, so that any draw can be recomputed from its index.
//!
//! Philox4x32 with 10 rounds (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). It has no hidden
//! state: the seed is the key, and the counter is (block number, stream), so the draws of one job cannot depend on
//! other jobs. Stored results depend on the following order, which must not change:
//!
//! - key = (low, high half of the seed); counter = (low, high half of the block number, low, high half of the stream);
//! - word `i` of a stream is word `i mod 4` of block `i / 4`;
//! - uniform `i` is made of word `i`: its upper 24 bits times 2^-24, in [0, 1), exact in f32;
//! - normals `2b` and `2b + 1` are made of block `b` (Box–Muller in f64): with u = ((words 0, 1 as a little-endian
//!   64-bit number) / 2^11 + 1) 2^-53, in (0, 1], and v = ((words 2, 3) / 2^11) 2^-53, they are sqrt(-2 ln u) cos(2 pi
//!   v) and sqrt(-2 ln u) sin(2 pi v), rounded to f32.
//!
//! Not suitable for cryptography.

use std::f64::consts::TAU;

/// Words per block.
const BLOCK: u64 = 4;

/// Multipliers of a Philox4x32 round.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// Increments of the key per round (golden ratio and sqrt(3) - 1, as 32-bit fractions).
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// A seeded stream of random numbers with a position; the module documentation states the exact order.
///
/// Each purpose (noise of the subject, bits of the picture, ...) has its own stream number under the job's seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRng {
    seed: u64,
    stream: u64,
    /// Index of the next word that a `fill_` method uses.
    position: u64,
}

impl CounterRng {
    /// Creates the stream `stream` of the seed, at position 0.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { seed, stream, position: 0 }
    }

    /// Returns the seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Returns the number of the stream.
    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// Returns the index of the next word that a `fill_` method uses.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Sets the position, forwards or backwards.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Returns uniform number `index` of the stream, in [0, 1) with 24 bits. Does not change the position.
    pub fn uniform_at(&self, index: u64) -> f64 {
        f64::from(uniform(self.block(index / BLOCK)[(index % BLOCK) as usize]))
    }

    /// Returns standard normal number `index` of the stream. Does not change the position.
    pub fn normal_at(&self, index: u64) -> f32 {
        normal_pair(self.block(index / 2))[(index % 2) as usize]
    }

    /// Fills `out` with uniforms in [0, 1), one word each, from the position on.
    pub fn fill_uniform(&mut self, out: &mut [f32]) {
        let mut block_number = self.position / BLOCK;
        let mut skip = (self.position % BLOCK) as usize;
        self.position = self.position.wrapping_add(out.len() as u64);
        let mut rest = out;
        while !rest.is_empty() {
            let words = self.block(block_number);
            let take = rest.len().min(words.len() - skip);
            let (now, later) = rest.split_at_mut(take);
            for (value, word) in now.iter_mut().zip(&words[skip..]) {
                *value = uniform(*word);
            }
            (rest, skip, block_number) = (later, 0, block_number.wrapping_add(1));
        }
    }

    /// Fills `out` with standard normals, starting at the next whole block (two normals per block; the second one of
    /// the last block is discarded if the length is odd).
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        let mut block_number = self.position.div_ceil(BLOCK);
        for pair in out.chunks_mut(2) {
            pair.copy_from_slice(&normal_pair(self.block(block_number))[..pair.len()]);
            block_number = block_number.wrapping_add(1);
        }
        self.position = block_number.wrapping_mul(BLOCK);
    }

    fn block(&self, number: u64) -> [u32; 4] {
        let ([block_low, block_high], [stream_low, stream_high]) = (halves(number), halves(self.stream));
        philox([block_low, block_high, stream_low, stream_high], halves(self.seed))
    }
}

/// Returns the low and the high half.
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// Ten rounds of Philox4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let [low_0, high_0] = halves(u64::from(MULTIPLIERS[0]) * u64::from(counter[0]));
        let [low_1, high_1] = halves(u64::from(MULTIPLIERS[1]) * u64::from(counter[2]));
        counter = [high_1 ^ counter[1] ^ key[0], low_1, high_0 ^ counter[3] ^ key[1], low_0];
    }
    counter
}

fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 / (1 << 24) as f32
}

fn normal_pair(words: [u32; 4]) -> [f32; 2] {
    let wide = |low: u32, high: u32| ((u64::from(high) << 32 | u64::from(low)) >> 11) as f64;
    let scale = 1.0 / (1u64 << 53) as f64;
    let radius = (-2.0 * ((wide(words[0], words[1]) + 1.0) * scale).ln()).sqrt();
    let (sin, cos) = (TAU * wide(words[2], words[3]) * scale).sin_cos();
    [(radius * cos) as f32, (radius * sin) as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer tests published by the authors of Random123 (`kat_vectors`, philox4x32, 10 rounds).
    #[test]
    fn equals_the_published_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), answer);
    }

    #[test]
    fn the_counter_holds_block_and_stream_and_the_key_the_seed() {
        let rng = CounterRng::new(0x299f_31d0_a409_3822, 0x0370_7344_1319_8a2e);
        let words = rng.block(0x85a3_08d3_243f_6a88);
        assert_eq!(words, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn the_first_draws_of_seed_zero_never_change() {
        let mut rng = CounterRng::new(0, 0);
        let mut uniforms = [0.0; 4];
        rng.fill_uniform(&mut uniforms);
        let words = [0x6627e8u32, 0xe169c5, 0xbc57ac, 0x9b00db];
        assert_eq!(uniforms, words.map(|word| word as f32 / 16_777_216.0));
        let u = ((0xe169_c58d_6627_e8d5u64 >> 11) + 1) as f64 / 9_007_199_254_740_992.0;
        let v = (0x9b00_dbd8_bc57_ac4cu64 >> 11) as f64 / 9_007_199_254_740_992.0;
        let expected = (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos();
        assert_eq!(CounterRng::new(0, 0).normal_at(0), expected as f32);
    }

    #[test]
    fn filling_in_pieces_equals_filling_at_once_and_looking_up() {
        let mut whole = [0.0; 23];
        CounterRng::new(7, 3).fill_uniform(&mut whole);
        let mut rng = CounterRng::new(7, 3);
        let mut pieces = [0.0; 23];
        let (first, rest) = pieces.split_at_mut(5);
        let (second, third) = rest.split_at_mut(1);
        for piece in [first, second, third] {
            rng.fill_uniform(piece);
        }
        assert_eq!(whole, pieces);
        assert_eq!(rng.position(), 23);
        for (index, value) in whole.iter().enumerate() {
            assert_eq!(rng.uniform_at(index as u64), f64::from(*value));
        }
    }

    #[test]
    fn normals_begin_and_end_on_a_block() {
        let mut rng = CounterRng::new(7, 3);
        rng.fill_uniform(&mut [0.0; 5]);
        let mut normals = [0.0; 3];
        rng.fill_normal(&mut normals);
        assert_eq!(normals, [4, 5, 6].map(|index| rng.normal_at(index)));
        assert_eq!(rng.position(), 16);
        rng.seek(5);
        let mut again = [0.0; 3];
        rng.fill_normal(&mut again);
        assert_eq!(again, normals);
    }

    #[test]
    fn streams_and_seeds_differ() {
        let draw = |seed, stream| CounterRng::new(seed, stream).uniform_at(0);
        assert_ne!(draw(1, 0), draw(1, 1));
        assert_ne!(draw(1, 0), draw(2, 0));
        assert_ne!(draw(1, 0), draw(1 << 32, 0));
        assert_ne!(draw(0, 1), draw(0, 1 << 32));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let count = 100_000;
        let mut values = vec![0f32; count];
        let moments = |values: &[f32]| {
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count as f64;
            let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count as f64;
            (mean, variance)
        };
        // The bounds are five standard errors. The draws are fixed, so the test is deterministic.
        let mut rng = CounterRng::new(42, 0);
        rng.fill_uniform(&mut values);
        assert!(values.iter().all(|v| (0.0..1.0).contains(v)));
        let (mean, variance) = moments(&values);
        assert!((mean - 0.5).abs() < 0.005 && (variance - 1.0 / 12.0).abs() < 0.002, "{mean} {variance}");
        rng.fill_normal(&mut values);
        let (mean, variance) = moments(&values);
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.025, "{mean} {variance}");
    }
}
