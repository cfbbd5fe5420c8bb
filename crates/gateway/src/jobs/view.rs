//! A job as it is shown: its record, joined with where it stands and how it ended.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use echogen_protocol::{
    EventKind, Failure, Job, JobId, JobResult, JobStatus, Lane, OutputFormat, Parameters, Preview, Safety,
    ScaleProgress, SubjectFound, Usage, WithheldImage,
};
use echogen_worker::JobState;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{JobRecord, own_id};
use crate::{Gateway, authentication::Caller, problem::Problem};

/// A job as the API shows it. What is not known, or not yet, is left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "JobView")]
pub struct JobView {
    /// The job, `TENANT.ID`.
    pub id: JobId,
    /// Where it stands.
    pub status: Status,
    /// When it came.
    pub created: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// Its lane.
    pub lane: Lane,
    /// The scene, in words.
    pub prompt: String,
    /// The batch that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// The client's own notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The stage that it was last heard of from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// That stage's attempt, 1 for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// How far the pictures are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ScaleProgress>,
    /// Its place in the line, while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<PlaceInQueue>,
    /// The pictures, in the order of the seeds.
    pub images: Vec<ImageView>,
    /// Pictures that were made and are withheld, by the installation's content gate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<WithheldImage>,
    /// Small pictures on the way, the newest of each picture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previews: Vec<PreviewView>,
    /// What was recognised as the subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectView>,
    /// The parameters as used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// Seconds that each stage, or step of a stage, took.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, f64>,
    /// Whether the product of each stage already existed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cached: BTreeMap<String, bool>,
    /// The job's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// What it used, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageView>,
    /// Why it did not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The job as it was sent, but for a picture within it; only if one job is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Box<Job>>,
    /// Where to go on.
    pub links: Links,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It waits for the first stage.
    Queued,
    /// It is on its way.
    Running,
    /// All pictures are stored.
    Completed,
    /// It failed for good.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// The last attempt failed for a reason that is not the job's; an operator can redrive it.
    Parked,
}

impl Status {
    /// Whether nothing follows by itself.
    pub fn is_end(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl From<JobStatus> for Status {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Completed => Self::Completed,
            JobStatus::Failed => Self::Failed,
            JobStatus::Cancelled => Self::Cancelled,
            JobStatus::Expired => Self::Expired,
        }
    }
}

impl From<EventKind> for Status {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Completed => Self::Completed,
            EventKind::Failed => Self::Failed,
            EventKind::Cancelled => Self::Cancelled,
            EventKind::Expired => Self::Expired,
            EventKind::Parked => Self::Parked,
            _ => Self::Running,
        }
    }
}

/// A job's place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlaceInQueue {
    /// About how many tasks wait in the queues that the job waits in.
    pub ahead: u64,
    /// About how long that takes, by the jobs that ended in the last five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// A picture of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageView {
    /// Where it is served.
    pub url: String,
    /// The seed it was drawn with.
    pub seed: u64,
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Its media type.
    pub content_type: String,
    /// The verdict of the content gate, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety: Option<Safety>,
}

/// A small picture on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PreviewView {
    /// The picture, counted from 0 in the order of the seeds.
    pub image: usize,
    /// The scale after which it was made.
    pub scale: usize,
    /// Where it is served, for ten minutes.
    pub url: String,
}

impl PreviewView {
    /// A preview of a job.
    pub(crate) fn of(job: &JobId, preview: Preview) -> Self {
        let Preview { image, scale } = preview;
        Self { image, scale, url: format!("{}/previews/{image}?scale={scale}", path_of(job)) }
    }
}

/// What was recognised as the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubjectView {
    /// What was found, and where.
    #[serde(flatten)]
    pub found: SubjectFound,
    /// Where the subject's picture is served.
    pub image_url: String,
}

/// What a job used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageView {
    /// What it has taken.
    #[serde(flatten)]
    pub used: Usage,
    /// The price, in the installation's currency.
    pub price: f64,
}

/// Where to go on from a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Links {
    /// The job itself.
    #[serde(rename = "self")]
    pub this: String,
    /// Its events.
    pub events: String,
    /// Where it is cancelled.
    pub cancel: String,
    /// Where it is asked for again.
    pub again: String,
}

/// The address of a job.
pub(crate) fn path_of(id: &JobId) -> String {
    format!("/v1/jobs/{id}")
}

