//! `POST /v1/jobs`: from a request to a record, and to a message in the queue.
//!
//! The record is written first, only if absent: it gives the job its owner, makes the request idempotent, and lets the queue be
//! filled again. A request that broke off anywhere behind it is made good by sending it again with its id or key.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use echogen_ports::{Fault, Message};
use echogen_protocol::{ContentHash, ImageLocation, ImageSource, Job, JobId, limits};
use echogen_worker::in_sending_span;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, json};
use tracing::Instrument;

use super::{JobRecord, JobView, fresh_id, id_of_key, own_id, record::Created, view::path_of};
use crate::{
    Gateway,
    authentication::Caller,
    body,
    events::{Topic, Update},
    problem::{Kind, Problem, quoted},
};

/// The longest that a request waits for the end of its job: less than the minute after which proxies give up.
const LONGEST_WAIT: Duration = Duration::from_secs(55);

/// Characters of an idempotency key.
const MAX_KEY_CHARS: usize = 255;

/// `POST /v1/jobs`
pub(crate) async fn submit(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wait = preferred_wait(&headers)?;
    let key = idempotency_key(&headers)?;
    let limit = limits::MAX_JOB_JSON_BYTES as u64;
    let json = body::read(body, limit, gateway.config.body_bytes_per_second).await?;
    // Nobody can have used this id before, so no record of it is looked for.
    let fresh = key.is_none().then(|| fresh_id(&caller.tenant));
    let job = gateway.accepted(&caller, &json, key, fresh.clone()).await?;
    let is_fresh = fresh.as_ref() == Some(&job.id);
    // Before it is published, so that no end is missed.
    let mut listener = wait.map(|_| gateway.hub.listen(Topic::Job(job.id.to_string())));
    let (record, is_new) = match is_fresh {
        true => gateway.enter_unseen(&caller, job, None).await?,
        false => gateway.enter(&caller, job, None).await?,
    };
    let view = if is_new { JobView::queued(&record) } else { gateway.view(&record).await? };
    let view = match (&mut listener, wait) {
        (Some(listener), Some(wait)) if !view.status.is_end() => {
            let waiting = async {
                loop {
                    match listener.next().await {
                        Update::Event(event) if event.kind.ends_job() => return gateway.view(&record).await,
                        Update::Event(_) => {}
                        Update::Missed => {
                            let view = gateway.view(&record).await?;
                            if view.status.is_end() {
                                return Ok(view);
                            }
                        }
                    }
                }
            };
            match tokio::time::timeout(wait, waiting).await {
                Ok(view) => view?,
                Err(_) => gateway.view(&record).await?,
            }
        }
        _ => view,
    };
    Ok(answer(view, is_new, wait))
}

fn answer(view: JobView, is_new: bool, wait: Option<Duration>) -> Response {
    let has_ended = view.status.is_end();
    let status = if is_new && !(wait.is_some() && has_ended) { StatusCode::ACCEPTED } else { StatusCode::OK };
    let location = HeaderValue::from_str(&path_of(&view.id));
    let mut response = (status, Json(view)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if let Some(Ok(applied)) = wait.map(|wait| HeaderValue::from_str(&format!("wait={}", wait.as_secs()))) {
        response.headers_mut().insert("preference-applied", applied);
    }
    response
}

/// The wait that `Prefer: wait=SECONDS` (RFC 7240) asks for.
fn preferred_wait(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split([',', ';'])).map(str::trim);
    let Some(given) = preferences.find_map(|preference| {
        let (name, value) = preference.split_once('=').unwrap_or((preference, "55"));
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').to_owned())
    }) else {
        return Ok(None);
    };
    match given.parse::<u64>() {
        Ok(seconds) if seconds >= 1 => Ok(Some(Duration::from_secs(seconds).min(LONGEST_WAIT))),
        _ => Err(Problem::new(
            Kind::BadRequest,
            format!("Prefer: wait={} is no number of seconds from 1 to 55", quoted(&given)),
        )),
    }
}

/// What names the request, by its header.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| !key.is_empty() && key.len() <= MAX_KEY_CHARS);
    let wrong = || Problem::new(Kind::BadRequest, "Idempotency-Key must be 1 to 255 visible ASCII characters");
    key.map(Some).ok_or_else(wrong)
}

impl Gateway {
    /// Reads a job and makes it the caller's own: its id, tenant and destination, and what the caller may ask for. A picture
    /// within it is stored, and the job names it by its hash.
    pub(crate) async fn accepted(
        &self,
        caller: &Caller,
        json: &[u8],
        key: Option<&str>,
        made_id: Option<JobId>,
    ) -> Result<Job, Problem> {
        let made = key.map(|key| id_of_key(&caller.tenant, key)).or(made_id);
        let made = made.unwrap_or_else(|| fresh_id(&caller.tenant));
        let defaults = Map::from_iter([("id".to_owned(), json!(made))]);
        let mut job = Job::parse_with(json, &defaults)?;
        job.id = own_id(&caller.tenant, job.id.as_str())?;
        let tenant = caller.tenant.as_str();
        if job.tenant.as_deref().is_some_and(|given| given != tenant) {
            return Err(Problem::field("/tenant", format!("is decided by the key: {tenant}; leave it out")));
        }
        job.tenant = Some(tenant.to_owned());
        job.output.destination = Some(match job.output.destination.take() {
            Some(below) => format!("{tenant}/{below}"),
            None => tenant.to_owned(),
        });
        self.permitted(caller, &job)?;
        job.subject.image = self.picture_of(caller, job.subject.image).await?;
        job.validate()?;
        Ok(job)
    }

