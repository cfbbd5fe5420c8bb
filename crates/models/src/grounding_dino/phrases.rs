//! A caption's phrases: which tokens see each other, and where each stands in its phrase.

/// [CLS], [SEP], "." and "?" of BERT's vocabulary: what ends a phrase.
const DELIMITERS: [u32; 4] = [101, 102, 1012, 1029];

/// The mask and the positions of a caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhraseBlocks {
    /// (tokens, tokens): whether the row's token sees the column's.
    pub mask: Vec<bool>,
    /// (tokens): place within the phrase.
    pub position_ids: Vec<u32>,
}

impl PhraseBlocks {
    /// Cuts a caption after every delimiter. Tokens up to and including one form a block: they see each other and are
    /// counted from 0. A delimiter at the very first or last place, and what follows the last delimiter, see only
    /// themselves at position 0.
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
