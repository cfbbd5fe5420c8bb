//! A whole file as bytes, mapped into memory: only the pages that are touched are ever read.

use crate::CheckpointError;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A read-only file in memory.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    /// `None` for an empty file, which cannot be mapped.
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
    // SAFETY: the mapping is read-only and every access goes through a bounds-checked slice. What no check can
    // rule out is another process changing the file meanwhile: weights are treated as immutable once installed
    // (downloads and conversions write beside the target and rename), and numbers read from them decide nothing
    // about memory after the header has been parsed once.
    unsafe { memmap2::Mmap::map(file) }.map_err(|source| CheckpointError::io("map", path, source))
}
