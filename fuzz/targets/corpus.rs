//! The committed inputs of a target, for an ordinary test.

use std::{fs, path::Path};

/// Calls `run` with each input of the target, and returns how many there are.
pub(crate) fn each(target: &str, run: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("the folder of the target's inputs");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.map(|path| run(&fs::read(&path).expect("an input"))).count()
}
