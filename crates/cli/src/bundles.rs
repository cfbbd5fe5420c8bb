//! Where model bundles are looked for.

use std::path::{Path, PathBuf};

use echogen_checkpoint::bundle::Bundle;

use crate::failure::Failure;

/// Opens the bundle that `name` means: a path, or the name of a bundle in one of [`folders`].
pub(crate) fn open(name: &str, folder: Option<&Path>) -> Result<Bundle, Failure> {
    Bundle::find(name, &folders(folder)).map_err(|error| Failure::usage(error.to_string()))
}

/// The folder given, or else `bundles` here and beside the program.
pub(crate) fn folders(given: Option<&Path>) -> Vec<PathBuf> {
    let beside_program = || std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("bundles")));
    match given {
        Some(folder) => vec![folder.to_owned()],
        None => std::iter::once(PathBuf::from("bundles")).chain(beside_program()).collect(),
    }
}
