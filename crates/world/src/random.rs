//! The one source of random numbers: by seed, stream and position, so that any number can be computed alone.
//!
//! The words are those of SplitMix64, which mixes a counter. Floats are made of the upper 24 bits, so they are exact
//! in f32.

/// A stream of random numbers of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    key: u64,
    position: u64,
}

/// SplitMix64's increment: the fractional part of the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

impl Draw {
    /// Creates a stream at its beginning. Each purpose has its own stream number.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self { key: mix(mix(seed.wrapping_add(STEP)) ^ stream.wrapping_mul(STEP)), position: 0 }
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.position = self.position.wrapping_add(1);
        mix(self.key.wrapping_add(self.position.wrapping_mul(STEP)))
    }

    /// Returns a number in [0, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Returns a number in [low, high).
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Returns an integer below `count`, which must not be zero. The bias of the modulo is below 2^-50 for the counts
    /// in use.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.word() % count as u64) as usize
    }

    /// Returns true with the given probability.
    pub(crate) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Returns a random element of a non-empty slice.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let words = |seed, stream| {
            let mut draw = Draw::new(seed, stream);
            [draw.word(), draw.word(), draw.word()]
        };
        assert_eq!(words(1, 2), words(1, 2));
        assert_ne!(words(1, 2), words(2, 1));
        assert_ne!(words(0, 0), words(0, 1));
    }

    #[test]
    fn units_fill_their_range() {
        let mut draw = Draw::new(3, 0);
        let numbers: Vec<f32> = (0..10_000).map(|_| draw.unit()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }
}