impl JobView {
    /// A job of which nothing but its record is known.
    pub(crate) fn queued(record: &JobRecord) -> Self {
        let (request, path) = (&record.request, path_of(&record.id));
        Self {
            id: record.id.clone(),
            status: Status::Queued,
            created: record.created,
            finished: None,
            lane: request.lane,
            prompt: request.prompt.clone(),
            batch: record.batch.clone(),
            metadata: request.metadata.clone(),
            stage: None,
            attempt: None,
            progress: None,
            queue: None,
            images: Vec::new(),
            withheld: Vec::new(),
            previews: Vec::new(),
            subject: None,
            parameters: None,
            timings: BTreeMap::new(),
            cached: BTreeMap::new(),
            trace_id: None,
            usage: None,
            error: None,
            request: None,
            links: Links {
                events: format!("{path}/events"),
                cancel: format!("{path}/cancel"),
                again: format!("{path}/again"),
                this: path,
            },
        }
    }

    /// The same job with its last known state.
    fn in_state(mut self, state: &JobState) -> Self {
        self.status = state.state.into();
        self.stage.clone_from(&state.stage);
        self.attempt = Some(state.attempt).filter(|attempt| *attempt > 0);
        self.trace_id.clone_from(&state.trace_id);
        self.progress = state.progress;
        self.previews = state.previews.iter().map(|preview| PreviewView::of(&self.id, *preview)).collect();
        self
    }

    /// The same job with its result.
    fn ended(mut self, record: &JobRecord, result: JobResult) -> Self {
        let path = path_of(&record.id);
        let content_type = content_type(record.request.output.format).to_owned();
        self.status = result.status.into();
        (self.progress, self.previews) = (None, Vec::new());
        self.finished = Some(result.finished);
        self.usage = result.usage.map(|used| UsageView { used, price: record.used(&result).price });
        let image = |(index, image): (usize, echogen_protocol::ResultImage)| ImageView {
            url: format!("{path}/images/{index}"),
            seed: image.seed,
            width: image.width,
            height: image.height,
            sha256: image.sha256.to_string(),
            content_type: content_type.clone(),
            safety: image.safety,
        };
        self.images = result.images.into_iter().enumerate().map(image).collect();
        self.withheld = result.withheld;
        let image_url = format!("{path}/subject");
        self.subject = result.subject.map(|found| SubjectView { found, image_url });
        self.parameters = result.parameters;
        self.timings = result.timings;
        self.cached = result.cached;
        self.error = result.error;
        self
    }
}

/// The media type of a picture.
pub(crate) fn content_type(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Png => "image/png",
        OutputFormat::Jpeg => "image/jpeg",
        OutputFormat::Webp => "image/webp",
    }
}

impl Gateway {
    /// Returns the record of the caller's job.
    pub(crate) async fn record(&self, caller: &Caller, id: &str) -> Result<Arc<JobRecord>, Problem> {
        let missing = || Problem::not_found("there is no such job");
        let id = own_id(&caller.tenant, id).map_err(|_| missing())?;
        self.records.find(&caller.tenant, &id).await?.ok_or_else(missing)
    }

    /// Returns a job as it stands now. The result decides; the last known state is asked for what is on its way.
    pub(crate) async fn view(&self, record: &JobRecord) -> Result<JobView, Problem> {
        let (state, result) = tokio::join!(self.state(&record.id), self.result(record));
        let mut view = JobView::queued(record);
        if let Some(state) = &state {
            view = view.in_state(state);
        }
        match result? {
            Some(result) => view = view.ended(record, result),
            // The state is a courtesy: an end without a result was deleted, or asked for again.
            None if view.status.is_end() && view.status != Status::Parked => view.status = Status::Queued,
            None => {}
        }
        if view.status == Status::Queued {
            view.queue = self.place(&record.request).await;
        }
        Ok(view)
    }

    /// Returns the last known state of a job. A cache that is away costs what only it knows.
    pub(crate) async fn state(&self, id: &JobId) -> Option<JobState> {
        let found = self.ports.status_store.find(id).await;
        found.inspect_err(|error| tracing::debug!(job = %id, %error, "job status not read")).unwrap_or_default()
    }

    /// Returns how a job ended.
    pub(crate) async fn result(&self, record: &JobRecord) -> Result<Option<JobResult>, Problem> {
        Ok(self.ports.writer.find(&record.request).await?)
    }
}

/// `GET /v1/jobs/{id}`
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let record = gateway.record(&caller, &id).await?;
    let view = gateway.view(&record).await?;
    Ok(Json(JobView { request: Some(Box::new(record.request.clone())), ..view }))
}
