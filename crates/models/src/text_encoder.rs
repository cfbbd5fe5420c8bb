//! The text encoder: tokenizer and T5 encoder. Takes a prompt, returns one vector per token.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use tokenizers::Tokenizer;

use crate::t5::T5Encoder;

/// Maximum length of a tokenizer file in bytes. T5's has 2.4 MB; the bound limits memory if the path is wrong.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// A text encoder cannot be built, or a prompt cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum TextEncoderError {
    /// The tokenizer file cannot be read.
    #[error("cannot read the tokenizer file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The file is too large to be a tokenizer.
    #[error("{} has {bytes} bytes; a tokenizer file has at most {MAX_TOKENIZER_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The file is not a valid tokenizer.
    #[error("{} is no tokenizer.json of the tokenizers library", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: tokenizers::Error,
    },
    /// The tokenizer can produce token ids that the embedding table lacks.
    #[error(
        "the tokenizer has {tokens} tokens, the text encoder's table {rows} rows; take the tokenizer.json that was \
         published with the weights"
    )]
    Vocabulary {
        /// Number of tokens of the tokenizer.
        tokens: usize,
        /// Rows of the embedding table.
        rows: usize,
    },
    /// The limit leaves no space for a token beside the end token.
    #[error("max_tokens is {0}; it must be at least 2, one token and the end mark")]
    MaxTokens(usize),
    /// The tokenizer returned an error.
    #[error("cannot split the prompt into tokens")]
    Tokenize(#[source] tokenizers::Error),
    /// A tensor operation failed.
    #[error("cannot run the text encoder")]
    Network(#[from] candle_core::Error),
}

/// Tokenizer and T5 encoder.
///
/// Encodes one prompt at a time, without padding: a padded batch gives the same vectors at a higher cost.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    encoder: T5Encoder,
    max_tokens: usize,
}

impl TextEncoder {
    /// Creates a text encoder from a tokenizer and an encoder that were published together. Prompts are truncated to
    /// `max_tokens` tokens, including the end token.
    pub fn new(mut tokenizer: Tokenizer, encoder: T5Encoder, max_tokens: usize) -> Result<Self, TextEncoderError> {
        if max_tokens < 2 {
            return Err(TextEncoderError::MaxTokens(max_tokens));
        }
        // Ids may have gaps, so the largest id is compared, not the number of tokens.
        let tokens = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let rows = encoder.config().vocab_size;
        if tokens > rows {
            return Err(TextEncoderError::Vocabulary { tokens, rows });
        }
        // Some tokenizer files contain padding and post-processing, some do not. Both are removed; truncation and the
        // end token are applied here.
        tokenizer.with_padding(None).with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        tokenizer.with_truncation(None).map_err(TextEncoderError::Tokenize)?;
        Ok(Self { tokenizer, encoder, max_tokens })
    }

    /// Returns the token ids of a prompt: at most `max_tokens`, the last one is the end token.
    pub fn tokenize(&self, prompt: &str) -> Result<Vec<u32>, TextEncoderError> {
        let encoding = self.tokenizer.encode_fast(prompt, false).map_err(TextEncoderError::Tokenize)?;
        let mut ids = encoding.get_ids().to_vec();
        ids.truncate(self.max_tokens - 1);
        ids.push(self.encoder.config().eos_token_id);
        Ok(ids)
    }

    /// Returns the last hidden state of a prompt's tokens, including the end token: (tokens, channels) f32.
    ///
    /// An empty prompt gives one row, for the end token.
    pub fn encode(&self, prompt: &str) -> Result<Tensor, TextEncoderError> {
        let ids = self.tokenize(prompt)?;
        let ids = Tensor::new(ids, self.encoder.device())?.unsqueeze(0)?;
        Ok(self.encoder.forward(&ids, None)?.squeeze(0)?)
    }

    /// Returns the width of the vectors that [`encode`](Self::encode) returns.
    pub fn channels(&self) -> usize {
        self.encoder.config().d_model
    }
}

