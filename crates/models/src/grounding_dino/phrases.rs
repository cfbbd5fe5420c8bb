//! The phrases of a caption: which tokens attend to each other, and each token's position in its phrase.

/// [CLS], [SEP], "." and "?" of BERT's vocabulary. They delimit phrases.
const DELIMITERS: [u32; 4] = [101, 102, 1012, 1029];

/// The attention mask and the position ids of a caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhraseBlocks {
    /// (tokens, tokens): whether the row's token attends to the column's.
    pub mask: Vec<bool>,
    /// (tokens): position within the phrase.
    pub position_ids: Vec<u32>,
}

impl PhraseBlocks {
    /// Splits a caption after every delimiter. The tokens up to and including a delimiter form a phrase: they attend
    /// to each other, and their positions count from 0. A delimiter at the first or last position, and tokens after
    /// the last delimiter, attend only to themselves and have position 0.
    pub fn new(input_ids: &[u32]) -> Self {
        let count = input_ids.len();
        let mut mask = vec![false; count * count];
        let mut position_ids = vec![0; count];
        (0..count).for_each(|token| mask[token * count + token] = true);
        let mut first = 0;
        for (place, _) in input_ids.iter().enumerate().filter(|(_, id)| DELIMITERS.contains(id)) {
            if place > 0 && place + 1 < count {
                for token in first..=place {
                    mask[token * count + first..=token * count + place].fill(true);
                    position_ids[token] = (token - first) as u32;
                }
            }
            first = place + 1;
        }
        Self { mask, position_ids }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_phrases_are_blocks_and_the_rest_is_alone() {
        let blocks = PhraseBlocks::new(&[101, 44, 74, 1012, 8, 1029, 9, 102]);
        assert_eq!(blocks.position_ids, [0, 0, 1, 2, 0, 1, 0, 0]);
        let sees = |row: usize| (0..8).filter(|column| blocks.mask[row * 8 + column]).collect::<Vec<_>>();
        assert_eq!(sees(0), [0]);
        assert_eq!(sees(2), [1, 2, 3]);
        assert_eq!(sees(5), [4, 5]);
        assert_eq!(sees(6), [6]);
        assert_eq!(sees(7), [7]);
    }

    #[test]
    fn short_captions_are_no_trouble() {
        assert_eq!(PhraseBlocks::new(&[]), PhraseBlocks { mask: vec![], position_ids: vec![] });
        assert_eq!(PhraseBlocks::new(&[101]), PhraseBlocks { mask: vec![true], position_ids: vec![0] });
    }
}
