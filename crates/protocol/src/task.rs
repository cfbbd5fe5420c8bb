//! Messages between stages: references only, never pixels or tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ContentHash, ImageSource, Job, JobError, JobEvent, JobId, SubjectFound, limits, validate};

/// One message for one stage.
///
/// On the wire a task is JSON with its `stage`; one for the dispatcher is the bare job as the client wrote it, so that
/// a client can put jobs into an intake queue by itself.
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
    /// For the notifier; its job has ended.
    Notify(NotifyTask),
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

/// Tell a client's own server of the end of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyTask {
    /// The job's [`callback`](Job::callback).
    pub callback: String,
    /// The event that ended the job.
    pub event: JobEvent,
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

    /// Whether every stage so far had to make its product, from the picture on. Then what is made of them cannot have been
    /// stored before this job came; another that came since may have stored it.
    pub fn is_new(&self) -> bool {
        !self.cached.is_empty() && !self.cached.values().any(|cached| *cached)
    }
}

impl Task {
    /// The job that it takes further; `None` if the job has ended.
    pub fn job(&self) -> Option<&Job> {
        match self {
            Self::Dispatch(job) => Some(job),
            Self::Segment(task) => Some(&task.job),
            Self::Encode(task) => Some(&task.job),
            Self::Sample(task) => Some(&task.job),
            Self::Notify(_) => None,
        }
    }

    /// The job alone; see [`Task::job`].
    pub fn into_job(self) -> Option<Job> {
        match self {
            Self::Dispatch(job) => Some(job),
            Self::Segment(task) => Some(task.job),
            Self::Encode(task) => Some(task.job),
            Self::Sample(task) => Some(task.job),
            Self::Notify(_) => None,
        }
    }

    /// The id of the job that it belongs to.
    pub fn job_id(&self) -> &JobId {
        match self {
            Self::Notify(task) => &task.event.subject,
            Self::Dispatch(Job { id, .. })
            | Self::Segment(SegmentTask { job: Job { id, .. }, .. })
            | Self::Encode(EncodeTask { job: Job { id, .. }, .. })
            | Self::Sample(SampleTask { job: Job { id, .. }, .. }) => id,
        }
    }

    /// The stage it is for, as written in its JSON.
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Dispatch(_) => "dispatch",
            Self::Segment(_) => "segment",
            Self::Encode(_) => "encode",
            Self::Sample(_) => "sample",
            Self::Notify(_) => "notify",
        }
    }

    /// The task as a message's body.
    pub fn to_json(&self) -> Vec<u8> {
        let json = match self {
            Self::Dispatch(job) => serde_json::to_vec(job),
            task => serde_json::to_vec(task),
        };
        // Maps have text keys and numbers are finite in a valid job, so writing to memory cannot fail.
        json.unwrap_or_default()
    }

    /// Reads a message's body, within bounds, and validates its job or address again: a queue is outside too.
    pub fn parse(json: &[u8]) -> Result<Self, JobError> {
        if json.len() > limits::MAX_TASK_JSON_BYTES {
            let (size, limit) = (json.len(), limits::MAX_TASK_JSON_BYTES);
            return Err(JobError::new("", format!("the task has {size} bytes; the limit is {limit}")));
        }
        if Header::of(json).stage.is_none() {
            return Job::parse(json).map(Self::Dispatch);
        }
        let task: Self =
            serde_json::from_slice(json).map_err(|error| JobError::new("", format!("this is no task: {error}")))?;
        match &task {
            Self::Notify(notify) => validate::callback(&notify.callback)?,
            task => task.job().map_or(Ok(()), Job::validate)?,
        }
        Ok(task)
    }

    /// For a body that [`Task::parse`] refuses: a stand-in for its job that bears its id, if the body is a job and so
    /// much of it is readable. It lets the job fail under its own name.
    pub fn unreadable_job(json: &[u8]) -> Option<Job> {
        if json.len() > limits::MAX_TASK_JSON_BYTES {
            return None;
        }
        let header = Header::of(json);
        let id = JobId(header.id?.as_str()?.to_owned());
        let job = Job { id, ..Job::new(ImageSource("unreadable".to_owned()), "unreadable") };
        (header.stage.is_none() && job.validate().is_ok()).then_some(job)
    }
}

