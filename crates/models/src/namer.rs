//! The subject namer: Qwen2.5-VL with its tokenizer, a fixed question, and a bounded answer.

use candle_core::Tensor;
use image::RgbImage;
use std::ops::ControlFlow;
use tokenizers::Tokenizer;

use crate::qwen2_5_vl::{Qwen, QwenInput, QwenProcessorConfig, QwenProcessorError};

/// The question asked about every picture.
pub const QUESTION: &str = "What is the main subject of this picture? Answer with its name only, one to four words, \
                            without an article.";

/// Maximum number of generated tokens. Four words need at most about twelve.
const MAX_NEW_TOKENS: usize = 24;

/// Maximum number of pixels of the namer's input: 512 merged cells, which suffices to recognise a subject and bounds
/// the time.
const MAX_PIXELS: usize = 512 * 28 * 28;

/// Maximum number of words and of characters of a name; the rest of an answer is discarded.
const MAX_WORDS: usize = 6;
const MAX_CHARS: usize = 60;

/// Words that are removed from the beginning of an answer.
const LEADING_WORDS: [&str; 12] =
    ["a", "an", "the", "this", "that", "it", "it's", "is", "there", "answer", "subject", "main"];

/// A picture could not be named.
#[derive(Debug, thiserror::Error)]
pub enum NamerError {
    /// The tokenizer and the network do not belong together.
    #[error(
        "the tokenizer has {tokens} tokens, the namer's table {rows} rows; take the tokenizer.json published with it"
    )]
    Vocabulary {
        /// Number of tokens of the tokenizer.
        tokens: usize,
        /// Rows of the token embedding table.
        rows: usize,
    },
    /// The tokenizer returned an error.
    #[error("cannot split the question into tokens")]
    Tokenize(#[source] tokenizers::Error),
    /// The picture cannot be preprocessed.
    #[error(transparent)]
    Picture(#[from] QwenProcessorError),
    /// A tensor operation failed.
    #[error("cannot run the namer")]
    Network(#[from] candle_core::Error),
}

/// Names subjects.
#[derive(Debug)]
pub struct SubjectNamer {
    model: Qwen,
    tokenizer: Tokenizer,
    processor: QwenProcessorConfig,
    /// Prompt tokens before and after the picture.
    around: (Vec<u32>, Vec<u32>),
}

impl SubjectNamer {
    /// Creates a namer from a model and a tokenizer that were published together.
    ///
    /// # Errors
    ///
    /// If the tokenizer can produce token ids that the model's embedding table lacks.
    pub fn new(model: Qwen, mut tokenizer: Tokenizer) -> Result<Self, NamerError> {
        let tokens = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let rows = model.config().text.vocab_size;
        if tokens > rows {
            return Err(NamerError::Vocabulary { tokens, rows });
        }
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(NamerError::Tokenize)?;
        let before = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n";
        let after = format!("{QUESTION}<|im_end|>\n<|im_start|>assistant\n");
        let ids = |text: &str| {
            let encoding = tokenizer.encode_fast(text, false).map_err(NamerError::Tokenize)?;
            Ok::<_, NamerError>(encoding.get_ids().to_vec())
        };
        let around = (ids(before)?, ids(&after)?);
        let published = QwenProcessorConfig::default();
        Ok(Self { model, tokenizer, processor: published.clone(), around }.with_preparation(published))
    }

    /// Sets the preprocessing that a bundle configures. `max_pixels` is limited to this module's bound.
    #[must_use]
    pub fn with_preparation(mut self, preparation: QwenProcessorConfig) -> Self {
        let max_pixels = preparation.max_pixels.min(MAX_PIXELS);
        self.processor = QwenProcessorConfig { max_pixels, ..preparation };
        self
    }

    /// Names the subject of a picture. `keep_going` is called before every further token; when it returns false,
    /// generation stops and the tokens so far are used. Returns `None` if the answer contains no name.
    ///
    /// # Errors
    ///
    /// If one side of the picture is more than 200 times as long as the other, or a tensor operation fails.
    pub fn name(&self, picture: &RgbImage, keep_going: &dyn Fn() -> bool) -> Result<Option<String>, NamerError> {
        let config = self.model.config();
        let patches = self.processor.patches(picture, &config.vision)?;
        let cells = patches.grid.tokens(config.vision.spatial_merge_size);
        let mut input_ids = self.around.0.clone();
        input_ids.push(config.vision_start_token_id);
        input_ids.extend(std::iter::repeat_n(config.image_token_id, cells));
        input_ids.push(config.vision_end_token_id);
        input_ids.extend_from_slice(&self.around.1);
        let input = QwenInput { input_ids: &input_ids, pixel_values: &patches.pixel_values, grids: &[patches.grid] };
        let mut state = self.model.prefill(&input)?;
        let observe =
            |_: u32, _: &Tensor| if keep_going() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        let tokens = self.model.greedy(&mut state, MAX_NEW_TOKENS, observe)?;
        let answer = self.tokenizer.decode(&tokens, true).map_err(NamerError::Tokenize)?;
        Ok(noun_phrase(&answer))
    }
}

/// Extracts the name from an answer: its first phrase in lower case, without leading articles and filler words.
/// Returns `None` if there is none.
pub fn noun_phrase(answer: &str) -> Option<String> {
    let answer: String = answer.chars().take(1_000).collect::<String>().to_lowercase();
    let is_end = |c: char| matches!(c, '.' | ',' | ';' | ':' | '?' | '!' | '\n' | '\r' | '(' | '|');
    // "the subject is: a dog": the name follows the colon.
    let phrases = answer.split(is_end);
    let words = |phrase: &str| {
        let clean = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
        let words = phrase.split(|c: char| c.is_whitespace() || c.is_control()).map(clean);
        let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
        let first = words.iter().position(|word| !LEADING_WORDS.contains(&word.as_str())).unwrap_or(words.len());
        words[first..].iter().take(MAX_WORDS).cloned().collect::<Vec<_>>()
    };
    let words = phrases.map(words).find(|words| !words.is_empty())?;
    let mut name = String::new();
    for word in words {
        let longer = if name.is_empty() { word } else { format!("{name} {word}") };
        if longer.chars().count() > MAX_CHARS {
            break;
        }
        name = longer;
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_cleaned_to_a_name() {
        for (answer, expected) in [
            ("Dog", "dog"),
            ("A golden retriever.", "golden retriever"),
            ("The main subject is: a red mug", "red mug"),
            ("\"Teddy bear\"\nIt sits on a chair.", "teddy bear"),
            ("this is a cat, sleeping", "cat"),
            ("  **coffee-maker** ", "coffee-maker"),
        ] {
            assert_eq!(noun_phrase(answer).as_deref(), Some(expected), "{answer:?}");
        }
    }

    #[test]
    fn empty_and_endless_answers_are_no_trouble() {
        for answer in ["", " \n", "...", "the", "\u{0}\u{7}", "!?!"] {
            assert_eq!(noun_phrase(answer), None, "{answer:?}");
        }
        let endless = noun_phrase(&"dog ".repeat(100_000)).unwrap();
        assert_eq!(endless, "dog dog dog dog dog dog");
        assert_eq!(noun_phrase(&"x".repeat(10_000)), None);
        assert!(noun_phrase(&format!("dog {}", "x".repeat(500))).unwrap() == "dog");
    }
}
