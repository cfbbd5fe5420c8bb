//! Errors of bundles. Each message is one line and says what to do.

use super::{LOCK_FILE, Network};
use crate::CheckpointError;
use crate::error::{listed, shown};
use echogen_protocol::text::quoted;
use std::path::PathBuf;

/// A bundle could not be opened, checked or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No searched folder contains a bundle of that name.
    #[error("no bundle is called {}; {}", quoted(name), known_names(known))]
    Unknown {
        /// The requested name.
        name: String,
        /// The available names.
        known: Vec<String>,
    },
    /// There is no manifest at the path.
    #[error("no bundle at {}: {source}; `echogen models list` shows those that are installed", shown(path))]
    NotFound {
        /// The path given.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The manifest is not valid TOML, or it violates the manifest's schema.
    #[error("bundle manifest {}: {reason}", shown(path))]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A file of the bundle is missing.
    #[error("bundle {bundle}: {path} is missing; {}", pull_hint(bundle))]
    MissingFile {
        /// The bundle's name.
        bundle: String,
        /// The file, below the bundle's folder.
        path: String,
    },
    /// A file's length differs from the published length.
    #[error("bundle {bundle}: {path} has {found} bytes instead of {expected}; {}", pull_hint(bundle))]
    WrongSize {
        /// The bundle's name.
        bundle: String,
        /// The file, below the bundle's folder.
        path: String,
        /// The published length in bytes.
        expected: u64,
        /// The actual length in bytes.
        found: u64,
    },
    /// A file's SHA-256 differs from the published one.
    #[error(
        "bundle {bundle}: {path} has SHA-256 {found} instead of {expected}; {} to fetch it again",
        pull_hint(bundle)
    )]
    WrongDigest {
        /// The bundle's name.
        bundle: String,
        /// The file, below the bundle's folder.
        path: String,
        /// The published sum.
        expected: String,
        /// The actual sum.
        found: String,
    },
    /// A file without a published sum differs from the version that was pulled first.
    #[error(
        "bundle {bundle}: {path} has SHA-256 {found}, not {expected} as first recorded; delete it, then {}, or, if the \
         change is meant, delete {LOCK_FILE} beside it",
        pull_hint(bundle)
    )]
    Changed {
        /// The bundle's name.
        bundle: String,
        /// The file, below the bundle's folder.
        path: String,
        /// The recorded sum.
        expected: String,
        /// The actual sum.
        found: String,
    },
    /// The lock file cannot be parsed.
    #[error(
        "bundle {bundle}: {} is damaged ({reason}); restore it from a copy, or delete it if the files beside it are right: sums \
         that are not published are then recorded anew",
        shown(path)
    )]
    Lock {
        /// The bundle's name.
        bundle: String,
        /// The lock file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The bundle does not contain this network.
    #[error("bundle {bundle} has no {network}; add a [{network}] table or choose a bundle that has one")]
    NoNetwork {
        /// The bundle's name.
        bundle: String,
        /// The requested network.
        network: Network,
    },
    /// The network's architecture parameters cannot be read.
    #[error("bundle {bundle}: architecture of {network}: {reason}")]
    Config {
        /// The bundle's name.
        bundle: String,
        /// The network.
        network: Network,
        /// The reason.
        reason: String,
    },
    /// The weights of a network do not fit its architecture.
    #[error("bundle {bundle}: the weights of the {network} do not fit")]
    Weights {
        /// The bundle's name.
        bundle: String,
        /// The network.
        network: Network,
        /// The mismatch.
        #[source]
        source: Box<CheckpointError>,
    },
    /// A file of the bundle cannot be read, or the lock file cannot be written.
    #[error("bundle {bundle}: cannot {action} {}: {source}", shown(path))]
    Io {
        /// The bundle's name.
        bundle: String,
        /// The failed operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A checkpoint of the bundle cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl BundleError {
    /// Whether a file cannot be written because the folder of weights is mounted read-only or belongs to somebody else.
    pub fn is_read_only(&self) -> bool {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), ReadOnlyFilesystem | PermissionDenied))
    }
}

fn pull_hint(bundle: &str) -> String {
    format!("run `echogen models pull {bundle}`")
}

fn known_names(known: &[String]) -> String {
    match known {
        [] => "no bundle is installed; name the folder of bundles with --bundles".to_owned(),
        _ => format!("there are {}", listed(known)),
    }
}
