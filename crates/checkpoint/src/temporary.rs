//! Temporary files that are renamed to their final name when complete.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Creates a temporary file in the folder of `path`, under a name that no other process uses. A process id would not
/// be unique, because containers have separate pid namespaces. Renaming the file to `path` is atomic; dropping it
/// deletes it. It has the permissions of any newly created file.
pub(crate) fn beside(path: &Path) -> io::Result<NamedTempFile> {
    // The parent of a bare file name is the empty path, which cannot be opened.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let create = |path: &Path| File::options().write(true).create_new(true).open(path);
    let name = path.file_name().unwrap_or_default();
    Builder::new().prefix(name).suffix(".partial").make_in(folder, create)
}

/// Writes a file whole or not at all, in place of the one that may be there. The folder must exist.
pub fn replace_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = beside(path)?;
    file.write_all(contents)?;
    // Synced before the rename; otherwise a crash could leave an empty file under the final name.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}
