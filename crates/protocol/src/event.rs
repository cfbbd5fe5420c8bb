//! What happens to a job, as CloudEvents 1.0 in their JSON format
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{JobId, JobResult, JobStatus, TraceContext};

/// One event of one job.
///
/// Its id is derived from the job and the kind. Delivery is at least once; a subscriber recognises duplicates by the
/// id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobEvent {
    /// The version of the CloudEvents specification, `1.0`.
    pub specversion: String,
    /// Unique together with `source`; the same for every delivery of the same event.
    pub id: String,
    /// Always `echogen`.
    pub source: String,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The job's id.
    pub subject: JobId,
    /// When it happened.
    pub time: Timestamp,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// The trace that the event belongs to: CloudEvents' extension for distributed tracing.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::trace::or_none")]
    #[schemars(with = "Option<String>")]
    pub traceparent: Option<TraceContext>,
    /// Details; for an event that ends a job, its [`JobResult`].
    pub data: Value,
}

/// A preview: a picture on its way, small, as the cache has it for a few minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Preview {
    /// The picture's number, counted from 0 in the order of the seeds.
    pub image: usize,
    /// How many of the picture's scales are in it.
    pub scale: usize,
}

/// How far the pictures of a job are, as [`EventKind::Sampling`] reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScaleProgress {
    /// Scales sampled, of all pictures of the job together.
    pub scale: usize,
    /// Scales of all pictures of the job.
    pub scales: usize,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum EventKind {
    /// The job is valid and its picture is stored.
    #[serde(rename = "echogen.job.accepted")]
    Accepted,
    /// The subject is cut out.
    #[serde(rename = "echogen.job.segmented")]
    Segmented,
    /// The subject is encoded.
    #[serde(rename = "echogen.job.encoded")]
    Encoded,
    /// Sampling has begun, or a scale is done.
    #[serde(rename = "echogen.job.sampling")]
    Sampling,
    /// An attempt failed; another follows.
    #[serde(rename = "echogen.job.retrying")]
    Retrying,
    /// The last attempt failed: the task is a dead letter, and the job has no result yet.
    #[serde(rename = "echogen.job.parked")]
    Parked,
    /// The pictures are stored.
    #[serde(rename = "echogen.job.completed")]
    Completed,
    /// The job failed permanently.
    #[serde(rename = "echogen.job.failed")]
    Failed,
    /// The job was cancelled.
    #[serde(rename = "echogen.job.cancelled")]
    Cancelled,
    /// The job's deadline passed.
    #[serde(rename = "echogen.job.expired")]
    Expired,
    /// A job with this id and other content was sent. The job that has the id is not affected.
    #[serde(rename = "echogen.job.conflict")]
    Conflict,
}

impl EventKind {
    /// The last word of the type, such as `completed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Segmented => "segmented",
            Self::Encoded => "encoded",
            Self::Sampling => "sampling",
            Self::Retrying => "retrying",
            Self::Parked => "parked",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Conflict => "conflict",
        }
    }

    /// The kinds that end a job: it has a result now.
    pub const ENDS: [Self; 4] = [Self::Completed, Self::Failed, Self::Cancelled, Self::Expired];

    /// Whether the job has a result now.
    pub fn ends_job(self) -> bool {
        Self::ENDS.contains(&self)
    }
}

impl From<JobStatus> for EventKind {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Completed => Self::Completed,
            JobStatus::Failed => Self::Failed,
            JobStatus::Cancelled => Self::Cancelled,
            JobStatus::Expired => Self::Expired,
        }
    }
}

impl JobEvent {
    /// An event of `job` at `time`.
    pub fn new(kind: EventKind, job: &JobId, time: Timestamp, data: Value) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: format!("{job}/{}", kind.as_str()),
            source: "echogen".to_owned(),
            kind,
            subject: job.clone(),
            time,
            datacontenttype: "application/json".to_owned(),
            traceparent: None,
            data,
        }
    }

    /// The event that ends a job.
    pub fn of_result(result: &JobResult) -> Self {
        let data = serde_json::to_value(result).unwrap_or_default();
        Self::new(result.status.into(), &result.id, result.finished, data)
    }

    /// Makes the id distinct among events of one kind: attempt 2, scale 7.
    #[must_use]
    pub fn with_part(mut self, part: impl std::fmt::Display) -> Self {
        self.id = format!("{}/{part}", self.id);
        self
    }

    /// The same event as part of a trace.
    #[must_use]
    pub fn in_trace(mut self, trace: Option<TraceContext>) -> Self {
        self.traceparent = trace;
        self
    }

    /// Its routing key: `job.<kind>.<job id>`.
    pub fn topic(&self) -> String {
        format!("job.{}.{}", self.kind.as_str(), self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, FailureKind, Job};

    #[test]
    fn an_end_is_told_with_the_same_id_every_time() {
        let mut job = Job::new("dog.png".into(), "a dog");
        job.id = JobId("one".to_owned());
        let failure = Failure { kind: FailureKind::Expired, message: "too late".to_owned() };
        let result = JobResult::failed(&job.outline(), failure, "1.2.3", Timestamp::UNIX_EPOCH);
        let event = JobEvent::of_result(&result);
        assert_eq!(event, JobEvent::of_result(&result));
        assert_eq!(event.topic(), "job.expired.one");
        insta::assert_json_snapshot!(event);
        let traced = event.in_trace(Some(TraceContext::new(1, 2)));
        let json = serde_json::to_value(&traced).unwrap();
        assert_eq!(json["traceparent"], "00-00000000000000000000000000000001-0000000000000002-01");
        assert_eq!(serde_json::from_value::<JobEvent>(json.clone()).unwrap(), traced);
        let mut broken = json;
        broken["traceparent"] = "00-1-2".into();
        assert_eq!(serde_json::from_value::<JobEvent>(broken).unwrap().traceparent, None, "no event is lost for it");
    }

    #[test]
    fn the_type_is_the_namespace_and_the_short_name() {
        for kind in [EventKind::Accepted, EventKind::Sampling, EventKind::Parked, EventKind::Cancelled] {
            assert_eq!(serde_json::to_value(kind).unwrap(), format!("echogen.job.{}", kind.as_str()));
        }
    }
}