/// What is read of a body to see what it is.
#[derive(Default, Deserialize)]
struct Header {
    stage: Option<String>,
    id: Option<serde_json::Value>,
}

impl Header {
    fn of(json: &[u8]) -> Self {
        serde_json::from_slice(json).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::EventKind;

    fn job() -> Job {
        Job::new("dog.png".into(), "a dog").with_id()
    }

    #[test]
    fn tasks_survive_the_way() {
        let hash = ContentHash::of(b"dog");
        let mut progress = Progress::default();
        progress.note("segmenter", 0.5, true);
        let event = JobEvent::new(EventKind::Completed, &job().id, Timestamp::UNIX_EPOCH, serde_json::Value::Null);
        let tasks = [
            Task::Dispatch(job()),
            Task::Segment(SegmentTask { job: job(), image: hash, progress: Progress::default() }),
            Task::Encode(EncodeTask { job: job(), cutout: hash, progress: progress.clone() }),
            Task::Sample(SampleTask { job: job(), encoded_subject: "subjects/a".to_owned(), progress }),
            Task::Notify(NotifyTask { callback: "https://example.org/done".to_owned(), event }),
        ];
        for task in tasks {
            assert_eq!(Task::parse(&task.to_json()).unwrap(), task);
            assert_eq!(task.job_id(), &job().id);
            assert_eq!(task.job(), task.clone().into_job().as_ref());
        }
    }

    #[test]
    fn a_subject_is_new_until_a_stage_finds_its_product() {
        let mut progress = Progress::default();
        assert!(!progress.is_new(), "nothing is known of it");
        progress.note("dispatcher", 0.1, false);
        progress.note("segmenter", 0.5, false);
        assert!(progress.is_new());
        progress.note("encoder", 0.0, true);
        assert!(!progress.is_new());
    }

    #[test]
    fn a_task_with_a_bad_job_or_address_or_of_no_known_stage_is_refused() {
        let mut bad = job();
        bad.prompt.clear();
        assert!(Task::parse(&Task::Dispatch(bad).to_json()).is_err());
        let event = JobEvent::new(EventKind::Completed, &job().id, Timestamp::UNIX_EPOCH, serde_json::Value::Null);
        let inside = Task::Notify(NotifyTask { callback: "http://example.org".to_owned(), event });
        assert!(Task::parse(&inside.to_json()).unwrap_err().to_string().contains("https://"));
        assert!(Task::parse(b"{\"stage\":\"paint\"}").is_err());
        assert!(Task::parse(b"").is_err());
        assert!(Task::parse(&vec![b' '; limits::MAX_TASK_JSON_BYTES + 1]).is_err());
    }

    #[test]
    fn an_intake_message_is_the_bare_job() {
        let json = br#"{"id":"one","subject":{"image":"dog.png"},"prompt":"a dog"}"#;
        let Task::Dispatch(job) = Task::parse(json).unwrap() else { panic!("not for the dispatcher") };
        assert_eq!(job.id.as_str(), "one");
        let error = Task::parse(br#"{"id":"one","promt":"a dog"}"#).unwrap_err();
        assert!(error.message.contains("did you mean \"prompt\"?"), "{error}");
    }

    #[test]
    fn an_unreadable_job_keeps_its_id_if_that_is_a_good_one() {
        let id = |json: &[u8]| Task::unreadable_job(json).map(|job| job.id.0);
        assert_eq!(id(br#"{"id":"one","promt":"a dog"}"#).as_deref(), Some("one"));
        assert_eq!(id(br#"{"id":"../one","promt":"a dog"}"#), None);
        assert_eq!(id(br#"{"id":7}"#), None);
        assert_eq!(id(br#"{"promt":"a dog"}"#), None);
        assert_eq!(id(br#"{"stage":"sample","id":"one"}"#), None);
        assert_eq!(id(b"\xff"), None);
    }
}
