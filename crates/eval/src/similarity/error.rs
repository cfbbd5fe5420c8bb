//! Errors of the similarity networks. The messages say what to change.

use std::path::PathBuf;

use echogen_checkpoint::CheckpointError;
use echogen_imaging::ImageError;
use echogen_models::text_encoder::TextEncoderError;

/// A similarity network cannot be loaded or evaluated.
#[derive(Debug, thiserror::Error)]
pub enum SimilarityError {
    /// A file is missing.
    #[error("{} has no {file}; it takes the files of {model} as published on Hugging Face", folder.display())]
    Missing {
        /// The given folder.
        folder: PathBuf,
        /// The missing file.
        file: &'static str,
        /// The repository whose files are required.
        model: &'static str,
    },
    /// The configuration cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The configuration is of another type of network, or of a variant that is not supported.
    #[error("{} is not usable: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The reason, and which model to use instead.
        reason: String,
    },
    /// The weights do not fit the configuration.
    #[error("the weights do not fit")]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TextEncoderError),
    /// The tokenizer belongs to another model.
    #[error("{} does not go with the weights: {reason}; take the one published with them", path.display())]
    OtherTokenizer {
        /// The file.
        path: PathBuf,
        /// The mismatch.
        reason: String,
    },
    /// The picture cannot be preprocessed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A tensor operation failed.
    #[error("cannot run the judge")]
    Network(#[from] candle_core::Error),
}
