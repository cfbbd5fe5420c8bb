//! A connection's stream: a snapshot, then events; a snapshot again whenever something may have been missed.
//!
//! Nothing is replayed. `Last-Event-ID` only suppresses an event that the client has already had, so a connection can be
//! resumed at any gateway of the installation.

use std::{collections::HashSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use echogen_protocol::{JobEvent, Preview, ScaleProgress};
use futures::{Stream, StreamExt, stream};
use http::{HeaderMap, HeaderName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::hub::{Listener, Topic, Update};
use crate::{
    Gateway,
    authentication::Caller,
    jobs::{JobRecord, JobView, PreviewView, Status},
    limits::StreamPlace,
    problem::Problem,
};

/// The pause after which a comment shows that the connection lives.
const ALIVE: Duration = Duration::from_secs(15);

/// The wait before a client connects again.
const RETRY: Duration = Duration::from_secs(2);

/// Jobs of a tenant's snapshot.
const SNAPSHOT_JOBS: usize = 100;

/// What happened to a job, as the data of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobUpdate {
    /// The job.
    pub job: String,
    /// Where it stands now.
    pub status: Status,
    /// The stage where it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// How far the pictures are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ScaleProgress>,
    /// A small picture on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewView>,
    /// Why it is tried again, was parked, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Jobs on their way, as a tenant's stream begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// The unfinished ones among the newest jobs.
    pub jobs: Vec<JobView>,
}

/// `GET /v1/jobs/{id}/events`
pub(crate) async fn of_job(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let record = gateway.record(&caller, &id).await?;
    let listener = gateway.hub.listen(Topic::Job(record.id.to_string()));
    opened(gateway, caller, Shown::Job(record), listener, &headers).await
}

/// `GET /v1/events`: all jobs of the tenant.
pub(crate) async fn of_tenant(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let listener = gateway.hub.listen(Topic::Tenant(caller.tenant.to_string()));
    opened(gateway, caller, Shown::Tenant, listener, &headers).await
}

async fn opened(
    gateway: Gateway,
    caller: Caller,
    shown: Shown,
    listener: Listener,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let place = gateway.streams.enter(&caller)?;
    let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let end = gateway.shutdown.clone();
    let source = Source {
        gateway,
        caller,
        shown,
        listener,
        end,
        _place: place,
        seen: seen.into_iter().collect(),
        begun: false,
        over: false,
        waiting: Vec::new(),
    };
    let events = Sse::new(events(source).boxed()).keep_alive(KeepAlive::new().interval(ALIVE));
    let mut response = events.into_response();
    let headers = response.headers_mut();
    // Proxies must neither keep nor collect events.
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), http::HeaderValue::from_static("no"));
    Ok(response)
}

/// Whose events a stream shows.
enum Shown {
    Job(Arc<JobRecord>),
    Tenant,
}

struct Source {
    gateway: Gateway,
    caller: Caller,
    shown: Shown,
    listener: Listener,
    end: CancellationToken,
    _place: StreamPlace,
    /// Events that the client has had.
    seen: HashSet<String>,
    begun: bool,
    over: bool,
    /// Events that are ready, the next one last.
    waiting: Vec<Event>,
}

fn events(source: Source) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(source, |mut source| async move { source.next().await.map(|event| (Ok(event), source)) })
}

impl Source {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if !self.begun {
                self.begun = true;
                self.snapshot().await;
                continue;
            }
            let end = self.end.clone();
            // The client connects again, to another gateway or to the next process of this one.
            match end.run_until_cancelled(self.listener.next()).await? {
                Update::Missed => self.snapshot().await,
                Update::Event(event) => self.take(&event).await,
            }
        }
    }

    /// Begins anew with the state. One that cannot be read ends the stream, and the client comes again.
    async fn snapshot(&mut self) {
        let made = match &self.shown {
            Shown::Job(record) => self.job_snapshot(record).await,
            Shown::Tenant => self.tenant_snapshot().await,
        };
        match made {
            Some((event, over)) => {
                self.waiting.push(event.retry(RETRY));
                self.over = over;
            }
            None => self.over = true,
        }
    }

    async fn job_snapshot(&self, record: &JobRecord) -> Option<(Event, bool)> {
        let view = self.gateway.view(record).await.ok()?;
        let over = view.status.is_end() && view.status != Status::Parked;
        Some((Event::default().event("snapshot").json_data(view).ok()?, over))
    }

    async fn tenant_snapshot(&self) -> Option<(Event, bool)> {
        let entries = self.gateway.records.recent(&self.caller.tenant, None, SNAPSHOT_JOBS).await.ok()?;
        let views = self.gateway.views(&self.caller, &entries).await.ok()?;
        let jobs = views.into_iter().flatten().filter(|view| !view.status.is_end()).collect();
        Some((Event::default().event("snapshot").json_data(Snapshot { jobs }).ok()?, false))
    }

    async fn take(&mut self, event: &JobEvent) {
        if self.seen.len() > 1_000 {
            self.seen.clear();
        }
        if !self.seen.insert(event.id.clone()) {
            return;
        }
        let name = event.kind.as_str();
        let named = |name: &str| Event::default().event(name).id(event.id.clone());
        if let Shown::Job(record) = &self.shown
            && event.kind.ends_job()
        {
            self.over = true;
            let view = self.gateway.view(record).await.ok();
            self.waiting.extend(view.and_then(|view| named(name).json_data(view).ok()));
            return;
        }
        let previews = previews(event);
        let update = update(event);
        // The newest of them is waiting last, so previews come after the progress they belong to.
        let shown = previews.into_iter().map(|preview| JobUpdate { preview: Some(preview), ..update.clone() });
        let shown: Vec<_> =
            shown.filter_map(|update| Event::default().event("preview").json_data(update).ok()).collect();
        self.waiting.extend(shown.into_iter().rev());
        self.waiting.extend(named(name).json_data(&update).ok());
    }
}

fn update(event: &JobEvent) -> JobUpdate {
    let text = |name: &str| event.data.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
    let message = event.data.pointer("/error/message").and_then(serde_json::Value::as_str).map(str::to_owned);
    JobUpdate {
        job: event.subject.to_string(),
        status: event.kind.into(),
        stage: text("stage"),
        progress: ScaleProgress::deserialize(&event.data).ok(),
        preview: None,
        message: message.or_else(|| text("reason")).or_else(|| text("message")),
    }
}

/// The previews that an event announces.
fn previews(event: &JobEvent) -> Vec<PreviewView> {
    let listed = event.data.get("previews").and_then(|previews| Vec::<Preview>::deserialize(previews).ok());
    listed.unwrap_or_default().into_iter().map(|preview| PreviewView::of(&event.subject, preview)).collect()
}

#[cfg(test)]
mod tests {
    use echogen_protocol::{EventKind, JobId};
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_becomes_an_update_and_its_previews() {
        let data = json!({"scale": 3, "scales": 10, "previews": [{"image": 0, "scale": 3}]});
        let event = JobEvent::new(EventKind::Sampling, &JobId("acme.mug".into()), Timestamp::UNIX_EPOCH, data);
        let update = update(&event);
        assert_eq!((update.status, update.progress), (Status::Running, Some(ScaleProgress { scale: 3, scales: 10 })));
        let url = "/v1/jobs/acme.mug/previews/0?scale=3".to_owned();
        assert_eq!(previews(&event), [PreviewView { image: 0, scale: 3, url }]);
    }
}
