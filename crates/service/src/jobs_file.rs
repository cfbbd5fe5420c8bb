//! The jobs of a file of JSON lines: fields that a line does not have are taken from defaults, and pictures are looked for
//! beside the file.

use std::path::{Path, PathBuf};

use echogen_protocol::{ImageLocation, ImageSource, Job, JobError};
use serde_json::{Map, Value};

use crate::{
    Failure,
    job_lines::{self, JobLine, JobLines},
};

/// Fields of a job for lines that do not have them.
pub type JobFields = Map<String, Value>;

/// A file of jobs that is being read.
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

    /// How many lines it has, where that can be known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Returns the next line that is not empty, or `None` at the end. Cancel safe.
    pub async fn next_line(&mut self) -> Result<Option<JobLine>, Failure> {
        let line = self.lines.next().await;
        line.map_err(|error| Failure::usage(format!("the jobs file cannot be read on: {error}")))
    }

    /// The job of a line, or what is wrong with it.
    pub fn job(&self, line: &JobLine) -> Result<Job, String> {
        let mut job = parsed(line, |text| job_of_line(text, &self.defaults))?;
        job.subject.image = beside(&self.folder, job.subject.image);
        Ok(job)
    }
}

pub(crate) fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read the jobs file {}: {error}; give a file of JSON lines", path.display()))
}

/// Reads the job of a line that is not too long.
pub(crate) fn parsed(line: &JobLine, parse: impl FnOnce(&[u8]) -> Result<Job, JobError>) -> Result<Job, String> {
    let Some(text) = &line.text else { return Err("the line is longer than a job may be; shorten it".to_owned()) };
    parse(text).map_err(|error| error.to_string())
}

/// For what runs in this process alone and ends with its last job: no process would be left to retry a server that
/// does not answer at once.
pub(crate) fn without_callback(job: Job) -> Result<Job, String> {
    match job.callback {
        None => Ok(job),
        Some(_) => {
            Err("callback: is called only for jobs that go through RabbitMQ; take it out, or use `echogen submit`"
                .to_owned())
        }
    }
}

/// Reads a line of a jobs file; fields it does not have are taken from `defaults`.
fn job_of_line(line: &[u8], defaults: &JobFields) -> Result<Job, JobError> {
    if defaults.is_empty() {
        return Job::parse(line);
    }
    // What is no object has no fields to fill in; the parser says what is wrong with it.
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(line) else { return Job::parse(line) };
    fill_in(&mut fields, defaults);
    Job::parse(&serde_json::to_vec(&fields).unwrap_or_default())
}

fn fill_in(fields: &mut JobFields, defaults: &JobFields) {
    for (name, default) in defaults {
        match (fields.get_mut(name), default) {
            (None, default) => drop(fields.insert(name.clone(), default.clone())),
            (Some(Value::Object(inner)), Value::Object(default)) if name != "seeds" => fill_in(inner, default),
            (Some(_), _) => {}
        }
    }
}

/// A picture's relative path starts at the jobs file, so that a folder of both can be moved and run from anywhere.
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
mod tests {
    use echogen_protocol::{PerScale, Seeds};
    use serde_json::json;

    use super::*;

    fn defaults() -> JobFields {
        let fields = json!({ "guidance": {"text": 4.0, "subject": 2.0}, "seeds": {"count": 3}, "top_k": 1 });
        fields.as_object().cloned().unwrap()
    }

    #[test]
    fn relative_paths_start_at_the_jobs_file() {
        let moved = |image: &str| beside(Path::new("jobs"), image.into()).0;
        assert_eq!(moved("dog.png"), "jobs/dog.png");
        assert_eq!(moved("/pictures/dog.png"), "/pictures/dog.png");
        assert_eq!(moved("https://example.org/dog.png"), "https://example.org/dog.png");
        assert_eq!(moved("data:,x"), "data:,x");
    }

    #[test]
    fn a_line_counts_before_the_defaults_field_by_field() {
        let line =
            br#"{"id": "a", "subject": {"image": "a.png"}, "prompt": "p", "guidance": {"text": 1}, "seeds": [5]}"#;
        let job = job_of_line(line, &defaults()).unwrap();
        assert_eq!(job.guidance.text, Some(PerScale::All(1.0)));
        assert_eq!(job.guidance.subject, Some(PerScale::All(2.0)));
        assert_eq!(job.seeds, Seeds::List(vec![5]));
        assert_eq!(job.top_k, Some(1));
    }

    #[test]
    fn without_defaults_a_line_is_read_as_it_is() {
        let line = br#"{"id": "a", "subject": {"image": "a.png"}, "prompt": "p"}"#;
        assert_eq!(job_of_line(line, &JobFields::new()), Job::parse(line));
    }

    #[test]
    fn a_faulty_line_keeps_its_own_message() {
        for line in [&b"{"[..], b"7", b"{\"subjct\": {}}", b"{\"subject\": 7, \"prompt\": \"p\"}"] {
            assert_eq!(job_of_line(line, &defaults()).unwrap_err(), Job::parse(line).unwrap_err());
        }
    }
}
