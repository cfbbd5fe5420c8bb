//! Messages between stages: references only, never pixels or tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ContentHash, Job, JobError, SubjectFound, limits};

/// One message for one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Task {
    /// For the dispatcher: a job as it came.
    Dispatch(Job),
    /// For the segmenter.
    Segment(SegmentTask),
    /// For the encoder.
    Encode(EncodeTask),
    /// For the sampler.
    Sample(SampleTask),
}

/// Cut the subject out of a stored picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentTask {
    /// The job it belongs to.
    pub job: Job,
    /// The stored picture.
    pub image: ContentHash,
    /// What the earlier stages noted.
    #[serde(default)]
    pub progress: Progress,
}

/// Encode a stored cut-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodeTask {
    /// The job it belongs to.
    pub job: Job,
    /// The stored cut-out.
    pub cutout: ContentHash,
    /// What the earlier stages noted.
    #[serde(default)]
    pub progress: Progress,
}

/// Make the pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleTask {
    /// The job it belongs to.
    pub job: Job,
    /// The encoded subject's key in the object store.
    pub encoded_subject: String,
    /// What the earlier stages noted.
    #[serde(default)]
    pub progress: Progress,
}

/// What the stages note on the way, for the job's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Progress {
    /// Seconds that each stage took.
    pub timings: BTreeMap<String, f64>,
    /// Whether each stage found its product ready.
    pub cached: BTreeMap<String, bool>,
    /// SHA-256 of the checkpoint of each network that took part.
    pub models: BTreeMap<String, String>,
    /// What was taken for the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectFound>,
    /// The stored cut-out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutout: Option<ContentHash>,
}

impl Progress {
    /// Notes how long a stage took and whether its product was there already.
    pub fn note(&mut self, stage: &str, seconds: f64, cached: bool) {
        self.timings.insert(stage.to_owned(), seconds);
        self.cached.insert(stage.to_owned(), cached);
    }
}

impl Task {
    /// The job it belongs to.
    pub fn job(&self) -> &Job {
        match self {
            Self::Dispatch(job) => job,
            Self::Segment(task) => &task.job,
            Self::Encode(task) => &task.job,
            Self::Sample(task) => &task.job,
        }
    }

    /// The stage it is for, as written in its JSON.
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Dispatch(_) => "dispatch",
            Self::Segment(_) => "segment",
            Self::Encode(_) => "encode",
            Self::Sample(_) => "sample",
        }
    }

    /// The task as a message's body.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps have text keys and numbers are finite in a valid job, so writing to memory cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message's body, within bounds, and validates its job again: a queue is outside too.
    pub fn parse(json: &[u8]) -> Result<Self, JobError> {
        if json.len() > limits::MAX_TASK_JSON_BYTES {
            let (size, limit) = (json.len(), limits::MAX_TASK_JSON_BYTES);
            return Err(JobError::new("", format!("the task has {size} bytes; the limit is {limit}")));
        }
        let task: Self =
            serde_json::from_slice(json).map_err(|error| JobError::new("", format!("this is no task: {error}")))?;
        task.job().validate()?;
        Ok(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job::new("dog.png".into(), "a dog").with_id()
    }

    #[test]
    fn tasks_survive_the_way() {
        let hash = ContentHash::of(b"dog");
        let mut progress = Progress::default();
        progress.note("segmenter", 0.5, true);
        let tasks = [
            Task::Dispatch(job()),
            Task::Segment(SegmentTask { job: job(), image: hash, progress: Progress::default() }),
            Task::Encode(EncodeTask { job: job(), cutout: hash, progress: progress.clone() }),
            Task::Sample(SampleTask { job: job(), encoded_subject: "subjects/a".to_owned(), progress }),
        ];
        for task in tasks {
            assert_eq!(Task::parse(&task.to_json()).unwrap(), task);
        }
    }

    #[test]
    fn a_task_with_a_bad_job_or_of_no_known_stage_is_refused() {
        let mut bad = job();
        bad.prompt.clear();
        assert!(Task::parse(&Task::Dispatch(bad).to_json()).is_err());
        assert!(Task::parse(b"{\"stage\":\"paint\"}").is_err());
        assert!(Task::parse(b"").is_err());
        assert!(Task::parse(&vec![b' '; limits::MAX_TASK_JSON_BYTES + 1]).is_err());
    }
}
