//! The published layout of DreamBench: a folder of photographs per subject, and one file that lists subjects and
//! prompts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::prompts::{Listing, Row};

/// File that lists subjects and sentences.
const LISTING: &str = "prompts_and_classes.txt";

/// Where it is in a clone of google/dreambooth.
const IN_CLONE: &str = "dataset";

/// Maximum length of that file in bytes. The published file has 4 kB.
const MAX_LISTING_BYTES: u64 = 1 << 20;

/// File name extensions of pictures, in order of preference.
pub(super) const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// One of the thirty subjects.
#[derive(Debug, PartialEq)]
pub(super) struct Subject {
    /// Name of the subject and of its folder, such as `dog6`.
    pub(super) name: String,
    /// Class name, such as `dog`.
    pub(super) class: String,
    /// Sentences to generate pictures for.
    pub(super) captions: Vec<String>,
    /// Photographs sorted by name. The first one is the input of generation.
    pub(super) photographs: Vec<PathBuf>,
}

/// Reads the subjects: those named in `only`, or all if `only` is empty.
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
