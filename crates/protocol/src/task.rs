//! Messages between stages: references only, never pixels or tensors.

use std::{collections::BTreeMap, time::Duration};

use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};

use crate::{
    ContentHash, CutOut, Job, JobError, JobEvent, JobId, JobOutline, Lane, Partition, PixelBudget, QueueName,
    StageName, SubjectFound, check_object_key,
    json::{self, Bounds},
    validate,
};

/// One message for one stage. Each stage has a type of its own; the dispatcher's is the bare [`Job`] as the client wrote
/// it, so that a client can put jobs into an intake queue by itself.
///
/// Unknown fields are ignored, also in the job inside: a sender of a later version may add fields. Only a client's own
/// job is read strictly ([`Job::parse`]).
///
/// The queue decides which stage a message is for. The JSON of all tasks but the job also contains it as `stage`, for
/// people who inspect a queue.
pub trait StageTask:
    Serialize + DeserializeOwned + Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static
{
    /// The stage it is for.
    const STAGE: StageName;

    /// Parses a message's body, within bounds, and validates it: a queue is untrusted input.
    fn parse(json: &[u8]) -> Result<Self, JobError>;

    /// The job that it belongs to; `None` if the job has ended.
    fn job(&self) -> Option<&Job>;

    /// The id of the job that it belongs to.
    fn job_id(&self) -> &JobId;

    /// For a body that [`parse`](Self::parse) refuses: its job's outline, if enough is readable for the job to fail
    /// under its own id.
    fn unreadable_job(_json: &[u8]) -> Option<JobOutline> {
        None
    }

    /// What it costs its stage, compared with others; `None` if all cost the same.
    fn cost(&self) -> Option<u32> {
        None
    }

    /// How large each of its pictures is, in thousands of pixels, if its stage makes any and the job says so.
    fn kilopixels(&self) -> Option<u32> {
        None
    }

    /// The queue of its job's lane at its stage, in partition 0.
    fn queue(&self) -> QueueName {
        QueueName::of(Self::STAGE, self.job().map_or_else(Lane::default, |job| job.lane))
    }

    /// The task as a message's body.
    fn to_json(&self) -> Vec<u8> {
        // Maps have text keys and numbers are finite in a valid job, so writing to memory cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A task of the next stage, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextTask {
    /// The stage that it is for.
    pub stage: StageName,
    /// The job that it belongs to.
    pub job_id: JobId,
    /// Its job's lane, which decides where the queue of the task before does not.
    pub lane: Lane,
    /// The task as JSON.
    pub body: Vec<u8>,
    /// See [`TaskHeaders::settings`](crate::TaskHeaders::settings).
    pub settings: Option<String>,
    /// See [`TaskHeaders::cost`](crate::TaskHeaders::cost).
    pub cost: Option<u32>,
    /// See [`TaskHeaders::kilopixels`](crate::TaskHeaders::kilopixels).
    pub kilopixels: Option<u32>,
    /// How long its receiver gets it later.
    pub delay: Duration,
}

impl NextTask {
    /// A task for its queue.
    pub fn of<T: StageTask>(task: &T) -> Self {
        Self {
            stage: T::STAGE,
            job_id: task.job_id().clone(),
            lane: task.job().map_or_else(Lane::default, |job| job.lane),
            body: task.to_json(),
            settings: None,
            cost: task.cost(),
            kilopixels: task.kilopixels(),
            delay: Duration::ZERO,
        }
    }

    /// The same task, for a receiver that must have the same settings; see
    /// [`TaskHeaders::settings`](crate::TaskHeaders::settings).
    #[must_use]
    pub fn with_settings(self, settings: &str) -> Self {
        Self { settings: Some(settings.to_owned()), ..self }
    }

    /// The same task, after a delay.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// The queue in which it follows a task from `origin`: of the same lane and partition.
    pub fn queue_after(&self, origin: &QueueName) -> QueueName {
        let (lane, partition) = match origin.place() {
            Some((_, lane, partition)) => (lane, partition),
            None => (self.lane, Partition::ZERO),
        };
        QueueName::in_partition(self.stage, lane, partition)
    }

    /// The task itself, if it is one of this type.
    pub fn read<T: StageTask>(&self) -> Option<T> {
        (self.stage == T::STAGE).then(|| T::parse(&self.body).ok())?
    }
}

/// Find the subject in a stored picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename = "segment")]
pub struct SegmentTask {
    /// The job it belongs to.
    pub job: Job,
    /// The stored picture.
    pub image: ContentHash,
    /// What the earlier stages recorded.
    #[serde(default)]
    pub progress: Progress,
}

/// Encode a subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename = "encode")]
pub struct EncodeTask {
    /// The job it belongs to.
    pub job: Job,
    /// SHA-256 of a stored cut-out, by which senders of version 0.1.0 say what is encoded. Nobody reads those any more: the
    /// job goes back to the segmenter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutout: Option<ContentHash>,
    /// What is encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_out: Option<CutOut>,
    /// What the earlier stages recorded.
    #[serde(default)]
    pub progress: Progress,
}

/// Make the pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename = "sample")]
pub struct SampleTask {
    /// The job it belongs to.
    pub job: Job,
    /// The encoded subject's key in the object store.
    pub encoded_subject: String,
    /// What was encoded, for the case that the encoded subject is deleted. Senders of version 0.1.0 do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_out: Option<CutOut>,
    /// What the earlier stages recorded.
    #[serde(default)]
    pub progress: Progress,
}

/// Make the end of a job known.
///
/// The client's reply queue, if it named one, is in the task's headers; see [`TaskHeaders::reply_to`](crate::TaskHeaders).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename = "notify")]
pub struct NotifyTask {
    /// The job's [`callback`](Job::callback).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// The job's [`tenant`](Job::tenant), with whose secret the call is signed too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The event that ended the job, or that parked its task.
    pub event: JobEvent,
    /// What is still to be sent. Senders of earlier versions published the event themselves, and do not say.
    #[serde(default = "callback_only", skip_serializing_if = "is_callback_only")]
    pub pending: Vec<Notice>,
}

/// One of the ways in which the end of a job is made known. Each is sent, retried and given up independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// To the subscribers of events.
    Event,
    /// To the client's reply queue.
    Reply,
    /// To the client's own server.
    Callback,
    /// One of a later version, which this version ignores.
    #[serde(other)]
    Unknown,
}

