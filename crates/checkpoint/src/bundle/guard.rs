//! Exclusive locks between processes that share a folder of weights, also from different containers and machines.
//!
//! They are locks of the operating system on an open file. It releases them when the process ends in whatever way, so
//! none is ever stale, and nobody waits by a clock for a process that was killed.

use super::{Bundle, BundleError};
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// The file on which the process that fetches files holds a lock.
const PULL_LOCK_FILE: &str = ".pull.lock";
/// What Linux says of a network file system whose server keeps no locks (ENOLCK).
#[cfg(target_os = "linux")]
const NO_LOCKS: i32 = 37;

/// The exclusive right to fetch a bundle's files. Dropping it gives it back.
#[derive(Debug)]
pub struct PullLock {
    // Held for its lock.
    _file: File,
}

impl Bundle {
    /// Waits for the exclusive right to fetch this bundle's files into its folder of weights; `waiting` is called if another
    /// process has it. None where the file system has no locks: others may then fetch the same files at the same time.
    ///
    /// # Errors
    /// The folder cannot be created, or it cannot be written.
    pub fn pull_lock(&self, waiting: impl FnOnce()) -> Result<Option<PullLock>, BundleError> {
        let folder = self.weights.clone();
        std::fs::create_dir_all(&folder).map_err(|source| self.io("create", folder.clone(), source))?;
        let path = folder.join(PULL_LOCK_FILE);
        let locked = lock_exclusively(&path, waiting).map_err(|source| self.io("lock", path, source))?;
        Ok(locked.map(|file| PullLock { _file: file }))
    }
}

/// Returns the file at `path`, created if it is missing, with an exclusive lock; none where the file system has no locks.
pub(super) fn lock_exclusively(path: &Path, waiting: impl FnOnce()) -> io::Result<Option<File>> {
    let mut waiting = Some(waiting);
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        let locked = match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
        };
        match locked {
            // Somebody who cleans up may have deleted the file, and another have locked a new one of that name.
            Ok(()) if is_at(&file, path)? => return Ok(Some(file)),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if has_no_locks(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn has_no_locks(error: &io::Error) -> bool {
    #[cfg(target_os = "linux")]
    if error.raw_os_error() == Some(NO_LOCKS) {
        return true;
    }
    error.kind() == io::ErrorKind::Unsupported
}

/// Whether `path` still names the open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elsewhere an open file cannot be deleted.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}
