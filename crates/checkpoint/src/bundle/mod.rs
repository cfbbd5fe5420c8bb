//! Model bundles: one TOML file that lists every network, its architecture, its files with sources and sums, and the
//! sampling defaults.
//!
//! A bundle is either a folder with `bundle.toml` and its weights, or a file `NAME.toml` whose weights are in the
//! folder `NAME` beside it. Opening a bundle reads the manifest only; other files are read on demand. This module
//! downloads nothing; the command line does.

mod check;
mod convert;
mod error;
mod guard;
mod lock;
mod manifest;
mod misspelt;
mod schedule;
mod search;
#[cfg(test)]
mod tests;

pub use check::{Compared, VerifiedFile};
pub use convert::FormOf;
pub use error::BundleError;
pub use guard::PullLock;
pub use lock::LOCK_FILE;
pub use manifest::{FileManifest, Manifest, Network, NetworkManifest, SamplingDefaults, is_subject_side};
pub use schedule::{ScheduleTable, ShapeTable};
pub use search::installed;

use self::misspelt::misspelt;
use crate::Checkpoint;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use echogen_protocol::json::{self, Bounds};
use echogen_protocol::text;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// File name of the manifest in a bundle that is a folder.
pub const MANIFEST_FILE: &str = "bundle.toml";
/// Maximum length of a manifest in bytes. Manifests are a few kilobytes, and the TOML library takes up to a hundred bytes of
/// memory for each byte.
const MAX_MANIFEST_BYTES: u64 = 128 << 10;
/// Maximum length of an architecture file in bytes. Architecture files are a few kilobytes.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// A bundle on this machine: its manifest and the folder of its weights, which may not have been pulled yet.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    manifest_path: PathBuf,
    weights: PathBuf,
    digests: OnceLock<BTreeMap<String, String>>,
}

/// Which of a network's files are present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// All files are present.
    Complete,
    /// Some files are present.
    Partial,
    /// No file is present.
    Absent,
}

