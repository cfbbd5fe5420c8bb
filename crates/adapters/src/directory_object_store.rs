//! Objects as files below a folder.
//!
//! Writes are atomic: a file is written in the same folder under a hidden name, flushed to the disk, and only then renamed.
//! No part of a key begins with a dot, so the two kinds of names never collide. A process that is killed during a write
//! leaves such a hidden file, and nothing else.

mod listing;

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey, ObjectStore, check_list_prefix, object_too_large, spawn_blocking};
use tempfile::NamedTempFile;

/// An object store in a folder.
#[derive(Clone, Debug)]
pub struct DirectoryObjectStore {
    root: PathBuf,
}

impl DirectoryObjectStore {
    /// Opens the store at `root`, creates the folder if necessary, and checks that it can be written to.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, Fault> {
        let root = root.into();
        make_folder(&root).map_err(|error| write_error(&root, error))?;
        temporary(&root).map_err(|error| write_error(&root, error))?;
        Ok(Self { root })
    }

    /// Where the object of a key is, or would be.
    pub fn path(&self, key: &ObjectKey) -> PathBuf {
        // A key's parts are plain names, so the path stays below the root.
        key.as_str().split('/').fold(self.root.clone(), |path, part| path.join(part))
    }
}

#[async_trait]
impl ObjectStore for DirectoryObjectStore {
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        let (path, key) = (self.path(key), key.clone());
        spawn_blocking(move || read(&path, &key, max_bytes)).await?
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault> {
        let path = self.path(key);
        spawn_blocking(move || {
            let written = write_beside(&path, &bytes).and_then(|file| Ok(file.persist(&path)?));
            written.and_then(|_| sync_folder_of(&path)).map_err(|error| write_error(&path, error))
        })
        .await?
    }

    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        let path = self.path(key);
        spawn_blocking(move || put_if_absent(&path, &bytes).map_err(|error| write_error(&path, error))).await?
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        let path = self.path(key);
        spawn_blocking(move || match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.is_file()),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(read_error(&path, error)),
        })
        .await?
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault> {
        let path = self.path(key);
        spawn_blocking(move || match fs::remove_file(&path) {
            Err(error) if !is_absent(&error) => Err(write_error(&path, error)),
            _ => Ok(()),
        })
        .await?
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault> {
        check_list_prefix(prefix)?;
        let folder = prefix.split_terminator('/').fold(self.root.clone(), |path, part| path.join(part));
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        spawn_blocking(move || {
            listing::list(&folder, &prefix, after.as_ref(), limit).map_err(|error| read_error(&folder, error))
        })
        .await?
    }
}

fn read(path: &Path, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
    let failed = |error| read_error(path, error);
    let file = match File::open(path) {
        Err(error) if is_absent(&error) => return Ok(None),
        file => file.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    if metadata.len() > max_bytes {
        return Err(object_too_large(key, metadata.len(), max_bytes));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // The limit holds even if the file grows after its size was checked.
    file.take(max_bytes).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes.into()))
}