fn callback_only() -> Vec<Notice> {
    vec![Notice::Callback]
}

fn is_callback_only(pending: &[Notice]) -> bool {
    pending == [Notice::Callback]
}

impl NotifyTask {
    /// A task that sends everything that applies: the event, the reply if somebody is `replied` to, and the callback.
    pub fn new(event: JobEvent, callback: Option<String>, replied: bool) -> Self {
        let others = [(Notice::Reply, replied), (Notice::Callback, callback.is_some())];
        let others = others.into_iter().filter(|(_, applies)| *applies).map(|(notice, _)| notice);
        Self { pending: std::iter::once(Notice::Event).chain(others).collect(), event, callback, tenant: None }
    }

    /// The same for a job of this tenant.
    #[must_use]
    pub fn of_tenant(mut self, tenant: Option<String>) -> Self {
        self.tenant = tenant;
        self
    }

    /// The same end of the same job, of which only one notice is left to be sent.
    pub fn only(&self, notice: Notice) -> Self {
        Self { pending: vec![notice], ..self.clone() }
    }
}

impl EncodeTask {
    /// A task to encode a cut-out.
    pub fn new(job: Job, cut_out: CutOut, progress: Progress) -> Self {
        Self { job, cutout: None, cut_out: Some(cut_out), progress }
    }

    /// A task without anything to encode is another stage's in the wrong queue.
    fn check(&self) -> Result<(), JobError> {
        let is_whole = self.cut_out.is_some() || self.cutout.is_some();
        is_whole.then_some(()).ok_or_else(|| JobError::new("cut_out", "is missing"))
    }
}

impl SampleTask {
    fn check(&self) -> Result<(), JobError> {
        check_object_key(&self.encoded_subject).map_err(|error| JobError::new("encoded_subject", error.to_string()))
    }
}

/// What the stages record for the job's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Seconds that each stage took.
    pub timings: BTreeMap<String, f64>,
    /// Whether the product of each stage already existed.
    pub cached: BTreeMap<String, bool>,
    /// SHA-256 of the checkpoint of each network that took part.
    pub models: BTreeMap<String, String>,
    /// What was recognised as the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectFound>,
}

impl Progress {
    /// Records how long a stage took and whether its product already existed.
    pub fn note(&mut self, stage: StageName, seconds: f64, cached: bool) {
        self.timings.insert(stage.to_string(), seconds);
        self.cached.insert(stage.to_string(), cached);
    }

    /// Whether every stage so far had to compute its product, from the picture on. Then the products of the following
    /// stages cannot have been stored before this job arrived; only a later job can have stored them.
    pub fn is_new(&self) -> bool {
        !self.cached.is_empty() && !self.cached.values().any(|cached| *cached)
    }
}

