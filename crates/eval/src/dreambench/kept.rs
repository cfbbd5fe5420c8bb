//! Pictures kept on disk by a run, so that a later run can reuse them.
//!
//! `KEEP/SUBJECT/03-1.png` is the second picture of the fourth sentence. `made-with.json` beside it records the
//! settings, so pictures made with other settings are never reused. Pictures that were made by other programs have no
//! such file; they are measured as they are, and must be complete.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use echogen_checkpoint::replace_file;
use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use serde_json::{Map, Value};

use super::folder::{ENDINGS, Subject};

/// File that records the settings of the pictures beside it.
const SETTINGS: &str = "made-with.json";

/// Identifies one picture of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Index of the sentence.
    pub(super) caption: usize,
    /// Index of the picture among those of the sentence.
    pub(super) number: usize,
}

/// A subject with the pictures that already exist.
pub(super) struct Plan<'a> {
    pub(super) subject: &'a Subject,
    /// Every picture, with its file if it exists.
    pub(super) pictures: Vec<(Place, Option<PathBuf>)>,
    folder: Option<PathBuf>,
}

impl<'a> Plan<'a> {
    /// Finds the existing pictures of a subject in the folder `keep`, if one is given.
    pub(super) fn new(subject: &'a Subject, keep: Option<&Path>, per_caption: usize) -> Result<Self> {
        let folder = keep.map(|keep| keep.join(&subject.name));
        let places = (0..subject.captions.len())
            .flat_map(|caption| (0..per_caption).map(move |number| Place { caption, number }));
        let pictures = places.map(|place| (place, folder.as_ref().and_then(|folder| find(folder, place)))).collect();
        let plan = Self { subject, pictures, folder };
        if let (Some((place, _)), false) = (plan.missing().next(), plan.has_settings()) {
            // No pictures at all means that the run has not begun.
            ensure!(
                plan.pictures.iter().all(|(_, file)| file.is_none()),
                "the pictures of {} were made elsewhere and lack {}.png; add it, or take another --keep",
                subject.name,
                name(*place)
            );
        }
        Ok(plan)
    }

    /// Returns the pictures that do not exist yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = &(Place, Option<PathBuf>)> {
        self.pictures.iter().filter(|(_, file)| file.is_none())
    }

    /// Whether the settings of the existing pictures are recorded.
    pub(super) fn has_settings(&self) -> bool {
        self.settings_file().is_some_and(|path| path.is_file())
    }

    /// Compares the recorded settings with those of this run, or records them before the first picture is written.
    pub(super) fn agree(&self, settings: &Value) -> Result<()> {
        let Some(path) = self.settings_file() else { return Ok(()) };
        let now = serde_json::to_vec_pretty(settings)?;
        if self.pictures.iter().all(|(_, file)| file.is_none()) {
            return write(&path, &now);
        }
        if !path.is_file() {
            return Ok(());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let before: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        // Parsed from text, as the recorded settings were: the conversion may change a number's last bit.
        let others = differences(&before, &serde_json::from_slice(&now)?);
        if !others.is_empty() {
            bail!(
                "{} says that the pictures beside it were made with other settings ({}); take another --keep, or delete \
                 the pictures",
                path.display(),
                others.join(", ")
            );
        }
        Ok(())
    }

    /// Writes a picture, if a folder for pictures is given.
    pub(super) fn keep(&self, place: Place, picture: &RgbImage) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        write(&folder.join(name(place) + ".png"), &encode_image(picture, ImageFormat::Png, 100)?)
    }

    fn settings_file(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(SETTINGS))
    }
}

fn name(Place { caption, number }: Place) -> String {
    format!("{caption:02}-{number}")
}

fn find(folder: &Path, place: Place) -> Option<PathBuf> {
    ENDINGS.iter().map(|ending| folder.join(format!("{}.{ending}", name(place)))).find(|path| path.is_file())
}

