//! What can be wrong with a judge's folder, in words that say what to change.

use std::path::PathBuf;

use echogen_checkpoint::CheckpointError;
use echogen_imaging::ImageError;
use echogen_models::text_encoder::TextEncoderError;

/// Why a judge cannot be loaded, or says nothing.
#[derive(Debug, thiserror::Error)]
pub enum SimilarityError {
    /// A file is not there.
    #[error("{} has no {file}; it takes the files of {model} as published on Hugging Face", folder.display())]
    Missing {
        /// The folder that was given.
        folder: PathBuf,
        /// What it lacks.
        file: &'static str,
        /// Whose files are wanted.
        model: &'static str,
    },
    /// The settings cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The settings are not those of such a network, or of one that cannot be computed here.
    #[error("{} is not usable: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to take instead.
        reason: String,
    },
    /// The weights do not fit the settings.
    #[error("the weights do not fit")]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer cannot be read.
    #[error(transparent)]
    Tokenizer(#[from] TextEncoderError),
    /// The tokenizer is another model's.
    #[error("{} does not go with the weights: {reason}; take the one published with them", path.display())]
    OtherTokenizer {
        /// The file.
        path: PathBuf,
        /// What does not go together.
        reason: String,
    },
    /// The picture cannot be prepared.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The network failed.
    #[error("cannot run the judge")]
    Network(#[from] candle_core::Error),
}
