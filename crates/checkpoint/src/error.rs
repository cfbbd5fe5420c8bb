//! Errors of checkpoints. The messages say what to change.

use echogen_protocol::text::one_line;
use std::fmt;
use std::path::{Path, PathBuf};

/// Maximum number of names of each kind in one message, and of their characters together; the rest is counted.
const LISTED: usize = 20;
const LISTED_CHARS: usize = 240;

/// A checkpoint could not be opened, read, loaded or converted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be opened, read or written.
    #[error("cannot {action} {}: {source}", shown(path))]
    Io {
        /// The failed operation: "open", "map", "write" and so on.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The contents violate the format: truncated, hostile, or another format.
    #[error("{} is not a usable checkpoint: {reason}", shown(path))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The reason, and the remedy where known.
        reason: String,
    },
    /// Two tensors have the same name.
    #[error(
        "tensor {} stands in both {} and {}; give one file of each set only",
        short(name),
        shown(first),
        shown(second)
    )]
    Duplicate {
        /// The duplicated name.
        name: String,
        /// The file that contains it first.
        first: PathBuf,
        /// The file that contains it again (may be the same file).
        second: PathBuf,
    },
    /// The tensors do not fit the network.
    #[error("{0}")]
    Mismatch(Box<Mismatch>),
    /// A requested tensor does not exist.
    #[error("no tensor named {}; `Checkpoint::names` lists what there is", short(.0))]
    NoSuchTensor(String),
    /// The target of a conversion already exists.
    #[error("{} exists already; choose another name or overwrite it with --force", shown(.0))]
    TargetExists(PathBuf),
    /// The network's constructor failed.
    #[error("cannot build the network from {origin}: {source}")]
    Build {
        /// The checkpoint's file, or the first of several.
        origin: String,
        /// The constructor's error.
        source: candle_core::Error,
    },
}

impl CheckpointError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), reason: one_line(&reason.into()) }
    }
}

/// All differences between a checkpoint and a network, found in one pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// The checkpoint's file, or the first of several.
    pub origin: String,
    /// Names that the network requested and the checkpoint lacks.
    pub missing: Vec<String>,
    /// Tensors whose shape differs from the network's.
    pub misshaped: Vec<Misshaped>,
    /// Names in the checkpoint that were neither requested nor ignored.
    pub unexpected: Vec<String>,
    /// Tensors that fit but cannot be read, each with the reason.
    pub unreadable: Vec<String>,
}

/// One tensor of the wrong shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshaped {
    /// The tensor's name in the checkpoint.
    pub name: String,
    /// The shape that the network requires.
    pub expected: Vec<usize>,
    /// The shape in the checkpoint.
    pub found: Vec<usize>,
}

impl fmt::Display for Misshaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (expected {:?}, found {:?})", short(&self.name), self.expected, self.found)
    }
}

impl Mismatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.misshaped.is_empty() && self.unexpected.is_empty() && self.unreadable.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checkpoint {} does not fit the configured network", self.origin)?;
        list(f, "missing", &self.missing)?;
        list(f, "mis-shaped", &self.misshaped)?;
        list(f, "unexpected", &self.unexpected)?;
        list(f, "unreadable", &self.unreadable)
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, kind: &str, items: &[T]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "; {} {kind}: {}", items.len(), listed(items))
}

/// Lists the first items, as far as they are short, and counts the others.
pub(crate) fn listed<T: fmt::Display>(items: &[T]) -> String {
    let mut text = String::new();
    let mut count = 0;
    for item in items.iter().take(LISTED) {
        let item = short(&item.to_string());
        if count > 0 && text.len() + item.len() > LISTED_CHARS {
            break;
        }
        text.push_str(if count == 0 { "" } else { ", " });
        text.push_str(&item);
        count += 1;
    }
    match items.len().saturating_sub(count) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// A name out of a file, for a message: without quotation marks, since names of tensors have none.
pub(crate) fn short(name: &str) -> String {
    const SHOWN: usize = 160;
    let line = one_line(name);
    if line.chars().nth(SHOWN).is_none() {
        return line;
    }
    let head: String = line.chars().take(SHOWN).collect();
    format!("{head}...")
}

/// A path, parts of which may be out of an index.
pub(crate) fn shown(path: &Path) -> String {
    short(&path.display().to_string())
}