impl Bundle {
    /// Opens the bundle at `path`: a TOML file, or a folder with `bundle.toml`.
    ///
    /// # Errors
    /// The manifest is missing, malformed, or has unknown fields.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let is_folder = path.is_dir();
        let manifest_path = if is_folder { path.join(MANIFEST_FILE) } else { path.to_owned() };
        let beside = manifest_path.parent().unwrap_or(Path::new("")).to_owned();
        let is_folder = is_folder || path.file_name().is_some_and(|name| name == MANIFEST_FILE);
        let weights = if is_folder { beside } else { beside.join(path.file_stem().unwrap_or_default()) };
        let manifest = read_manifest(&manifest_path)?;
        Ok(Self { manifest, manifest_path, weights, digests: OnceLock::new() })
    }

    /// Returns the bundle with another folder of weights.
    #[must_use]
    pub fn with_weights(self, folder: PathBuf) -> Self {
        Self { weights: folder, digests: OnceLock::new(), ..self }
    }

    /// Returns the bundle's name.
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Returns the parsed manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the manifest's path.
    pub fn manifest_path(&self) -> &Path {
        &self.manifest_path
    }

    /// Returns the folder that contains the weights.
    pub fn weights_folder(&self) -> &Path {
        &self.weights
    }

    /// Returns the path of a file of the bundle.
    pub fn path_of(&self, file: &FileManifest) -> PathBuf {
        self.weights.join(&file.path)
    }

    /// Returns the architecture parameters of a network, from its `config` table or its `config_file`. Parameters that
    /// are absent from both take the defaults of `T`.
    ///
    /// # Errors
    /// The bundle lacks the network or the file, a parameter has the wrong type, or the table has a misspelt one.
    pub fn config<T: DeserializeOwned>(&self, network: Network) -> Result<T, BundleError> {
        let table = self.network(network)?;
        let wrong = |reason: String| {
            let reason = one_line(&reason);
            BundleError::Config { bundle: self.name().to_owned(), network, reason }
        };
        let Some(file) = table.config_file.as_deref().and_then(|path| table.file(path)) else {
            let config = table.config.clone().unwrap_or_default();
            if let Some((name, meant)) = misspelt::<T>(&config) {
                return Err(wrong(format!("no parameter is called {name:?}; did you mean {meant:?}?")));
            }
            return config.try_into().map_err(|error: toml::de::Error| wrong(one_line(&error.to_string())));
        };
        let path = self.path_of(file);
        if self.metadata(file)?.len() > MAX_CONFIG_BYTES as u64 {
            return Err(wrong(format!("{} is longer than {MAX_CONFIG_BYTES} bytes", file.path)));
        }
        let text = std::fs::read(&path).map_err(|source| self.io("read", path, source))?;
        let bounds = Bounds { bytes: MAX_CONFIG_BYTES, ..Bounds::MESSAGE };
        json::read(&text, &bounds).map_err(|error| wrong(format!("{}: {error}", file.path)))
    }

    /// Opens the checkpoint of a network and strips the network's prefix from the tensor names.
    ///
    /// # Errors
    /// The bundle lacks the network or a file, or a file is not a usable checkpoint.
    pub fn checkpoint(&self, network: Network) -> Result<Checkpoint, BundleError> {
        let table = self.network(network)?;
        for file in &table.files {
            self.metadata(file)?;
        }
        let paths: Vec<_> = table.weights.iter().map(|path| self.weights.join(path)).collect();
        let checkpoint = Checkpoint::open_all(&paths)?;
        Ok(match &table.prefix {
            Some(prefix) => checkpoint.below(prefix),
            None => checkpoint,
        })
    }

    /// Builds a network from its checkpoint, with tensors of `dtype` on `device`. As strict as [`Checkpoint::load`]:
    /// every tensor of the checkpoint must be requested by `build` or be `ignored`.
    ///
    /// # Errors
    /// As [`Bundle::checkpoint`]; also if the weights do not fit the network that `build` constructs.
    pub fn load<T>(
        &self,
        network: Network,
        (device, dtype): (&Device, DType),
        ignored: impl Fn(&str) -> bool,
        build: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<T>,
    ) -> Result<T, BundleError> {
        let loaded = self.checkpoint(network)?.load(dtype, device, ignored, build);
        let loaded = loaded.map_err(Box::new);
        loaded.map_err(|source| BundleError::Weights { bundle: self.name().to_owned(), network, source })
    }

    /// Returns the path of a network's tokenizer.
    ///
    /// # Errors
    /// The bundle lacks the network, its table names no tokenizer, or the file is missing.
    pub fn tokenizer(&self, network: Network) -> Result<PathBuf, BundleError> {
        let table = self.network(network)?;
        let file = table.tokenizer.as_deref().and_then(|path| table.file(path));
        let file = file.ok_or_else(|| BundleError::Config {
            bundle: self.name().to_owned(),
            network,
            reason: "it names no tokenizer".to_owned(),
        })?;
        self.metadata(file)?;
        Ok(self.path_of(file))
    }

    /// Returns which of a network's files are present, without reading them.
    pub fn presence(&self, network: Network) -> Presence {
        let files = self.manifest.network(network).map(|table| table.files.as_slice()).unwrap_or_default();
        let present = files.iter().filter(|file| self.path_of(file).is_file()).count();
        match present {
            0 => Presence::Absent,
            _ if present == files.len() => Presence::Complete,
            _ => Presence::Partial,
        }
    }

    fn network(&self, network: Network) -> Result<&NetworkManifest, BundleError> {
        let table = self.manifest.network(network);
        table.ok_or_else(|| BundleError::NoNetwork { bundle: self.name().to_owned(), network })
    }

    fn metadata(&self, file: &FileManifest) -> Result<Metadata, BundleError> {
        let path = self.path_of(file);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(metadata),
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(self.io("examine", path, source)),
            _ => Err(BundleError::MissingFile { bundle: self.name().to_owned(), path: file.path.clone() }),
        }
    }

    fn io(&self, action: &'static str, path: PathBuf, source: io::Error) -> BundleError {
        BundleError::Io { bundle: self.name().to_owned(), action, path, source }
    }
}

fn read_manifest(path: &Path) -> Result<Manifest, BundleError> {
    let not_found = |source| BundleError::NotFound { path: path.to_owned(), source };
    let wrong = |reason: String| BundleError::Manifest { path: path.to_owned(), reason: one_line(&reason) };
    let length = std::fs::metadata(path).map_err(not_found)?.len();
    if length > MAX_MANIFEST_BYTES {
        return Err(wrong(format!("{length} bytes are more than a manifest's {MAX_MANIFEST_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(not_found)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let manifest: Manifest = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
    manifest.check().map_err(wrong)?;
    Ok(manifest)
}

/// TOML errors quote the faulty line over several lines; our messages are one line of bounded length.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('|'));
    let lines = lines.filter(|line| !line.trim_matches(['^', ' ', '|']).is_empty()).collect::<Vec<_>>();
    text::one_line(&lines.join(" "))
}
