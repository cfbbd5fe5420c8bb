//! The keys below a folder, in the order of their bytes.
//!
//! One folder is read at a time, and only folders that can contain a key of the answer: a page of a large store costs the
//! folders on its way and not the whole tree.

use std::{
    fs::{self, DirEntry},
    io,
    path::Path,
};

use echogen_ports::ObjectKey;

use super::is_absent;

/// Lists at most `limit` keys after `after`. `prefix` is the folder's key with a `/` behind it, or empty at the root.
pub(super) fn list(folder: &Path, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> io::Result<Vec<ObjectKey>> {
    let mut listing = Listing { after: after.map_or("", ObjectKey::as_str), limit, found: Vec::new() };
    listing.walk(folder, prefix)?;
    Ok(listing.found)
}

struct Listing<'a> {
    after: &'a str,
    limit: usize,
    found: Vec<ObjectKey>,
}

impl Listing<'_> {
    fn walk(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for name in self.names(folder, prefix)? {
            if self.found.len() >= self.limit {
                break;
            }
            let key = format!("{prefix}{name}");
            match name.strip_suffix('/') {
                Some(name) => self.walk(&folder.join(name), &key)?,
                // Anybody may put files here; one whose name no key has is not ours.
                None => self.found.extend(ObjectKey::new(key)),
            }
        }
        Ok(())
    }

    /// The names in a folder that can lead to a key of the answer, sorted; those of folders end in `/`, because their keys
    /// do not sort as the folder's name does, but as the name with a `/`.
    fn names(&self, folder: &Path, prefix: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(folder) {
            // Never there, or removed meanwhile.
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(name(&entry?)?.filter(|name| self.may_follow(prefix, name)));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn may_follow(&self, prefix: &str, name: &str) -> bool {
        let key = format!("{prefix}{name}");
        key.as_str() > self.after || (name.ends_with('/') && self.after.starts_with(&key))
    }
}

/// The name of an object or, with a `/`, of a folder; `None` for anything else.
fn name(entry: &DirEntry) -> io::Result<Option<String>> {
    let Ok(name) = entry.file_name().into_string() else { return Ok(None) };
    // Temporary files among them.
    if name.starts_with('.') {
        return Ok(None);
    }
    let mut kind = entry.file_type()?;
    if kind.is_symlink() {
        kind = match fs::metadata(entry.path()) {
            // A link to nothing, or around in a circle.
            Err(_) => return Ok(None),
            Ok(target) => target.file_type(),
        };
    }
    Ok(match kind {
        kind if kind.is_dir() => Some(format!("{name}/")),
        kind if kind.is_file() => Some(name),
        _ => None,
    })
}
