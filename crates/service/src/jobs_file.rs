//! The jobs of a file of JSON lines. Fields that a line lacks are taken from defaults, and relative picture paths
//! start at the file's folder.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use echogen_protocol::{ContentHash, ImageLocation, ImageSource, Job, JobId, text::one_line};
use serde_json::{Map, Value};

use crate::{
    Failure,
    job_lines::{self, JobLine, JobLines, wrong_form},
};

/// Default fields for the jobs of lines that lack them.
pub type JobFields = Map<String, Value>;

/// A jobs file that is being read.
pub struct JobsFile {
    lines: JobLines,
    total: Option<u64>,
    defaults: JobFields,
    folder: PathBuf,
    content_ids: Option<ContentIds>,
}

impl JobsFile {
    /// Opens a file; `-` is standard input.
    pub async fn open(path: &Path, defaults: JobFields) -> Result<Self, Failure> {
        if path.is_dir() {
            return Err(Failure::usage(format!("{} is a folder; give a file of JSON lines", path.display())));
        }
        let total = job_lines::count(path).await.map_err(|error| cannot_read(path, &error))?;
        let lines = JobLines::open(path).await.map_err(|error| cannot_read(path, &error))?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { lines, total, defaults, folder, content_ids: None })
    }

    /// The same file, whose jobs without an id get one that follows from their pictures, the bundle and their other fields.
    #[must_use]
    pub fn with_content_ids(mut self, ids: ContentIds) -> Self {
        self.content_ids = Some(ids);
        self
    }

    /// Returns the number of lines, if it can be known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Returns the next line that is not empty, or `None` at the end. Cancel safe.
    pub async fn next_line(&mut self) -> Result<Option<JobLine>, Failure> {
        let line = self.lines.next().await;
        line.map_err(|error| Failure::usage(format!("the jobs file cannot be read on: {error}")))
    }

    /// Returns the job of a line, or what is wrong with the line. Without [`with_content_ids`](Self::with_content_ids) a job
    /// may have no id yet.
    pub fn job(&self, line: &JobLine) -> Result<Job, String> {
        // The id of a job without one follows from its picture, not from the picture's name.
        let mut job = parsed(line, &self.defaults)?.without_derived_id();
        job.subject.image = beside(&self.folder, job.subject.image);
        Ok(match &self.content_ids {
            Some(ids) if job.id.as_str().is_empty() => Job { id: JobId(format!("job-{:.32}", ids.hash(&job))), ..job },
            _ => job,
        })
    }
}

/// Derives ids from what jobs are made of.
#[derive(Clone, Debug)]
pub struct ContentIds {
    /// The name of the bundle.
    pub bundle: String,
    /// The largest picture that is read.
    pub max_image_bytes: u64,
}

impl ContentIds {
    /// Hashes all fields of the job, the bundle's name, and the content of the picture instead of its path. A picture that
    /// cannot be read counts by its path: what is wrong with it the job will say.
    pub fn hash(&self, job: &Job) -> String {
        let mut bare = job.clone();
        let read = match job.subject.image.location() {
            Ok(ImageLocation::File(path)) => hash_of_file(Path::new(path), self.max_image_bytes).ok(),
            _ => None,
        };
        if let Some(hash) = read {
            bare.subject.image = ImageSource::stored(hash);
        }
        let fields = serde_json::to_string(&bare).unwrap_or_default();
        ContentHash::of(format!("{fields}\n{}", self.bundle).as_bytes()).to_string()
    }
}

/// A picture over the size limit is rejected later with a clear message; for the id its first bytes are sufficient.
fn hash_of_file(path: &Path, max_bytes: u64) -> std::io::Result<ContentHash> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(max_bytes).read_to_end(&mut bytes)?;
    Ok(ContentHash::of(&bytes))
}

pub(crate) fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    let path = one_line(&path.display().to_string());
    Failure::usage(format!("cannot read the jobs file {path}: {error}; give a file of JSON lines"))
}

/// Parses the job of a line; missing fields are taken from `defaults`.
pub(crate) fn parsed(line: &JobLine, defaults: &JobFields) -> Result<Job, String> {
    let Some(text) = &line.text else { return Err("the line is longer than a job may be; shorten it".to_owned()) };
    Job::parse_with(text, defaults).map_err(|error| match wrong_form(text) {
        Some(what) => format!("the line {what}"),
        // A line has a number of its own.
        None => error.to_string().replace(" at line 1 column ", " at column "),
    })
}

/// Rejects a job with a callback. The embedded pipeline ends with its last job, so nothing would retry a callback
/// whose server does not answer at once.
pub(crate) fn without_callback(job: Job) -> Result<Job, String> {
    match job.callback {
        None => Ok(job),
        Some(_) => {
            Err("callback: is called only for jobs that go through RabbitMQ; take it out, or use `echogen submit`"
                .to_owned())
        }
    }
}

/// Resolves a picture's relative path against the jobs file's folder, so that both can be moved and run from anywhere.
fn beside(folder: &Path, image: ImageSource) -> ImageSource {
    match image.location() {
        Ok(ImageLocation::File(path)) if Path::new(path).is_relative() => match folder.join(path).to_str() {
            Some(path) => ImageSource(path.to_owned()),
            None => image,
        },
        _ => image,
    }
}

#[cfg(test)]
pub(crate) mod forms;
#[cfg(test)]
mod tests;
