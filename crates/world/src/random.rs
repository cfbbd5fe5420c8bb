//! The one source of random numbers: by seed, stream and position, so that any number can be computed alone.
//!
//! The words are SplitMix64's: a counter, mixed. Floats are made of the upper 24 bits, so they are exact in f32.

/// A stream of random numbers of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    key: u64,
    position: u64,
}

/// SplitMix64's step: the fractional part of the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

impl Draw {
    /// The beginning of a stream; each purpose has a stream number of its own.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self { key: mix(mix(seed.wrapping_add(STEP)) ^ stream.wrapping_mul(STEP)), position: 0 }
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.position = self.position.wrapping_add(1);
        mix(self.key.wrapping_add(self.position.wrapping_mul(STEP)))
    }

    /// A number in [0, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// A number in [low, high).
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// A whole number below `count`, which is not zero. The bias of the remainder is below 2^-50 for counts in use.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.word() % count as u64) as usize
    }

    /// Whether something of this probability happens.
    pub(crate) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// One of a list that is not empty.
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
