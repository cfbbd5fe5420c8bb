//! What can be wrong with a bundle. Each message is one line and says what to do.

use super::{LOCK_FILE, Network};
use crate::CheckpointError;
use std::path::PathBuf;

/// A bundle could not be opened, checked or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No searched folder has a bundle of the name.
    #[error("no bundle is called {name:?}; {}", known_names(known))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// There is no manifest at the path.
    #[error("no bundle at {}: {source}; `echogen models list` shows those that are installed", path.display())]
    NotFound {
        /// The path given.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The manifest is not TOML or does not say what a bundle must say.
    #[error("bundle manifest {}: {reason}", path.display())]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A file of the bundle is not there.
    #[error("bundle {bundle}: {path} is missing; {}", pull_hint(bundle))]
    MissingFile {
        /// The bundle's name.
        bundle: String,
        /// The file, below the bundle's folder.
        path: String,
    },
    /// A file has another length than published.
    #[error("bundle {bundle}: {path} has {found} bytes instead of {expected}; {}", pull_hint(bundle))]
    WrongSize {
        /// The bundle's name.
        bundle: String,
        /// The file, below the bundle's folder.
        path: String,
        /// The length published.
        expected: u64,
        /// The length found.
        found: u64,
    },
    /// A file has other contents than published.
    #[error(
        "bundle {bundle}: {path} has SHA-256 {found} instead of {expected}; {} to fetch it again",
        pull_hint(bundle)
    )]
    WrongDigest {
        /// The bundle's name.
        bundle: String,
        /// The file, below the bundle's folder.
        path: String,
        /// The sum published.
        expected: String,
        /// The sum found.
        found: String,
    },
    /// A file without a published sum has other contents than when it was first pulled.
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
        /// The sum recorded.
        expected: String,
        /// The sum found.
        found: String,
    },
    /// The lock cannot be read as what it is.
    #[error(
        "bundle {bundle}: {} is damaged ({reason}); restore it from a copy, or delete it if the files beside it are right: sums \
         that are not published are then recorded anew",
        path.display()
    )]
    Lock {
        /// The bundle's name.
        bundle: String,
        /// The lock file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// The bundle does not have this network.
    #[error("bundle {bundle} has no {network}; add a [{network}] table or choose a bundle that has one")]
    NoNetwork {
        /// The bundle's name.
        bundle: String,
        /// The network asked for.
        network: Network,
    },
    /// The network's architecture parameters cannot be read.
    #[error("bundle {bundle}: architecture of {network}: {reason}")]
    Config {
        /// The bundle's name.
        bundle: String,
        /// The network.
        network: Network,
        /// What is wrong.
        reason: String,
    },
    /// The weights of a network are not those that its architecture asks for.
    #[error("bundle {bundle}: the weights of the {network} do not fit")]
    Weights {
        /// The bundle's name.
        bundle: String,
        /// The network.
        network: Network,
        /// What does not fit.
        #[source]
        source: Box<CheckpointError>,
    },
    /// A file of the bundle cannot be read, or the lock not written.
    #[error("bundle {bundle}: cannot {action} {}: {source}", path.display())]
    Io {
        /// The bundle's name.
        bundle: String,
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A checkpoint of the bundle cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

fn pull_hint(bundle: &str) -> String {
    format!("run `echogen models pull {bundle}`")
}

fn known_names(known: &[String]) -> String {
    match known {
        [] => "no bundle is installed; name the folder of bundles with --bundles".to_owned(),
        _ => format!("there are {}", known.join(", ")),
    }
}
