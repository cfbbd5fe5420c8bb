//! Finds bundles by name: in each folder, `NAME/bundle.toml` or `NAME.toml`.

use super::{Bundle, BundleError, MANIFEST_FILE};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

impl Bundle {
    /// Opens a bundle by name or by path. The name of a bundle is that of its folder or TOML file; the first of
    /// `folders` that contains it is used.
    ///
    /// A value is taken as a path if it contains a separator, ends in `.toml`, or is a folder with a manifest.
    ///
    /// # Errors
    /// There is no such bundle, or its manifest is malformed.
    pub fn find(name: &str, folders: &[PathBuf]) -> Result<Self, BundleError> {
        let path = Path::new(name);
        if path.components().count() > 1 || name.ends_with(".toml") || path.join(MANIFEST_FILE).is_file() {
            return Self::open(path);
        }
        match installed(folders).remove(name) {
            Some(path) => Self::open(&path),
            None => {
                let known = installed(folders).into_keys().collect();
                Err(BundleError::Unknown { name: name.to_owned(), known })
            }
        }
    }
}

/// Returns the paths of the manifests in `folders` by bundle name. If a name occurs in several folders, the first
/// folder takes precedence. Unreadable folders are treated as empty.
pub fn installed(folders: &[PathBuf]) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten() {
        let path = entry.path();
        let manifest = path.join(MANIFEST_FILE);
        let is_file = path.extension().is_some_and(|extension| extension == "toml");
        let manifest = match () {
            () if manifest.is_file() => manifest,
            () if is_file && !path.ends_with(MANIFEST_FILE) => path.clone(),
            () => continue,
        };
        let name = if is_file { path.file_stem() } else { path.file_name() };
        if let Some(name) = name.and_then(|name| name.to_str()) {
            found.entry(name.to_owned()).or_insert(manifest);
        }
    }
    found
}
