//! The folder of a network as published on Hugging Face: configuration and weights under their usual file names.

use std::{fs::File, io::Read, path::Path};

use serde::de::DeserializeOwned;

use super::error::SimilarityError;
use echogen_checkpoint::Checkpoint;

/// File name of the configuration.
const CONFIG: &str = "config.json";

/// File names of the weights, in order of preference.
const WEIGHTS: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];

/// Maximum length of a configuration in bytes. They are a few kilobytes; the bound limits memory if the path is wrong.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// A folder, and the network that it must contain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published<'a> {
    pub(super) folder: &'a Path,
    /// The repository, such as `facebook/dino-vits16`.
    pub(super) model: &'static str,
    /// The `model_type` in `config.json`.
    pub(super) kind: &'static str,
}

impl Published<'_> {
    /// Reads the configuration and checks that it is of this type of network.
    pub(super) fn config<T: DeserializeOwned>(&self) -> Result<T, SimilarityError> {
        let path = self.folder.join(CONFIG);
        let read = |source| SimilarityError::Read { path: path.clone(), source };
        if !path.is_file() {
            return Err(self.missing(CONFIG));
        }
        let mut text = String::new();
        File::open(&path).map_err(read)?.take(MAX_CONFIG_BYTES).read_to_string(&mut text).map_err(read)?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| self.unfit(error.to_string()))?;
        match value.get("model_type").and_then(|kind| kind.as_str()) {
            Some(kind) if kind == self.kind => {}
            Some(other) => return Err(self.unfit(format!("it describes a network of type {other:?}"))),
            None => return Err(self.unfit("it has no model_type".to_owned())),
        }
        serde_json::from_value(value).map_err(|error| self.unfit(error.to_string()))
    }

    /// Opens the weights.
    pub(super) fn weights(&self) -> Result<Checkpoint, SimilarityError> {
        let path = WEIGHTS.iter().map(|name| self.folder.join(name)).find(|path| path.is_file());
        let path = path.ok_or_else(|| self.missing("model.safetensors (or pytorch_model.bin)"))?;
        Ok(Checkpoint::open(&path)?)
    }

    /// Returns the error that the folder lacks `file`.
    pub(super) fn missing(&self, file: &'static str) -> SimilarityError {
        SimilarityError::Missing { folder: self.folder.to_owned(), file, model: self.model }
    }

    /// Returns the error that the configuration is not usable.
    pub(super) fn unfit(&self, reason: String) -> SimilarityError {
        let reason = format!("{reason}; take the one of {}", self.model);
        SimilarityError::Config { path: self.folder.join(CONFIG), reason }
    }
}
