//! Sums of files, remembered beside the weights so that gigabytes are not hashed at every start.
//!
//! `bundle.lock.toml` says for each file how long it was, when it was last written, and its SHA-256. An entry counts
//! only while length and time are unchanged. For a file without a published sum the entry is the record of what was
//! first pulled, and a later change is reported against it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The lock's name in the folder of weights.
pub const LOCK_FILE: &str = "bundle.lock.toml";
/// Bytes hashed between two reports of progress.
const CHUNK: usize = 1 << 20;

/// The lock file's contents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lock {
    #[serde(default)]
    files: BTreeMap<String, LockedFile>,
}

/// One file as it was when hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LockedFile {
    pub(super) size: u64,
    /// Nanoseconds since 1970, as text: TOML's integers are too short for some file systems.
    pub(super) modified: String,
    pub(super) sha256: String,
}

impl Lock {
    /// Reads the lock of a folder; an absent or unreadable one is empty, for it only spares work.
    pub(super) fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join(LOCK_FILE)).unwrap_or_default();
        toml::from_str(&text).unwrap_or_default()
    }

    pub(super) fn get(&self, path: &str) -> Option<&LockedFile> {
        self.files.get(path)
    }

    /// Returns the remembered sum if the file is still the one that was hashed.
    pub(super) fn sum(&self, path: &str, metadata: &Metadata) -> Option<&str> {
        let entry = self.files.get(path)?;
        let unchanged = entry.size == metadata.len() && entry.modified == modified(metadata);
        unchanged.then_some(entry.sha256.as_str())
    }

    pub(super) fn record(&mut self, path: &str, metadata: &Metadata, sha256: &str) {
        let entry = LockedFile { size: metadata.len(), modified: modified(metadata), sha256: sha256.to_owned() };
        self.files.insert(path.to_owned(), entry);
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let target: PathBuf = folder.join(LOCK_FILE);
        // Written beside and renamed: another process may be reading.
        let part = folder.join(format!("{LOCK_FILE}.{}", std::process::id()));
        std::fs::write(&part, text)?;
        std::fs::rename(part, target)
    }
}

fn modified(metadata: &Metadata) -> String {
    let time = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    time.map_or_else(String::new, |time| time.as_nanos().to_string())
}

/// Returns the SHA-256 of a file in hexadecimal; `progress` gets the bytes read since its last call.
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