fn put_if_absent(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(there) if there.is_file() => return Ok(false),
        // A folder is not an object, and no object can have its name.
        Ok(_) => return Err(ErrorKind::IsADirectory.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match write_beside(path, bytes)?.persist_noclobber(path) {
        Ok(_) => sync_folder_of(path).map(|()| true),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    }
}

/// Writes a temporary file in the folder of `path`, flushed to the disk and ready to be renamed; dropping it removes it.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let folder = path.parent().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    make_folder(folder)?;
    let mut file = temporary(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn temporary(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tmp-");
    // Temporary files are private by default; these become results, which follow the umask as other files do.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// Creates a folder and its parents, durably.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    folder.ancestors().take_while(|above| !above.as_os_str().is_empty()).try_for_each(|above| match sync(above) {
        // A parent that existed before may not be readable for this user, and needs no flush.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    })
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync)
}

/// Flushes a folder: a new name is durable only after that. Systems other than Unix cannot open a folder and need not.
#[cfg(unix)]
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether the file does not exist; also if a part of its path is a file.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn read_error(path: &Path, error: io::Error) -> Fault {
    Fault::unavailable(format!("cannot read {}: {error}", path.display())).because(error)
}

/// The fault for an I/O error: what an operator may do about it, and whether a retry can succeed after that.
fn write_error(path: &Path, error: io::Error) -> Fault {
    let shown = path.display();
    let advice = match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists | ErrorKind::IsADirectory => {
            let message =
                format!("cannot write {shown}: a file and a folder want the same name; choose another folder");
            return Fault::refused(message).because(error);
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space or choose another folder",
        ErrorKind::PermissionDenied => "allow writing there or choose another folder",
        ErrorKind::ReadOnlyFilesystem => "choose a folder on a disk that can be written to",
        _ => "check the disk or choose another folder",
    };
    Fault::unavailable(format!("cannot write {shown}: {error}; {advice}")).because(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use echogen_testkit::contract;

    use super::*;

    fn store() -> (tempfile::TempDir, DirectoryObjectStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryObjectStore::open(folder.path().join("deep/er")).unwrap();
        (folder, store)
    }

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let number = std::sync::atomic::AtomicU32::new(0);
        let fresh = async || {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Arc::new(DirectoryObjectStore::open(folder.path().join(number.to_string())).unwrap())
                as Arc<dyn ObjectStore>
        };
        contract::object_store_contract(fresh).await;
    }

    #[tokio::test]
    async fn objects_are_plain_files_that_others_may_read_and_nothing_else_is_left() {
        let (_folder, store) = store();
        store.put(&key("jobs/one/0.png"), "1".into()).await.unwrap();
        store.put(&key("jobs/one/0.png"), "22".into()).await.unwrap();
        assert!(store.put_if_absent(&key("jobs/one/result.json"), "{}".into()).await.unwrap());
        assert!(!store.put_if_absent(&key("jobs/one/result.json"), "[]".into()).await.unwrap());
        let path = store.path(&key("jobs/one/0.png"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "22");
        let mut names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0.png", "result.json"]);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
            let plain = _folder.path().join("plain");
            fs::write(&plain, "").unwrap();
            let usual = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&plain).unwrap().permissions());
            assert_eq!(mode, usual);
        }
    }

    #[tokio::test]
    async fn what_stands_there_is_found_by_the_next_process() {
        let (_folder, store) = store();
        store.put(&key("a/b"), "1".into()).await.unwrap();
        let again = DirectoryObjectStore::open(store.root.clone()).unwrap();
        assert_eq!(again.get(&key("a/b"), 10).await.unwrap().unwrap(), "1");
    }

    #[tokio::test]
    async fn a_folder_is_no_object_and_nothing_is_below_a_file() {
        let (_folder, store) = store();
        store.put(&key("a/b"), "1".into()).await.unwrap();
        assert_eq!(store.get(&key("a"), 10).await.unwrap(), None);
        assert!(!store.exists(&key("a")).await.unwrap());
        assert_eq!(store.get(&key("a/b/c"), 10).await.unwrap(), None);
        for (at, what) in [("a/b/c", "below a file"), ("a", "over a folder")] {
            let error = store.put(&key(at), "2".into()).await.unwrap_err();
            assert!(error.is_permanent() && error.to_string().contains("choose another folder"), "{what}: {error}");
            let error = store.put_if_absent(&key(at), "2".into()).await.unwrap_err();
            assert!(error.is_permanent() && error.to_string().contains("choose another folder"), "{what}: {error}");
        }
    }

    #[tokio::test]
    async fn foreign_and_unfinished_files_are_not_listed() {
        let (_folder, store) = store();
        store.put(&key("a/b"), "1".into()).await.unwrap();
        for foreign in ["a/.tmp-1", ".hidden", "a/two words", "a/ä"] {
            fs::write(store.root.join(foreign), "").unwrap();
        }
        fs::create_dir_all(store.root.join(".git/c")).unwrap();
        fs::create_dir_all(store.root.join("empty/er")).unwrap();
        fs::write(store.root.join(".git/c/d"), "").unwrap();
        assert_eq!(store.list("", None, 10).await.unwrap(), [key("a/b")]);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn linked_folders_are_listed_as_they_are_read() {
        let (folder, store) = store();
        fs::create_dir(folder.path().join("elsewhere")).unwrap();
        fs::write(folder.path().join("elsewhere/b"), "1").unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), store.root.join("a")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("nowhere"), store.root.join("broken")).unwrap();
        assert!(store.exists(&key("a/b")).await.unwrap());
        assert_eq!(store.list("", None, 10).await.unwrap(), [key("a/b")]);
    }

    #[test]
    fn a_root_that_is_a_file_is_an_error_at_once() {
        let file = NamedTempFile::new().unwrap();
        for root in [file.path().to_owned(), file.path().join("below")] {
            let error = DirectoryObjectStore::open(&root).unwrap_err();
            assert!(error.to_string().contains(&*root.to_string_lossy()), "{error}");
        }
    }

    #[test]
    fn a_full_or_locked_disk_is_transient_and_says_what_to_do() {
        for (kind, advice) in [
            (ErrorKind::StorageFull, "free some space"),
            (ErrorKind::PermissionDenied, "allow writing there"),
            (ErrorKind::ReadOnlyFilesystem, "a disk that can be written to"),
            (ErrorKind::Other, "check the disk"),
        ] {
            let error = write_error(Path::new("out/0.png"), kind.into());
            assert!(!error.is_permanent());
            assert!(error.to_string().starts_with("cannot write out/0.png") && error.to_string().contains(advice));
        }
    }

    /// Only a Linux machine where this is not the superuser can lock a folder against itself.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_folder_that_turns_unwritable_is_a_transient_error_or_the_superuser_writes_on() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, store) = store();
        fs::set_permissions(&store.root, fs::Permissions::from_mode(0o555)).unwrap();
        let written = store.put(&key("a"), "1".into()).await;
        fs::set_permissions(&store.root, fs::Permissions::from_mode(0o755)).unwrap();
        match written {
            Ok(()) => assert!(store.exists(&key("a")).await.unwrap()),
            Err(error) => assert!(!error.is_permanent(), "{error}"),
        }
    }
}
