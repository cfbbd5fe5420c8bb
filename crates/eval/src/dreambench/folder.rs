//! DreamBench as it is published: a folder of photographs for each subject, and one file that says what is to be made.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::prompts::{Listing, Row};

/// What says which subjects and sentences there are.
const LISTING: &str = "prompts_and_classes.txt";

/// Where it is in a clone of google/dreambooth.
const IN_CLONE: &str = "dataset";

/// The published file has 4 kB.
const MAX_LISTING_BYTES: u64 = 1 << 20;

/// Endings of pictures, in the order in which they are looked for.
pub(super) const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// One of the thirty.
#[derive(Debug, PartialEq)]
pub(super) struct Subject {
    /// Such as `dog6`; also the folder's name.
    pub(super) name: String,
    /// Such as `dog`.
    pub(super) class: String,
    /// The sentences.
    pub(super) captions: Vec<String>,
    /// By their names; the first one is shown to the networks that make pictures.
    pub(super) photographs: Vec<PathBuf>,
}

/// Reads which subjects there are; of those, `only` the named ones unless none is named.
pub(super) fn read(folder: &Path, only: &[String]) -> Result<Vec<Subject>> {
    let folder = [folder.to_owned(), folder.join(IN_CLONE)].into_iter().find(|folder| folder.join(LISTING).is_file());
    let folder = folder.context(
        "the folder of --dreambench has no prompts_and_classes.txt; give a clone of google/dreambooth or its `dataset`",
    )?;
    let path = folder.join(LISTING);
    let length = std::fs::metadata(&path).map(|metadata| metadata.len());
    ensure!(length.is_ok_and(|length| length <= MAX_LISTING_BYTES), "{} is too long to be a list", path.display());
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let listing = Listing::parse(&text).with_context(|| path.display().to_string())?;
    if let Some(unknown) = only.iter().find(|name| listing.rows.iter().all(|row| row.name != **name)) {
        let known: Vec<&str> = listing.rows.iter().map(|row| row.name.as_str()).collect();
        bail!("--subjects: there is no {unknown:?}; there are {}", known.join(", "));
    }
    let wanted = listing.rows.iter().filter(|row| only.is_empty() || only.contains(&row.name));
    wanted.map(|row| subject(&folder, row, &listing)).collect()
}

fn subject(folder: &Path, row: &Row, listing: &Listing) -> Result<Subject> {
    let folder = folder.join(&row.name);
    let missing = || format!("{LISTING} lists {}, but there is no folder {}", row.name, folder.display());
    let entries = std::fs::read_dir(&folder).with_context(missing)?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>().with_context(missing)?;
    let mut photographs: Vec<PathBuf> = paths.into_iter().filter(|path| is_picture(path)).collect();
    photographs.sort();
    ensure!(!photographs.is_empty(), "the folder {} has no pictures ({})", folder.display(), ENDINGS.join(", "));
    let (name, class) = (row.name.clone(), row.class.clone());
    Ok(Subject { name, class, captions: listing.captions(row), photographs })
}

fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) && path.is_file()
}
