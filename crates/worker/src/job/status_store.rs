//! The job status store: where each job stands, for whoever asks. Losing it costs nothing but the answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use echogen_ports::{Cache, Fault};
use echogen_protocol::{
    ContentHash, EventKind, Job, JobEvent, JobId, Preview, ReplyTo, ScaleProgress, TraceContext,
    json::{self, Bounds},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::{TaskMetadata, job::background_sender::BackgroundSender};

/// How long an entry stays after its last change.
const TTL: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Where a job stood when it was last heard of. Whether it has ended, its `result.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobState {
    /// The last thing that happened.
    pub state: EventKind,
    /// The stage where it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// That stage's try, 1 for the first.
    #[serde(default)]
    pub attempt: u32,
    /// The key of the job's `result.json` in the result store.
    pub result_key: String,
    /// The job's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The reply queue that the client gave, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<ReplyTo>,
    /// The job's callback URL, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// Whose job it is, as for [`NotifyTask::tenant`](echogen_protocol::NotifyTask::tenant).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What the job asked for; see [`Job::content`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentHash>,
    /// See [`Job::again`].
    #[serde(default, skip_serializing_if = "echogen_protocol::is_zero")]
    pub again: u64,
    /// How far its pictures are, while they are sampled: as the last event of a scale said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ScaleProgress>,
    /// The previews that the last event named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previews: Vec<Preview>,
    /// When it happened.
    pub updated: Timestamp,
}

impl JobState {
    /// What an event says of its job.
    pub(crate) fn of(event: &JobEvent, metadata: &TaskMetadata, result_key: &str) -> Self {
        let (progress, previews) = sampled(event);
        Self {
            state: event.kind,
            stage: metadata.stage.map(|stage| stage.to_string()),
            attempt: metadata.attempt,
            result_key: result_key.to_owned(),
            trace_id: metadata.trace.map(TraceContext::trace_id),
            reply_to: metadata.reply_to.clone(),
            callback: metadata.callback.clone(),
            tenant: metadata.tenant.clone(),
            content: metadata.content,
            again: metadata.again,
            progress,
            previews,
            updated: event.time,
        }
    }
}

/// What an event of a scale says of its job's pictures.
fn sampled(event: &JobEvent) -> (Option<ScaleProgress>, Vec<Preview>) {
    if event.kind != EventKind::Sampling {
        return (None, Vec::new());
    }
    let previews = event.data.get("previews").and_then(|previews| Vec::deserialize(previews).ok());
    (ScaleProgress::deserialize(&event.data).ok(), previews.unwrap_or_default())
}

/// Writes and reads where jobs stand, in the cache under `job-status/<id>`.
#[derive(Clone, Debug)]
pub struct JobStatusStore {
    cache: Arc<dyn Cache>,
    background: BackgroundSender<(String, Bytes)>,
}

impl JobStatusStore {
    /// A store whose writer runs on `tracker`, until the last clone of the store is gone.
    pub fn start(cache: Arc<dyn Cache>, tracker: &TaskTracker) -> Self {
        let written = Arc::clone(&cache);
        let (background, work) = BackgroundSender::new("job states", move |(key, json): (String, Bytes)| {
            let cache = Arc::clone(&written);
            async move {
                if let Err(error) = cache.put(&key, json, TTL).await {
                    debug!(key, %error, "not written");
                }
            }
        });
        tracker.spawn(work);
        Self { cache, background }
    }

    /// Notes where a job stands; never waits, and a note that cannot be written is lost.
    pub fn note(&self, id: &JobId, state: JobState) {
        self.background.send((key(id), serde_json::to_vec(&state).unwrap_or_default().into()));
    }

    /// Keeps a job as its client sent it, so that it can be asked for again by its id alone. Never waits. A job that
    /// contains its picture is not kept.
    pub fn remember(&self, job: &Job) {
        if !job.subject.image.is_inline() {
            let json = serde_json::to_vec(job).unwrap_or_default();
            self.background.send((request_key(&job.id), json.into()));
        }
    }

    /// Returns the job that was sent with this id; `None` if it is not known or contained its picture.
    pub async fn request(&self, id: &JobId) -> Result<Option<Job>, Fault> {
        let bytes = self.cache.get(&request_key(id)).await?;
        Ok(bytes.and_then(|bytes| Job::parse(&bytes).ok()))
    }

    /// Returns where a job stood when it was last heard of; `None` if nothing (readable) is known.
    pub async fn find(&self, id: &JobId) -> Result<Option<JobState>, Fault> {
        let bytes = self.cache.get(&key(id)).await?;
        Ok(bytes.and_then(|bytes| json::read(&bytes, &Bounds::MESSAGE).ok()))
    }

    /// The cache that the store is in.
    pub(crate) fn cache(&self) -> &Arc<dyn Cache> {
        &self.cache
    }
}

fn request_key(id: &JobId) -> String {
    format!("job-request/{id}")
}

fn key(id: &JobId) -> String {
    format!("job-status/{id}")
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryCache;
    use echogen_testkit::FailFirst;
    use serde_json::json;

    use super::*;

    fn state(kind: EventKind) -> JobState {
        JobState {
            state: kind,
            stage: Some("encoder".to_owned()),
            attempt: 1,
            result_key: "one/result.json".to_owned(),
            trace_id: None,
            reply_to: Some(ReplyTo { queue: "answers".to_owned(), correlation_id: None }),
            callback: Some("https://example.org/done".to_owned()),
            tenant: Some("acme".to_owned()),
            content: None,
            again: 0,
            progress: None,
            previews: Vec::new(),
            updated: Timestamp::UNIX_EPOCH,
        }
    }

    async fn written(cache: Arc<dyn Cache>) -> Option<JobState> {
        let (tracker, id) = (TaskTracker::new(), JobId("one".to_owned()));
        let status_store = JobStatusStore::start(Arc::clone(&cache), &tracker);
        status_store.note(&id, state(EventKind::Segmented));
        status_store.note(&id, state(EventKind::Encoded));
        drop(status_store);
        tracker.close();
        tracker.wait().await;
        JobStatusStore::start(cache, &TaskTracker::new()).find(&id).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_note_is_what_is_found() {
        assert_eq!(written(Arc::new(MemoryCache::new(10_000))).await, Some(state(EventKind::Encoded)));
    }

    #[test]
    fn the_event_of_a_scale_says_how_far_the_pictures_are() {
        let (id, metadata) = (JobId("one".to_owned()), TaskMetadata::default());
        let state = |kind, data| {
            let event = JobEvent::new(kind, &id, Timestamp::UNIX_EPOCH, data);
            JobState::of(&event, &metadata, "one/result.json")
        };
        let data = json!({ "scale": 3, "scales": 10, "previews": [{ "image": 0, "scale": 3 }] });
        let sampling = state(EventKind::Sampling, data.clone());
        assert_eq!(sampling.progress, Some(ScaleProgress { scale: 3, scales: 10 }));
        assert_eq!(sampling.previews, [Preview { image: 0, scale: 3 }]);
        let written = serde_json::to_vec(&sampling).unwrap();
        assert_eq!(serde_json::from_slice::<JobState>(&written).unwrap(), sampling);
        let other = state(EventKind::Encoded, data);
        assert_eq!((other.progress, other.previews), (None, Vec::new()), "of other events nothing is believed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_fails_loses_notes_and_nothing_else() {
        assert_eq!(written(Arc::new(FailFirst::new(MemoryCache::new(10_000), 2))).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unknown_or_unreadable_is_not_found() {
        let cache = Arc::new(MemoryCache::new(10_000));
        cache.put("job-status/odd", "{".into(), TTL).await.unwrap();
        let status_store = JobStatusStore::start(cache, &TaskTracker::new());
        assert_eq!(status_store.find(&JobId("odd".to_owned())).await.unwrap(), None);
        assert_eq!(status_store.find(&JobId("none".to_owned())).await.unwrap(), None);
    }
}
