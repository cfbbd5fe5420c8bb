//! The lock file: SHA-256 sums of files, stored beside the weights so that large files are not hashed at every start.
//!
//! `bundle.lock.toml` holds each file's length, modification time and SHA-256. An entry is valid only while length and
//! modification time are unchanged. For a file without a published sum, the entry records the version that was pulled
//! first, and a later change is reported as an error.
//!
//! Several processes may use one folder concurrently, also from different containers or machines:
//! - the file is replaced atomically: written under a unique temporary name in the same folder, synced to disk and
//!   renamed, so a reader sees either the old or the new file;
//! - [`Lock::update`] holds an exclusive lock on [`GUARD_FILE`] from reading to renaming, so no writer loses another
//!   writer's entries;
//! - a file that cannot be parsed is an error. If it were treated as empty, the present contents of the weights would
//!   be recorded as the version pulled first.

use super::guard::lock_exclusively;
use super::{Bundle, BundleError, one_line};
use crate::temporary::replace_file;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Name of the lock file in the folder of weights.
pub const LOCK_FILE: &str = "bundle.lock.toml";
/// An empty file on which writers hold an exclusive lock. The lock file itself cannot be used, because it is replaced.
const GUARD_FILE: &str = ".bundle.lock";
/// Maximum length of the lock file in bytes: some three thousand files.
const MAX_LOCK_BYTES: usize = 512 << 10;
/// Bytes hashed between two calls of the progress callback.
const CHUNK: usize = 1 << 20;

/// Contents of the lock file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lock {
    files: BTreeMap<String, LockedFile>,
}

/// The lock file's layout. The number of entries comes first, so a truncated file is detected.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<F> {
    entries: usize,
    files: F,
}

/// A file's metadata and sum at the time it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LockedFile {
    pub(super) size: u64,
    /// Modification time in nanoseconds since 1970, as text because TOML integers are too short for some file systems.
    pub(super) modified: String,
    pub(super) sha256: String,
}

impl LockedFile {
    pub(super) fn new(metadata: &Metadata, sha256: &str) -> Self {
        Self { size: metadata.len(), modified: modified(metadata), sha256: sha256.to_owned() }
    }
}

impl Lock {
    /// Reads the lock of a bundle. A missing file gives an empty lock; any other failure is an error.
    pub(super) fn read(bundle: &Bundle) -> Result<Self, BundleError> {
        let path = bundle.weights.join(LOCK_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(bundle.io("read", path, source)),
        };
        if text.len() > MAX_LOCK_BYTES {
            let reason = format!("it has {} bytes; the limit is {MAX_LOCK_BYTES}", text.len());
            return Err(BundleError::Lock { bundle: bundle.name().to_owned(), path, reason });
        }
        parse(&text).map_err(|reason| BundleError::Lock { bundle: bundle.name().to_owned(), path, reason })
    }

    /// Reads the lock, calls `change` on it, and writes it if it changed, while excluding other writers. Entries that
    /// `change` added are written even if `change` returns an error.
    pub(super) fn update(
        bundle: &Bundle,
        change: impl FnOnce(&mut Self) -> Result<(), BundleError>,
    ) -> Result<(), BundleError> {
        // Acquired before the lock is read and held until it is written; otherwise another writer's entries could be
        // lost.
        let _guard = guard(bundle)?;
        let before = Self::read(bundle)?;
        let mut lock = before.clone();
        let changed = change(&mut lock);
        if lock != before {
            lock.write(bundle)?;
        }
        changed
    }

    pub(super) fn get(&self, path: &str) -> Option<&LockedFile> {
        self.files.get(path)
    }

    /// Returns the recorded sum if the file's length and modification time are unchanged.
    pub(super) fn sum(&self, path: &str, metadata: &Metadata) -> Option<&str> {
        let entry = self.files.get(path)?;
        let unchanged = entry.size == metadata.len() && is_same_time(&entry.modified, &modified(metadata));
        unchanged.then_some(entry.sha256.as_str())
    }

    pub(super) fn insert(&mut self, path: String, entry: LockedFile) {
        self.files.insert(path, entry);
    }

    fn write(&self, bundle: &Bundle) -> Result<(), BundleError> {
        let path = bundle.weights.join(LOCK_FILE);
        let written = Written { entries: self.files.len(), files: &self.files };
        let written =
            toml::to_string(&written).map_err(io::Error::other).and_then(|text| replace_file(&path, text.as_bytes()));
        written.map_err(|source| bundle.io("write", path, source))
    }
}

/// Parses the contents of a lock file; the error is the reason.
fn parse(text: &[u8]) -> Result<Lock, String> {
    let written: Written<_> = toml::from_slice(text).map_err(|error| one_line(error.message()))?;
    let lock = Lock { files: written.files };
    match lock.files.len() {
        found if found == written.entries => Ok(lock),
        found => Err(format!("it has {found} of {} entries", written.entries)),
    }
}

/// Acquires the exclusive lock for writing a bundle's lock file. Dropping the returned file releases it.
fn guard(bundle: &Bundle) -> Result<Option<File>, BundleError> {
    let path = bundle.weights.join(GUARD_FILE);
    let locked = lock_exclusively(&path, || {}).map_err(|source| bundle.io("write", path.clone(), source))?;
    if locked.is_none() {
        // The lock file is still replaced atomically.
        tracing::warn!(path = %path.display(), "files cannot be locked here; verify one at a time");
    }
    Ok(locked)
}

fn modified(metadata: &Metadata) -> String {
    let time = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.map_or_else(String::new, |time| time.as_nanos().to_string())
}

/// Whether two modification times are the same. Archives, of which images and their volumes are made, keep whole seconds only.
fn is_same_time(recorded: &str, found: &str) -> bool {
    const DIGITS_BELOW_A_SECOND: usize = 9;
    let parts = |time: &str| {
        let (seconds, below) = time.split_at_checked(time.len().checked_sub(DIGITS_BELOW_A_SECOND)?)?;
        Some((seconds.to_owned(), below.bytes().all(|digit| digit == b'0')))
    };
    match (parts(recorded), parts(found)) {
        (Some((recorded, _)), Some((found, true))) if recorded == found => true,
        _ => recorded == found,
    }
}

/// Returns the SHA-256 of a file in hexadecimal. `progress` receives the number of bytes read since its last call.
pub(super) fn sha256_of(path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        progress(count as u64);
    }
}
