//! Checkpoint files as they are published, and bundles of them.
//!
//! A [`Checkpoint`] is one or several files: `.safetensors`, sharded with an index, or PyTorch's `.pth`. Opening maps the
//! files and reads their tables of contents only; a tensor's bytes are read when a network asks for it, and converted
//! then to the type it computes in. [`Checkpoint::load`] is strict: one error lists every tensor that is missing, of
//! another shape, or left over. Files are not trusted: a truncated or hostile one gives an error, never a crash, and
//! never an allocation out of proportion to its size.
//!
//! A [`bundle::Bundle`] is a TOML file that names every network of a model, its architecture, its files with their
//! sources and SHA-256 sums, and the sampling defaults. Sums that were computed are kept in a lock file beside the weights.
//!
//! What this crate deliberately lacks: running any code of a pickle, compressed archives, PyTorch's format from before
//! version 1.6, and downloading.

pub mod bundle;

mod convert;
mod error;
mod mapped;
mod pickle;
mod safetensors_file;
mod shard_index;
mod stored;
mod strict;
mod temporary;
#[cfg(test)]
mod tests;
mod torch_file;
mod unique_map;

pub use convert::{ConvertOptions, ConvertSummary, Progress};
pub use error::{CheckpointError, Mismatch, Misshaped};
pub use stored::StoredType;

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

/// Tensors by name while files are opened.
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
    /// Nested dictionaries of a `.pth` are joined by dots (see [`Checkpoint::below`]).
    ///
    /// # Errors
    /// The file cannot be read, is truncated or malformed, or names a tensor twice.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_all(&[path.to_owned()])
    }

    /// Opens several files as one checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; also if two files have a tensor of the same name.
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

    /// Returns the part below the key `prefix` with the prefix cut off, or everything if nothing lies below it.
    ///
    /// So `below("trainer.gpt_fsdp")` serves a training snapshot and a flat export alike.
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

    /// Returns the extents of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(StoredTensor::shape)
    }

    /// Returns the type a tensor is stored in.
    pub fn stored_type(&self, name: &str) -> Option<StoredType> {
        self.tensors.get(name).map(StoredTensor::dtype)
    }

    /// Reads one tensor, converted to `dtype`.
    ///
    /// # Errors
    /// There is none of that name, or its type cannot be computed with.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor, CheckpointError> {
        let stored = self.tensors.get(name).ok_or_else(|| CheckpointError::NoSuchTensor(name.to_owned()))?;
        let read = stored.read(dtype, device);
        read.map_err(|error| CheckpointError::malformed(stored.path(), format!("tensor {name}: {error}")))
    }

    /// Builds a network strictly: every tensor it asks for must be here in that shape, and every tensor here must
    /// be asked for unless `ignored` says otherwise (buffers, heads of no use).
    ///
    /// `vb.contains_tensor(name)` answers truly, so a network can choose between key layouts;
    /// `vb.get_unchecked(name)` reads a tensor of any shape. A missing or mis-shaped tensor is answered with
    /// zeros (a single element seen as many) so that the constructor runs on and the one error lists all faults.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] with everything that does not fit, or the constructor's own error.
    pub fn load<T>(
        &self,
        dtype: DType,
        device: &Device,
        ignored: impl Fn(&str) -> bool,
        build: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<T>,
    ) -> Result<T, CheckpointError> {
        strict::load(self, dtype, device, ignored, build)
    }

    /// Writes all tensors into one `.safetensors` file, tensor by tensor.
    ///
    /// # Errors
    /// The target exists and may not be overwritten, cannot be written, or a tensor cannot be converted.
    pub fn convert(
        &self,
        target: &Path,
        options: ConvertOptions,
        progress: Progress<'_>,
    ) -> Result<ConvertSummary, CheckpointError> {
        convert::convert(self, target, options, progress)
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