impl StageTask for Job {
    const STAGE: StageName = StageName::Dispatcher;

    /// Strict: the sender is a client. See [`Job::parse`].
    fn parse(json: &[u8]) -> Result<Self, JobError> {
        Job::parse(json)
    }

    fn job(&self) -> Option<&Job> {
        Some(self)
    }

    fn job_id(&self) -> &JobId {
        &self.id
    }

    fn unreadable_job(json: &[u8]) -> Option<JobOutline> {
        /// The fields of a job that are needed to end it. A message with a `stage` is another stage's task in the wrong
        /// queue.
        #[derive(Deserialize)]
        struct Header {
            stage: Option<IgnoredAny>,
            id: String,
        }

        let Header { stage, id } = json::read(json, &Bounds::MESSAGE).ok()?;
        (stage.is_none() && validate::id(&id).is_ok()).then(|| JobOutline::of_id(JobId(id)))
    }
}

/// Implements [`StageTask`] for a task that contains its job.
macro_rules! task_with_job {
    ($task:ty, $stage:ident $(, check: $check:path)? $(, cost: $($cost:item)+)?) => {
        impl StageTask for $task {
            const STAGE: StageName = StageName::$stage;

            fn parse(json: &[u8]) -> Result<Self, JobError> {
                let task: Self = read(json)?;
                task.job.validate()?;
                $($check(&task)?;)?
                Ok(task)
            }

            fn job(&self) -> Option<&Job> {
                Some(&self.job)
            }

            fn job_id(&self) -> &JobId {
                &self.job.id
            }

            $($($cost)+)?
        }
    };
}

task_with_job!(SegmentTask, Segmenter);
task_with_job!(EncodeTask, Encoder, check: Self::check);
task_with_job!(
    SampleTask,
    Sampler,
    check: Self::check,
    cost: fn cost(&self) -> Option<u32> {
        u32::try_from(self.job.seeds.values().len()).ok()
    }

    fn kilopixels(&self) -> Option<u32> {
        self.job.pixel_budget.map(PixelBudget::kilopixels)
    }
);

impl StageTask for NotifyTask {
    const STAGE: StageName = StageName::Notifier;

    fn parse(json: &[u8]) -> Result<Self, JobError> {
        let task: Self = read(json)?;
        task.callback.as_deref().map_or(Ok(()), validate::callback)?;
        validate::id(&task.event.subject.0).map_err(|error| JobError::new("event.subject", error.message))?;
        Ok(task)
    }

    fn job(&self) -> Option<&Job> {
        None
    }

