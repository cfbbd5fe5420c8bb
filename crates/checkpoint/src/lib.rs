//! Reading of published checkpoint files, and model bundles.
//!
//! A [`Checkpoint`] is one or several files: `.safetensors`, sharded with an index, or PyTorch's `.pth`. Opening maps
//! the files and reads only their tables of contents. A tensor's bytes are read when a network requests it, and are
//! then converted to the dtype the network computes in. [`Checkpoint::load`] is strict: one error lists every tensor
//! that is missing, has another shape, or is unused. Files are untrusted: a truncated or hostile file gives an error,
//! never a crash, and never an allocation out of proportion to its size.
//!
//! A [`bundle::Bundle`] is a TOML file that lists every network of a model, its architecture, its files with their
//! sources and SHA-256 sums, and the sampling defaults. Computed sums are stored in a lock file beside the weights.
//!
//! Deliberately not supported: execution of code in a pickle, compressed archives, PyTorch's format before version
//! 1.6, and downloading.

pub mod bundle;

mod convert;
mod error;
mod mapped;
mod pickle;
mod pieces;
mod safetensors_file;
mod shard_index;
mod stored;
mod strict;
mod temporary;
#[cfg(test)]
mod tests;
mod torch_file;
mod unique_map;
mod weight_type;

pub use convert::{ConvertOptions, ConvertSummary, Form, Progress};
pub use error::{CheckpointError, Mismatch, Misshaped};
pub use stored::StoredType;
pub use temporary::replace_file;
pub use weight_type::{Q8_0_SUFFIX, Q8_0_WEIGHTS, UnknownWeightType, WeightType, q8_0_shape};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stored::StoredTensor;

/// The table of contents of one or several checkpoint files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    origin: PathBuf,
    tensors: Arc<BTreeMap<String, StoredTensor>>,
}

/// The tensors by name, collected while files are opened.
#[derive(Default)]
struct Tensors(BTreeMap<String, StoredTensor>);

impl Tensors {
    fn insert(&mut self, name: String, tensor: StoredTensor) -> Result<(), CheckpointError> {
        if let Some(first) = self.0.get(&name) {
            let (first, second) = (first.path().to_owned(), tensor.path().to_owned());
            return Err(CheckpointError::Duplicate { name, first, second });
        }
        self.0.insert(name, tensor);
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&StoredTensor> {
        self.0.get(name)
    }
}

impl Checkpoint {
    /// Opens a `.safetensors`, `.safetensors.index.json`, `.bin.index.json`, `.pth`, `.pt` or `.bin` file.
    ///
    /// The keys of nested dictionaries in a `.pth` are joined by dots (see [`Checkpoint::below`]).
    ///
    /// # Errors
    /// The file cannot be read, is truncated or malformed, or contains a tensor name twice.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_all(&[path.to_owned()])
    }

    /// Opens several files as one checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; also if two files contain a tensor of the same name.
    pub fn open_all(paths: &[PathBuf]) -> Result<Self, CheckpointError> {
        let mut tensors = Tensors::default();
        for path in paths {
            if path.extension().is_some_and(|extension| extension == "json") {
                shard_index::open(path, &mut tensors)?;
            } else {
                open_weights(path, &mut tensors)?;
            }
        }
        Ok(Self { origin: paths.first().cloned().unwrap_or_default(), tensors: Arc::new(tensors.0) })
    }

    /// Returns the tensors below the key `prefix` with the prefix stripped, or all tensors if none has the prefix.
    ///
    /// So `below("trainer.gpt_fsdp")` handles both a training snapshot and a flat export.
    #[must_use]
    pub fn below(self, prefix: &str) -> Self {
        let prefix = format!("{prefix}.");
        let below: BTreeMap<_, _> = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor.clone())))
            .collect();
        if below.is_empty() { self } else { Self { tensors: Arc::new(below), ..self } }
    }

    /// Returns the names of all tensors in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(StoredTensor::shape)
    }

    /// Returns the element type in which a tensor is stored.
    pub fn stored_type(&self, name: &str) -> Option<StoredType> {
        self.tensors.get(name).map(StoredTensor::dtype)
    }

    /// Reads one tensor, converted to `dtype`.
    ///
    /// # Errors
    /// There is no tensor of that name, or candle does not support its type.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor, CheckpointError> {
        let stored = self.tensors.get(name).ok_or_else(|| CheckpointError::NoSuchTensor(name.to_owned()))?;
        let read = stored.read(dtype, device);
        read.map_err(|error| {
            CheckpointError::malformed(stored.path(), format!("tensor {}: {error}", error::short(name)))
        })
    }

    /// Builds a network strictly: every tensor that `build` requests must exist with that shape, and every tensor of
    /// the checkpoint must be requested unless `ignored` returns true for it (buffers, unused heads).
    ///
    /// `vb.contains_tensor(name)` gives the true answer, so a network can detect the key layout;
    /// `vb.get_unchecked(name)` reads a tensor of any shape. A request for a missing tensor or for another shape
    /// returns zeros (one element, broadcast), so that the constructor continues and one error lists all faults.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] with all faults, or the constructor's own error.
    pub fn load<T>(
        &self,
        dtype: DType,
        device: &Device,
        ignored: impl Fn(&str) -> bool,
        build: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<T>,
    ) -> Result<T, CheckpointError> {
        strict::load(self, dtype, device, ignored, build)
    }

    /// Writes all tensors to one `.safetensors` file, one tensor at a time.
    ///
    /// # Errors
    /// The target exists and may not be overwritten, it cannot be written, or a tensor cannot be converted.
    pub fn convert(
        &self,
        target: &Path,
        options: ConvertOptions,
        progress: Progress<'_>,
    ) -> Result<ConvertSummary, CheckpointError> {
        convert::convert(self, target, options, progress)
    }

    /// As [`Checkpoint::convert`]; `form` says for each tensor, by name and shape, what becomes of it.
    ///
    /// # Errors
    /// As [`Checkpoint::convert`].
    pub fn convert_each(
        &self,
        target: &Path,
        overwrite: bool,
        form: &dyn Fn(&str, &[usize]) -> Form,
        progress: Progress<'_>,
    ) -> Result<ConvertSummary, CheckpointError> {
        convert::convert_each(self, target, overwrite, form, progress)
    }

    fn origin(&self) -> String {
        self.origin.display().to_string()
    }
}

fn open_weights(path: &Path, tensors: &mut Tensors) -> Result<(), CheckpointError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => safetensors_file::open(path, tensors),
        Some("pth" | "pt" | "bin" | "ckpt") => torch_file::open(path, tensors),
        _ => Err(CheckpointError::malformed(
            path,
            "its ending says no known format; give .safetensors, .safetensors.index.json, .pth, .pt or .bin",
        )),
    }
}
