//! The note beside a jobs file: which of its lines the broker has confirmed, so that the next run publishes the
//! others.
//!
//! The file is recognised by some of the confirmed lines. Failed lines are not used for that, so correcting one does
//! not change the file's identity.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use echogen_checkpoint::replace_file;
use echogen_protocol::{
    ContentHash,
    json::{self, Bounds},
};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    Failure,
    job_lines::{JobLine, JobLines},
    jobs_file::cannot_read,
};

/// Maximum number of failed lines that are kept by number. With more, the mark stops before the first one that cannot
/// be kept, so that neither the note nor the memory grows with the file.
const MAX_FAILED: usize = 10_000;

/// Maximum length of a note in bytes: that many lines of twenty digits, and the rest.
const MAX_NOTE_BYTES: usize = 512 << 10;

/// Number of confirmed lines by which the file is recognised, and the maximum size of each: 64 KiB together.
const MAX_SAMPLES: usize = 16;
const SAMPLE_BYTES: usize = 4 * 1024;

/// The broker and prefix to which lines are published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    broker: String,
    prefix: String,
}

impl Target {
    /// Creates the target from the broker's URL and the prefix.
    pub(super) fn of(url: &str, prefix: &str) -> Self {
        Self { broker: place(url), prefix: prefix.to_owned() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with the prefix {:?}", self.broker, self.prefix)
    }
}

/// Returns host and virtual host of a URL. User and password must not be written to a file; a URL that cannot be
/// parsed yields neither, and cannot be connected to.
fn place(url: &str) -> String {
    let Ok(url) = Url::parse(url) else { return String::new() };
    let (host, path) = (url.host_str().unwrap_or_default().to_ascii_lowercase(), url.path().trim_start_matches('/'));
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let is_default = path.is_empty() || path.eq_ignore_ascii_case("%2f");
    format!("{host}{port}/{}", if is_default { "%2f" } else { path })
}

/// Returns the sample by which a line is recognised; nothing for a line that is longer than a job may be.
pub(super) fn sample(line: &JobLine) -> Option<String> {
    let text = line.text.as_ref()?;
    Some(ContentHash::of(&text[..text.len().min(SAMPLE_BYTES)]).to_string())
}

/// The progress of a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Where the lines were published; notes of earlier versions lack it.
    target: Option<Target>,
    /// The mark: the broker has every line up to this one, except those that failed.
    up_to: u64,
    /// The lines that failed, to be retried.
    #[serde(default)]
    failed: BTreeSet<u64>,
    /// Samples of confirmed lines, by which the file is recognised.
    #[serde(default)]
    samples: BTreeMap<u64, String>,
    /// The first failed line that exceeds the maximum number kept.
    #[serde(skip)]
    first_lost: Option<u64>,
}

impl Note {
    /// Returns the path of a jobs file's note. A pipe has none, because its lines can be read only once.
    pub(super) fn path_of(jobs: &Path) -> Option<PathBuf> {
        let is_file = jobs != Path::new("-") && jobs.is_file();
        is_file.then(|| PathBuf::from(format!("{}.submitted", jobs.display())))
    }

    /// Creates the note of a new batch.
    pub(super) fn fresh(target: Target) -> Self {
        Self { target: Some(target), ..Self::default() }
    }

    /// Reads the note of an earlier run, if it exists. A note of another file or target is an error: lines up to its
    /// mark would be skipped although they were never published.
    pub(super) async fn open(note: &Path, jobs: &Path, target: Target) -> Result<Self, Failure> {
        let Some(found) = Self::read(note)? else { return Ok(Self::fresh(target)) };
        if let Some(before) = found.target.as_ref().filter(|before| **before != target) {
            return Err(Failure::usage(format!(
                "{} is of lines sent to {before}, and now they would go to {target}; say --restart to send the whole \
                 file there",
                note.display()
            )));
        }
        let changed = found.first_changed(jobs).await.map_err(|error| cannot_read(jobs, &error))?;
        if let Some(line) = changed {
            return Err(Failure::usage(format!(
                "{} is of another file than {}: line {line} is not the one that was sent; say --restart to send the \
                 whole file",
                note.display(),
                jobs.display()
            )));
        }
        Ok(Self { target: Some(target), ..found })
    }