    fn job_id(&self) -> &JobId {
        &self.event.subject
    }
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, JobError> {
    json::read(json, &Bounds::MESSAGE).map_err(|error| JobError::new("", format!("this is no task: {error}")))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{EventKind, SubjectArea, limits};

    fn job() -> Job {
        Job::new("dog.png".into(), "a dog").with_id()
    }

    fn event() -> JobEvent {
        JobEvent::new(EventKind::Completed, &job().id, Timestamp::UNIX_EPOCH, serde_json::Value::Null)
    }

    #[track_caller]
    fn survives<T: StageTask>(task: &T, stage: Option<&str>) {
        let json = task.to_json();
        assert_eq!(T::parse(&json).as_ref(), Ok(task));
        let next = NextTask::of(task);
        assert_eq!((next.read::<T>().as_ref(), &next.job_id, next.stage), (Some(task), &job().id, T::STAGE));
        let named = serde_json::from_slice::<serde_json::Value>(&json).unwrap();
        assert_eq!(named.get("stage").and_then(serde_json::Value::as_str), stage, "for whoever looks at a queue");
        assert!(T::parse(&vec![b' '; limits::MAX_TASK_JSON_BYTES + 1]).is_err(), "the size is bounded");
        assert!(T::parse(b"").is_err() && T::parse(b"{\"stage\":\"paint\"}").is_err());
    }

    #[test]
    fn tasks_survive_the_way_and_are_read_as_no_others() {
        let hash = ContentHash::of(b"dog");
        let mut progress = Progress::default();
        progress.note(StageName::Segmenter, 0.5, true);
        let segment = SegmentTask { job: job(), image: hash, progress: Progress::default() };
        let cut_out = CutOut { image: hash, area: SubjectArea::Whole };
        let encode = EncodeTask::new(job(), cut_out.clone(), progress.clone());
        survives(&job(), None);
        survives(&segment, Some("segment"));
        survives(&encode, Some("encode"));
        let encoded_subject = "subjects/a".to_owned();
        let sample = SampleTask { job: job(), encoded_subject, cut_out: Some(cut_out), progress };
        survives(&sample, Some("sample"));
        survives(&NotifyTask::new(event(), Some("https://example.org/done".to_owned()), true), Some("notify"));
        assert!(Job::parse(&segment.to_json()).is_err() && EncodeTask::parse(&segment.to_json()).is_err());
        assert_eq!(NextTask::of(&encode).read::<SegmentTask>(), None);
    }

    #[test]
    fn a_task_follows_in_the_lane_and_partition_of_the_one_before() {
        let next = NextTask::of(&SegmentTask {
            job: Job { lane: Lane::Bulk, ..job() },
            image: ContentHash::of(b"dog"),
            progress: Progress::default(),
        });
        for (origin, expected) in [
            ("echogen.dispatch.interactive.5", "echogen.segment.interactive.5"),
            ("echogen.dispatch.standard", "echogen.segment.standard"),
            ("echogen.encode", "echogen.segment.bulk"),
            ("echogen.dispatch.returned", "echogen.segment.bulk"),
        ] {
            assert_eq!(next.queue_after(&QueueName(origin.to_owned())).as_str(), expected, "after {origin}");
        }
        let end = NextTask::of(&NotifyTask::new(event(), None, false));
        assert_eq!(end.queue_after(&QueueName("echogen.sample.bulk.3".to_owned())).as_str(), "echogen.notify");
    }

    #[test]
    fn a_subject_is_new_until_a_stage_finds_its_product() {
        let mut progress = Progress::default();
        assert!(!progress.is_new(), "nothing is known of it");
        progress.note(StageName::Dispatcher, 0.1, false);
        progress.note(StageName::Segmenter, 0.5, false);
        assert!(progress.is_new());
        progress.note(StageName::Encoder, 0.0, true);
        assert!(!progress.is_new());
    }

    #[test]
    fn a_task_with_a_bad_job_or_address_is_refused() {
        let mut bad = job();
        bad.prompt.clear();
        assert!(<Job as StageTask>::parse(&bad.to_json()).is_err());
        let segment = SegmentTask { job: bad, image: ContentHash::of(b"dog"), progress: Progress::default() };
        assert!(SegmentTask::parse(&segment.to_json()).unwrap_err().to_string().starts_with("prompt: "));
        let inside = NotifyTask::new(event(), Some("http://example.org".to_owned()), false);
        assert!(NotifyTask::parse(&inside.to_json()).unwrap_err().to_string().contains("https://"));
    }

    #[test]
    fn keys_and_ids_of_tasks_are_checked_as_those_of_jobs_are() {
        for key in ["subject,/a", "../secret", "", "/a", "a\nb"] {
            let (encoded_subject, progress) = (key.to_owned(), Progress::default());
            let task = SampleTask { job: job(), encoded_subject, cut_out: None, progress };
            let error = SampleTask::parse(&task.to_json()).unwrap_err();
            assert_eq!(error.field, "encoded_subject", "{key:?}: {error}");
        }
        for id in ["j\u{7f}b-1", "../one", "", "a/b"] {
            let event = JobEvent { subject: JobId(id.to_owned()), ..event() };
            let task = NotifyTask::new(event, None, false);
            assert_eq!(NotifyTask::parse(&task.to_json()).unwrap_err().field, "event.subject", "{id:?}");
        }
    }

    #[test]
    fn an_intake_message_is_the_bare_job() {
        let json = br#"{"id":"one","subject":{"image":"dog.png"},"prompt":"a dog"}"#;
        assert_eq!(<Job as StageTask>::parse(json).unwrap().id.as_str(), "one");
        let error = <Job as StageTask>::parse(br#"{"id":"one","promt":"a dog"}"#).unwrap_err();
        assert!(error.message.contains("did you mean \"prompt\"?"), "{error}");
    }

    #[test]
    fn an_unreadable_job_keeps_its_id_if_that_is_a_good_one() {
        let id = |json: &[u8]| Job::unreadable_job(json).map(|job| job.id.0);
        assert_eq!(id(br#"{"id":"one","promt":"a dog"}"#).as_deref(), Some("one"));
        assert_eq!(id(br#"{"id":"../one","promt":"a dog"}"#), None);
        assert_eq!(id(br#"{"id":7}"#), None);
        assert_eq!(id(br#"{"promt":"a dog"}"#), None);
        assert_eq!(id(br#"{"stage":"sample","id":"one"}"#), None);
        assert_eq!(id(b"\xff"), None);
        assert_eq!(SegmentTask::unreadable_job(br#"{"id":"one"}"#), None, "only clients send what cannot be read");
    }
}