/// Reads a `tokenizer.json`.
pub fn load_tokenizer(path: &Path) -> Result<Tokenizer, TextEncoderError> {
    let read_error = |source| TextEncoderError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(read_error)?.len();
    if bytes > MAX_TOKENIZER_BYTES {
        return Err(TextEncoderError::TooLarge { path: path.to_owned(), bytes });
    }
    let content = std::fs::read(path).map_err(read_error)?;
    Tokenizer::from_bytes(content).map_err(|source| TextEncoderError::Parse { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};
    use candle_nn::VarBuilder;

    use super::*;
    use crate::t5::{FeedForwardProjection, T5Config};

    fn mini_tokenizer() -> Tokenizer {
        load_tokenizer(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini/tokenizer.json")).unwrap()
    }

    /// An encoder without blocks whose embedding of token i is (1, i), so the normed output identifies the ids.
    fn telltale_encoder(vocab_size: usize) -> T5Encoder {
        let config = T5Config {
            vocab_size,
            d_model: 2,
            num_layers: 0,
            num_heads: 1,
            feed_forward_proj: FeedForwardProjection::GatedGelu,
            ..T5Config::default()
        };
        let rows: Vec<f32> = (0..vocab_size).flat_map(|id| [1.0, id as f32]).collect();
        let tensor = |values: Vec<f32>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let weights = HashMap::from([
            ("shared.weight".to_owned(), tensor(rows, &[vocab_size, 2])),
            ("encoder.final_layer_norm.weight".to_owned(), tensor(vec![1.0; 2], &[2])),
            (
                "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight".to_owned(),
                tensor(vec![0.0; 32], &[32, 1]),
            ),
        ]);
        T5Encoder::new(VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu), &config).unwrap()
    }

    fn mini_encoder(max_tokens: usize) -> TextEncoder {
        TextEncoder::new(mini_tokenizer(), telltale_encoder(512), max_tokens).unwrap()
    }

    fn pieces(prompt: &str) -> Vec<String> {
        let encoder = mini_encoder(512);
        encoder.tokenize(prompt).unwrap().iter().map(|id| encoder.tokenizer.id_to_token(*id).unwrap()).collect()
    }

    #[test]
    fn common_words_are_one_token() {
        assert_eq!(pieces("a red  dog on a beach"), ["▁a", "▁red", "▁dog", "▁on", "▁a", "▁beach", "</s>"]);
        assert_eq!(pieces("Two balls"), ["▁", "T", "w", "o", "▁ball", "s", "</s>"]);
    }

    #[test]
    fn every_printable_character_is_known() {
        let all: String = ('!'..='~').collect();
        let spelled = pieces(&all).concat();
        assert_eq!(spelled, format!("▁{all}</s>"));
        assert_eq!(pieces("ß€"), ["▁", "<unk>", "</s>"]);
    }

    #[test]
    fn one_row_per_real_token_and_the_end_mark_last() {
        let encoder = mini_encoder(512);
        let ids = encoder.tokenize("a dog").unwrap();
        assert_eq!(ids.len(), 3);
        assert_eq!(ids[2], 1);
        let rows = encoder.encode("a dog").unwrap().to_vec2::<f32>().unwrap();
        let recovered: Vec<_> = rows.iter().map(|row| (row[1] / row[0]).round() as u32).collect();
        assert_eq!(recovered, ids);
        assert_eq!(encoder.channels(), 2);
    }

    #[test]
    fn an_empty_prompt_is_the_end_mark() {
        assert_eq!(mini_encoder(512).tokenize("").unwrap(), [1]);
        assert_eq!(mini_encoder(512).encode("").unwrap().dims(), [1, 2]);
    }

    #[test]
    fn a_long_prompt_is_cut_and_keeps_its_end_mark() {
        let encoder = mini_encoder(512);
        let ids = encoder.tokenize(&"dog ".repeat(2_000)).unwrap();
        assert_eq!(ids.len(), 512);
        assert_eq!(ids[511], 1);
        assert!(ids[..511].iter().all(|id| *id == ids[0]));
        // A prompt of exactly the maximum length is not truncated.
        assert_eq!(encoder.tokenize(&"dog ".repeat(511)).unwrap(), ids);
    }

    #[test]
    fn a_files_own_padding_and_end_mark_change_nothing() {
        let mut padded = mini_tokenizer();
        padded.with_padding(Some(tokenizers::PaddingParams {
            strategy: tokenizers::PaddingStrategy::Fixed(20),
            ..Default::default()
        }));
        let mut plain = mini_tokenizer();
        plain.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
        let expected = mini_encoder(512).tokenize("a red dog").unwrap();
        for tokenizer in [padded, plain] {
            let encoder = TextEncoder::new(tokenizer, telltale_encoder(512), 512).unwrap();
            assert_eq!(encoder.tokenize("a red dog").unwrap(), expected);
        }
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused() {
        let error = TextEncoder::new(mini_tokenizer(), telltale_encoder(511), 512).unwrap_err();
        assert!(error.to_string().starts_with("the tokenizer has 512 tokens, the text encoder's table 511 rows"));
        let error = TextEncoder::new(mini_tokenizer(), telltale_encoder(512), 1).unwrap_err();
        assert_eq!(error.to_string(), "max_tokens is 1; it must be at least 2, one token and the end mark");
    }

    #[test]
    fn unreadable_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("tokenizer.json");
        assert!(load_tokenizer(&missing).unwrap_err().to_string().contains("tokenizer.json"));
        let truncated = include_bytes!("../../../bundles/mini/tokenizer.json");
        std::fs::write(&missing, &truncated[..truncated.len() / 2]).unwrap();
        let error = load_tokenizer(&missing).unwrap_err();
        assert!(matches!(error, TextEncoderError::Parse { .. }), "{error}");
    }
}
