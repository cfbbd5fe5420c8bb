//! A memory-mapped file. Only pages that are accessed are read from disk.

use crate::CheckpointError;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A read-only memory-mapped file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    /// `None` for an empty file, because empty files cannot be mapped.
    map: Option<memmap2::Mmap>,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(|source| CheckpointError::io("open", path, source))?;
        let metadata = file.metadata().map_err(|source| CheckpointError::io("examine", path, source))?;
        if metadata.is_dir() {
            return Err(CheckpointError::malformed(path, "it is a folder; name the file inside"));
        }
        let map = if metadata.len() == 0 { None } else { Some(map(&file, path)?) };
        Ok(Self { path: path.to_owned(), map })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

#[expect(unsafe_code, reason = "weights are tens of gigabytes: they are mapped, not read")]
fn map(file: &File, path: &Path) -> Result<memmap2::Mmap, CheckpointError> {
    // SAFETY: the mapping is read-only and every access goes through a bounds-checked slice. The remaining hazard is
    // that another process changes the file while it is mapped. Weights are immutable once installed (downloads and
    // conversions write a temporary file and rename it), and once the header has been parsed, no value read from the
    // mapping determines a memory access.
    unsafe { memmap2::Mmap::map(file) }.map_err(|source| CheckpointError::io("map", path, source))
}
