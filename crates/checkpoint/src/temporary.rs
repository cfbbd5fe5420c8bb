//! Files that get their name only once they are whole.

use std::fs::File;
use std::io;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Creates a file in the folder of `path`, under a name that no other process has: a process number would not do, since
/// it is the same in every container. Renaming it to `path` is atomic, dropping it removes it. It has the permissions of
/// any newly created file.
pub(crate) fn beside(path: &Path) -> io::Result<NamedTempFile> {
    // A bare name has the empty path as its parent, which is no folder that could be opened.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let create = |path: &Path| File::options().write(true).create_new(true).open(path);
    let name = path.file_name().unwrap_or_default();
    Builder::new().prefix(name).suffix(".partial").make_in(folder, create)
}
