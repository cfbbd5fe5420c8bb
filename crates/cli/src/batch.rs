//! `echogen batch`: many jobs from a file.

use std::path::{Path, PathBuf};

use echogen_protocol::{ImageLocation, ImageSource, Job};
use serde_json::{Map, Value};

use crate::{
    arguments::BatchArguments,
    failure::Failure,
    job_lines::{self, JobLine, JobLines, without_callback},
    runner::{Candidate, JobSource},
    sampling::job_of_line,
};

/// The jobs of a file.
pub(crate) struct JobsFile {
    lines: JobLines,
    defaults: Map<String, Value>,
    folder: PathBuf,
}

impl JobsFile {
    /// Opens the file; returns it and how many jobs it has, where that can be known.
    pub(crate) async fn open(arguments: &BatchArguments) -> Result<(Self, Option<u64>), Failure> {
        arguments.sampling.check().map_err(|error| Failure::usage(error.to_string()))?;
        let path = &arguments.jobs;
        let fault = |error: std::io::Error| {
            Failure::usage(format!("cannot read the jobs file {}: {error}; give a file of JSON lines", path.display()))
        };
        if path.is_dir() {
            return Err(Failure::usage(format!("{} is a folder; give a file of JSON lines", path.display())));
        }
        let total = job_lines::count(path).await.map_err(fault)?;
        let lines = JobLines::open(path).await.map_err(fault)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok((Self { lines, defaults: arguments.sampling.as_defaults(), folder }, total))
    }

    fn job(&self, line: &JobLine) -> Result<Job, String> {
        let Some(text) = &line.text else { return Err("the line is longer than a job may be; shorten it".to_owned()) };
        let mut job = job_of_line(text, &self.defaults).map_err(|error| error.to_string())?;
        job.subject.image = beside(&self.folder, job.subject.image);
        without_callback(job)
    }
}

impl JobSource for JobsFile {
    async fn next(&mut self) -> std::io::Result<Option<Candidate>> {
        let Some(line) = self.lines.next().await? else { return Ok(None) };
        Ok(Some(Candidate { line: Some(line.number), job: self.job(&line) }))
    }
}

/// A picture's relative path starts at the jobs file, so that a folder of both can be moved and run from anywhere.
pub(crate) fn beside(folder: &Path, image: ImageSource) -> ImageSource {
    match image.location() {
        Ok(ImageLocation::File(path)) if Path::new(path).is_relative() => match folder.join(path).to_str() {
            Some(path) => ImageSource(path.to_owned()),
            None => image,
        },
        _ => image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_jobs_file() {
        let moved = |image: &str| beside(Path::new("jobs"), image.into()).0;
        assert_eq!(moved("dog.png"), "jobs/dog.png");
        assert_eq!(moved("/pictures/dog.png"), "/pictures/dog.png");
        assert_eq!(moved("https://example.org/dog.png"), "https://example.org/dog.png");
        assert_eq!(moved("data:,x"), "data:,x");
    }
}