    /// Checks what the tenant may ask for.
    fn permitted(&self, caller: &Caller, job: &Job) -> Result<(), Problem> {
        let rules = caller.rules();
        if !rules.lanes.contains(&job.lane) {
            let lanes: Vec<&str> = rules.lanes.iter().map(|lane| lane.as_str()).collect();
            return Err(Problem::field("/lane", format!("{} is not yours; use {}", job.lane, lanes.join(", "))));
        }
        if let Some(callback) = &job.callback
            && !rules.callback_hosts.is_empty()
        {
            let host = url::Url::parse(callback).ok().and_then(|url| url.host_str().map(str::to_owned));
            if !host.is_some_and(|host| rules.callback_hosts.contains(&host)) {
                let detail = format!("must be on one of your hosts: {}", rules.callback_hosts.join(", "));
                return Err(Problem::field("/callback", detail));
            }
        }
        Ok(())
    }

    /// The picture of a job, as the job is to name it.
    async fn picture_of(&self, caller: &Caller, image: ImageSource) -> Result<ImageSource, Problem> {
        const POINTER: &str = "/subject/image";
        let hash = match image.location()? {
            ImageLocation::File(_) => {
                let detail = "is a path, which only commands can read; send data:, https://, s3:// or sha256:";
                return Err(Problem::field(POINTER, detail));
            }
            ImageLocation::Https(_) => return Ok(image),
            ImageLocation::S3(_) => {
                let may_read = caller.rules().pictures_from.iter().any(|prefix| image.0.starts_with(prefix.as_str()));
                let detail = "is outside the folders that your tenant may read; upload it by POST /v1/images";
                return if may_read { Ok(image) } else { Err(Problem::field(POINTER, detail)) };
            }
            ImageLocation::Stored(hash) => {
                if !self.pictures.is_own(caller, hash).await? {
                    return Err(Problem::field(POINTER, "is no picture of yours; upload it by POST /v1/images"));
                }
                hash
            }
            ImageLocation::Data(_) => {
                let fetched = self.ports.fetcher.fetch(&image, self.config.max_image_bytes).await;
                let bytes = fetched.map_err(|fault| Problem::field(POINTER, fault.to_string()))?;
                self.pictures.keep(caller, bytes).await.map_err(|problem| match problem.kind() {
                    Kind::Invalid | Kind::TooLarge => Problem::field(POINTER, problem.details().detail),
                    _ => problem,
                })?
            }
        };
        Ok(ImageSource::stored(hash))
    }

    /// Records a job and publishes it; returns whether it is new. The second time it is published only if nothing is known of
    /// the first.
    pub(crate) async fn enter(
        &self,
        caller: &Caller,
        job: Job,
        batch: Option<String>,
    ) -> Result<(Arc<JobRecord>, bool), Problem> {
        let content = job.content();
        if let Some(existing) = self.records.read(&caller.tenant, &job.id).await? {
            return self.replayed(caller, existing, content).await;
        }
        self.enter_unseen(caller, job, batch).await
    }

    /// The same for a job that has no record, as far as is known.
    async fn enter_unseen(
        &self,
        caller: &Caller,
        job: Job,
        batch: Option<String>,
    ) -> Result<(Arc<JobRecord>, bool), Problem> {
        let content = job.content();
        self.check_words(&job).await?;
        let held = self.hold(caller, &job).await?;
        let record = JobRecord::new(caller.tenant.clone(), job, self.clock.now(), batch, caller.rules().prices);
        match self.records.create(record).await? {
            Created::New(record) => {
                let (enlisted, published) = tokio::join!(self.records.enlist(&record), self.publish(&record.request));
                enlisted.and(published)?;
                held.keep();
                Ok((record, true))
            }
            Created::Existing(existing) => {
                // Whoever was first holds the job under the same id.
                held.keep();
                self.replayed(caller, existing, content).await
            }
        }
    }

    async fn replayed(
        &self,
        caller: &Caller,
        record: Arc<JobRecord>,
        content: ContentHash,
    ) -> Result<(Arc<JobRecord>, bool), Problem> {
        if record.content != content {
            let id = &record.id;
            let detail = format!("the id {id} is taken by a job of other content; send this one under another id");
            return Err(Problem::new(Kind::Conflict, detail));
        }
        // Whoever wrote the record may have ended before it was in the listing or in the queue.
        if self.state(&record.id).await.is_none() && self.result(&record).await?.is_none() {
            let held = self.hold(caller, &record.request).await?;
            let (enlisted, published) = tokio::join!(self.records.enlist(&record), self.publish(&record.request));
            enlisted.and(published)?;
            held.keep();
        }
        Ok((record, false))
    }

    /// Publishes a job to its intake queue; returns when the broker has it.
    pub(crate) async fn publish(&self, job: &Job) -> Result<(), Fault> {
        let queue = job.intake(self.partitions);
        let (message, span) = in_sending_span(Message::of_job(job, self.clock.now()), &queue, job.id.as_str());
        self.ports.broker.publish(&queue, message).instrument(span).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_and_bounded() {
        let wait = |value: &'static str| {
            let headers =
                HeaderMap::from_iter([(http::HeaderName::from_static("prefer"), HeaderValue::from_static(value))]);
            preferred_wait(&headers).map(|wait| wait.map(|wait| wait.as_secs()))
        };
        assert_eq!(wait("wait=10").unwrap(), Some(10));
        assert_eq!(wait("respond-async, Wait = 300").unwrap(), Some(55));
        assert_eq!(wait("wait").unwrap(), Some(55));
        assert_eq!(wait("return=minimal").unwrap(), None);
        assert!(wait("wait=soon").is_err() && wait("wait=0").is_err() && wait("wait=-1").is_err());
    }
}