    fn read(note: &Path) -> Result<Option<Self>, Failure> {
        let text = match std::fs::read_to_string(note) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::usage(format!("cannot read {}: {error}", note.display()))),
        };
        // Earlier versions stored only the mark.
        if let Ok(up_to) = text.trim().parse() {
            return Ok(Some(Self { up_to, ..Self::default() }));
        }
        json::read(text.as_bytes(), &Bounds::table(MAX_NOTE_BYTES)).map(Some).map_err(|_| {
            Failure::usage(format!("{} is no note of how far a batch is; remove it, or say --restart", note.display()))
        })
    }

    /// Returns the first sampled line that has changed since it was confirmed. Lines appended to the file do not
    /// count.
    async fn first_changed(&self, jobs: &Path) -> std::io::Result<Option<u64>> {
        let mut lines = JobLines::open(jobs).await?;
        for (number, known) in &self.samples {
            let line = loop {
                match lines.next().await? {
                    Some(line) if line.number < *number => {}
                    line => break line,
                }
            };
            let same = line.is_some_and(|line| line.number == *number && sample(&line).as_ref() == Some(known));
            if !same {
                return Ok(Some(*number));
            }
        }
        Ok(None)
    }

    /// Replaces the note atomically, so that after a crash it is either the old or the new one.
    pub(super) fn write(&self, note: &Path) -> Result<(), Failure> {
        let fault = |error: std::io::Error| {
            Failure::usage(format!("cannot note in {} how far the batch is: {error}", note.display()))
        };
        // Failed lines after the mark need no entry: every line after the mark is published again anyway.
        let failed = self.failed.range(..=self.up_to).copied().collect();
        let text = serde_json::to_string(&Self { failed, ..self.clone() }).map_err(|error| fault(error.into()))?;
        replace_file(note, (text + "\n").as_bytes()).map_err(fault)
    }

    /// Returns the mark: all lines after it are still to be published.
    pub(super) fn up_to(&self) -> u64 {
        self.up_to
    }

    /// Returns the lines that failed.
    pub(super) fn failed(&self) -> &BTreeSet<u64> {
        &self.failed
    }

    /// Returns whether another sample is wanted.
    pub(super) fn wants_samples(&self) -> bool {
        self.samples.len() < MAX_SAMPLES
    }

    /// Records that the broker has confirmed this line.
    pub(super) fn confirm(&mut self, line: u64, sample: Option<String>) {
        self.failed.remove(&line);
        if self.wants_samples() {
            self.samples.extend(sample.map(|sample| (line, sample)));
        }
    }

    /// Records that this line failed. If too many failed, the last one is dropped; it is always after the mark.
    pub(super) fn fail(&mut self, line: u64) {
        self.failed.insert(line);
        if self.failed.len() > MAX_FAILED
            && let Some(lost) = self.failed.pop_last()
        {
            self.first_lost = Some(self.first_lost.map_or(lost, |first| first.min(lost)));
        }
    }

    /// Forgets a failed line that is no longer in the file.
    pub(super) fn forget(&mut self, line: u64) {
        self.failed.remove(&line);
    }

    /// Moves the mark to just before the first line that is unfinished or was dropped; the mark never moves back.
    pub(super) fn advance(&mut self, first_open: u64) {
        let first = self.first_lost.map_or(first_open, |lost| lost.min(first_open));
        self.up_to = first.saturating_sub(1).max(self.up_to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(prefix: &str) -> Target {
        Target::of("amqp://guest:secret@127.0.0.1:5672/%2f", prefix)
    }

    #[test]
    fn the_mark_never_passes_a_line_that_is_still_open() {
        let mut note = Note::default();
        note.advance(1);
        assert_eq!(note.up_to(), 0, "line 1 is open");
        note.advance(4);
        assert_eq!(note.up_to(), 3);
        note.advance(2);
        assert_eq!(note.up_to(), 3, "it never goes back");
    }

    #[test]
    fn the_mark_stops_ahead_of_a_failed_line_that_is_one_too_many() {
        let mut note = Note::default();
        let most = u64::try_from(MAX_FAILED).unwrap();
        (2..=most + 3).rev().for_each(|line| note.fail(line));
        note.confirm(1, None);
        note.advance(most + 4);
        assert_eq!((note.failed().len(), note.up_to()), (MAX_FAILED, most + 1));
        note.confirm(2, None);
        note.fail(most + 9);
        note.advance(most + 10);
        assert_eq!(note.up_to(), most + 1, "what is lost stays lost in this run");
    }

    #[test]
    fn a_note_that_is_none_is_refused_and_one_of_an_earlier_version_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.jsonl.submitted");
        assert_eq!(Note::read(&path).unwrap(), None);
        std::fs::write(&path, "17\n").unwrap();
        assert_eq!(Note::read(&path).unwrap().unwrap().up_to(), 17);
        std::fs::write(&path, "seventeen").unwrap();
        assert!(Note::read(&path).unwrap_err().message.contains("--restart"));
    }

    #[test]
    fn what_is_written_is_read_and_says_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.jsonl.submitted");
        let mut note = Note::fresh(target("echogen"));
        note.confirm(1, sample(&JobLine { number: 1, text: Some(b"one".to_vec()) }));
        note.fail(2);
        note.advance(3);
        note.write(&path).unwrap();
        assert_eq!(Note::read(&path).unwrap(), Some(note.clone()));
        assert!(!std::fs::read_to_string(&path).unwrap().contains("secret"));
        note.fail(9);
        note.write(&path).unwrap();
        assert_eq!(Note::read(&path).unwrap().unwrap().failed().len(), 1, "line 9 is behind the mark");
    }

    #[tokio::test]
    async fn another_file_is_told_from_one_that_grew_or_was_mended() {
        let folder = tempfile::tempdir().unwrap();
        let (jobs, path) = (folder.path().join("jobs.jsonl"), folder.path().join("jobs.jsonl.submitted"));
        let mut note = Note::fresh(target("echogen"));
        for (number, text) in [(1, "one"), (3, "three")] {
            note.confirm(number, sample(&JobLine { number, text: Some(text.into()) }));
        }
        note.fail(2);
        note.advance(4);
        note.write(&path).unwrap();
        for same in ["one\ntwo\nthree", "one\nmended\nthree\nfour\n", "one\n\nthree\n"] {
            std::fs::write(&jobs, same).unwrap();
            assert_eq!(Note::open(&path, &jobs, target("echogen")).await.unwrap(), note, "{same:?}");
        }
        for other in ["", "one\ntwo\n", "one\nthree\n", "ONE\ntwo\nthree\n", "one\ntwo\n\nthree\n"] {
            std::fs::write(&jobs, other).unwrap();
            let error = Note::open(&path, &jobs, target("echogen")).await.unwrap_err();
            assert!(error.message.contains("another file") && error.message.contains("--restart"), "{other:?}");
        }
    }

    #[test]
    fn a_broker_is_known_by_its_host_and_virtual_host() {
        let plain = place("amqp://guest:guest@rabbit:5672/%2f");
        assert_eq!(plain, "rabbit:5672/%2f");
        for same in ["amqps://other:p%40ss@Rabbit:5672", "amqp://rabbit:5672/%2F?heartbeat=10", "amqp://rabbit:5672/"] {
            assert_eq!(place(same), plain, "{same}");
        }
        for other in ["amqp://rabbit/%2f", "amqp://guest:guest@rabbit:5672/dogs", "amqp://hare:5672/%2f"] {
            assert_ne!(place(other), plain, "{other}");
        }
    }
}