/// Returns the names of the settings that differ.
fn differences(before: &Value, now: &Value) -> Vec<String> {
    let nothing = Map::new();
    let (before, now) = (before.as_object().unwrap_or(&nothing), now.as_object().unwrap_or(&nothing));
    let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter(|name| before.get(*name) != now.get(*name)).cloned().collect()
}

/// Writes a file whole or not at all: a run that is stopped leaves no half picture. Two runs that keep their pictures in
/// one folder write under different names until they rename.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        replace_file(path, bytes)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn subject() -> Subject {
        let captions = vec!["a dog".to_owned(), "a wet dog".to_owned()];
        Subject { name: "dog6".to_owned(), class: "dog".to_owned(), captions, photographs: Vec::new() }
    }

    #[test]
    fn what_is_kept_is_found_again() {
        let (folder, subject) = (tempfile::tempdir().unwrap(), subject());
        let plan = Plan::new(&subject, Some(folder.path()), 2).unwrap();
        assert_eq!((plan.pictures.len(), plan.missing().count()), (4, 4));
        let settings = json!({"seed": 42, "threshold": 0.3f32, "top_p": 1.0 / 3.0});
        plan.agree(&settings).unwrap();
        plan.keep(Place { caption: 1, number: 0 }, &RgbImage::new(2, 2)).unwrap();
        assert!(folder.path().join("dog6/01-0.png").is_file());
        let plan = Plan::new(&subject, Some(folder.path()), 2).unwrap();
        let missing: Vec<String> = plan.missing().map(|(place, _)| name(*place)).collect();
        assert_eq!(missing, ["00-0", "00-1", "01-1"]);
        plan.agree(&settings).unwrap();
    }

    #[test]
    fn pictures_of_other_settings_are_refused() {
        let (folder, subject) = (tempfile::tempdir().unwrap(), subject());
        let plan = Plan::new(&subject, Some(folder.path()), 1).unwrap();
        plan.agree(&json!({"seed": 43})).unwrap();
        // No picture has been made yet.
        plan.agree(&json!({"seed": 42, "sampling": {"top_p": 0.9}, "bundle": "mini"})).unwrap();
        plan.keep(Place { caption: 0, number: 0 }, &RgbImage::new(2, 2)).unwrap();
        let plan = Plan::new(&subject, Some(folder.path()), 1).unwrap();
        let error = plan.agree(&json!({"seed": 42, "sampling": {"top_p": 0.5}, "models": []})).unwrap_err();
        assert!(
            error.to_string().contains("other settings (bundle, models, sampling); take another --keep"),
            "{error}"
        );
    }

    #[test]
    fn pictures_made_elsewhere_must_be_complete() {
        let (folder, subject) = (tempfile::tempdir().unwrap(), subject());
        std::fs::create_dir(folder.path().join("dog6")).unwrap();
        std::fs::write(folder.path().join("dog6/00-0.jpg"), "").unwrap();
        let error = Plan::new(&subject, Some(folder.path()), 1).err().unwrap();
        assert!(error.to_string().contains("lack 01-0.png"), "{error}");
        std::fs::write(folder.path().join("dog6/01-0.webp"), "").unwrap();
        let plan = Plan::new(&subject, Some(folder.path()), 1).unwrap();
        assert_eq!((plan.missing().count(), plan.has_settings()), (0, false));
        // No picture is made, so no settings are recorded.
        plan.agree(&json!({})).unwrap();
        assert!(!plan.has_settings());
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let subject = subject();
        let plan = Plan::new(&subject, None, 3).unwrap();
        assert_eq!(plan.missing().count(), 6);
        plan.agree(&json!({})).unwrap();
        plan.keep(Place { caption: 0, number: 0 }, &RgbImage::new(2, 2)).unwrap();
    }

    #[test]
    fn what_another_run_is_writing_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (picture, other) = (folder.path().join("00-0.png"), folder.path().join("00-0.part"));
        std::fs::write(&other, "half of a picture").unwrap();
        write(&picture, b"a picture").unwrap();
        assert_eq!(std::fs::read(&picture).unwrap(), b"a picture");
        assert_eq!(std::fs::read(&other).unwrap(), b"half of a picture");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
