//! To come.

use std::path::Path;

use crate::compare::{Comparison, Fixture};

pub(crate) fn run(folder: &Path) -> anyhow::Result<Vec<Comparison>> {
    Fixture::open(folder)?.finish()
}
