//! The jobs of a file of JSON lines. Fields that a line lacks are taken from defaults, and relative picture paths
//! start at the file's folder.

use std::path::{Path, PathBuf};

use echogen_protocol::{ImageLocation, ImageSource, Job, text::one_line};
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
        Ok(Self { lines, total, defaults, folder })
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

    /// Returns the job of a line, or what is wrong with the line.
    pub fn job(&self, line: &JobLine) -> Result<Job, String> {
        let mut job = parsed(line, &self.defaults)?;
        job.subject.image = beside(&self.folder, job.subject.image);
        Ok(job)
    }
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
