//! `POST /v1/batches`: reads lines as they come, and enters each as a job.
//!
//! The body is read no faster than its jobs are entered. What the tenant's limits do not allow now is held here until they do,
//! and not refused.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use echogen_ports::{Fault, MemoryBudget, MemoryPermit};
use echogen_protocol::{
    ContentHash, JobId,
    json::{self, Bounds},
};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    BatchView, LineError,
    index::{Description, Entry, MAX_LINES, chunk_of},
    lines::{Line, Lines},
    path_of,
    patience::Patience,
};
use crate::{
    Gateway,
    authentication::Caller,
    body::PacedBody,
    jobs::{idempotency_key, own_id},
    limits::StreamPlace,
    problem::{Kind, Problem},
};

/// The media types of one JSON document a line.
pub(crate) const MEDIA_TYPES: &[&str] = &["application/jsonl", "application/x-ndjson"];

/// Lines that are entered at the same time.
const AT_ONCE: usize = 16;

/// Bytes of lines that were read and are no jobs yet.
const MAX_BYTES_WAITING: u64 = 16 * 1024 * 1024;

/// Errors that are shown.
const MAX_SHOWN: usize = 1_000;

/// Characters of an error that is kept.
const MAX_DETAIL_CHARS: usize = 500;

/// `POST /v1/batches`
pub(crate) async fn send(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    require_lines(&headers)?;
    let key = idempotency_key(&headers)?;
    let place = gateway.streams.enter(&caller)?;
    let mut lines = Lines::new(PacedBody::new(body, u64::MAX, gateway.config.body_bytes_per_second));
    let Some(first) = lines.next().await? else {
        return Err(Problem::field("", "has no line; send one job a line"));
    };
    let id = key.map_or_else(|| Uuid::now_v7().to_string(), id_of_key);
    let batch = gateway.batches.open(&caller.tenant, Description::new(id, gateway.clock.now())).await?;
    let stop = gateway.shutdown.child_token();
    // Whoever goes away before the answer stops the intake, which then writes down how far it has come.
    let ended = stop.clone().drop_guard();
    let tracker = gateway.tracker.clone();
    let (patience, memory) = (Patience::default(), MemoryBudget::new(MAX_BYTES_WAITING));
    let intake = Intake { gateway, caller, batch, stop, patience, memory, _place: place };
    let taken = tracker.spawn(async move { Arc::new(intake).take(first, lines).await }).await;
    drop(ended);
    let view = taken.map_err(|error| Fault::internal("a batch's intake panicked").because(error))??;
    let location = HeaderValue::from_str(&path_of(&view.id));
    let mut response = (StatusCode::ACCEPTED, Json(view)).into_response();
    response.headers_mut().extend(location.map(|location| (header::LOCATION, location)));
    Ok(response)
}

fn require_lines(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = given.split(';').next().unwrap_or_default().trim();
    if MEDIA_TYPES.iter().any(|accepted| name.eq_ignore_ascii_case(accepted)) {
        return Ok(());
    }
    Err(Problem::new(Kind::MediaType, format!("send {} with one job a line", MEDIA_TYPES.join(" or "))))
}

/// The id of a batch that follows from an idempotency key.
fn id_of_key(key: &str) -> String {
    format!("batch-{:.32}", ContentHash::of(key.as_bytes()).to_string())
}

/// One batch on its way in.
struct Intake {
    gateway: Gateway,
    caller: Caller,
    /// The batch as it was when this request came.
    batch: Description,
    stop: CancellationToken,
    patience: Patience,
    memory: MemoryBudget,
    _place: StreamPlace,
}

/// A line on its way to a job.
struct Candidate {
    line: u64,
    text: Result<Bytes, String>,
    /// The memory that its text takes.
    memory: MemoryPermit,
}

/// How the reading of a body ended.
struct ReadLines {
    /// The number of the last line.
    last: u64,
    /// Lines beyond the bound.
    surplus: u64,
}

impl Intake {
    /// Takes all lines; returns the batch, or why it broke off.
    async fn take(self: Arc<Self>, first: Line, lines: Lines) -> Result<BatchView, Problem> {
        // Lines are handed on one by one, so that none is read before there is room for it.
        let (sender, receiver) = mpsc::channel(1);
        let reading = async {
            let read = self.read(first, lines, sender).await;
            if read.is_err() {
                // Nobody waits for lines that are held.
                self.stop.cancel();
            }
            read
        };
        let (read, kept) = tokio::join!(reading, Arc::clone(&self).keep(receiver));
        let (mut batch, mut errors) = kept?;
        let ReadLines { last, surplus } = read?;
        if surplus > 0 && errors.len() < MAX_SHOWN {
            let detail = format!("a batch has at most {MAX_LINES} lines; send this one and the following in another");
            errors.push(LineError { line: MAX_LINES + 1, detail });
        }
        batch = Description { lines: last, refused: batch.refused + surplus, complete: true, ..batch };
        if last < self.batch.lines {
            batch = batch.at_least(&self.batch);
        }
        self.gateway.batches.put(&self.caller.tenant, &batch).await?;
        Ok(BatchView { errors, ..BatchView::of(&batch) })
    }

    /// Reads lines until the end, and hands them on. An id belongs to the first line that has it.
    async fn read(&self, first: Line, mut lines: Lines, sender: mpsc::Sender<Candidate>) -> Result<ReadLines, Problem> {
        let (mut seen, mut read) = (HashMap::new(), ReadLines { last: 0, surplus: 0 });
        let mut next = Some(first);
        while let Some((line, text)) = next {
            read.last = line;
            if line > MAX_LINES {
                read.surplus += 1;
            } else {
                let text = text.and_then(|text| self.with_own_id(line, text, &mut seen));
                let handed_on = async {
                    let memory = self.memory.acquire(text.as_ref().map_or(0, |text| text.len() as u64)).await;
                    sender.send(Candidate { line, text, memory }).await
                };
                match self.stop.run_until_cancelled(handed_on).await {
                    Some(Ok(())) => {}
                    // The other half has failed, and its error is the answer.
                    Some(Err(_)) => break,
                    None => return Err(stopped()),
                }
            }
            next = self.stop.run_until_cancelled(lines.next()).await.ok_or_else(stopped)??;
        }
        Ok(read)
    }

    fn with_own_id(&self, line: u64, text: Bytes, seen: &mut HashMap<[u8; 16], u64>) -> Result<Bytes, String> {
        let given = given_id(&text).and_then(|id| own_id(&self.caller.tenant, &id).ok());
        let hash = ContentHash::of(given.unwrap_or_else(|| self.made_id(line)).as_str().as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&hash.as_bytes()[..16]);
        match seen.get(&short) {
            Some(before) => Err(format!("line {before} has the same id")),
            None => {
                seen.insert(short, line);
                Ok(text)
            }
        }
    }

    /// The id of a line that has none.
    fn made_id(&self, line: u64) -> JobId {
        JobId(format!("{}.{}-{line}", self.caller.tenant, self.batch.id))
    }

    /// Enters the lines and writes down what became of each; returns the batch so far, and the errors to show. Also when the
    /// lines broke off.
    async fn keep(
        self: Arc<Self>,
        receiver: mpsc::Receiver<Candidate>,
    ) -> Result<(Description, Vec<LineError>), Fault> {
        let candidates = stream::unfold(receiver, |mut receiver| async move {
            let candidate = receiver.recv().await?;
            Some((candidate, receiver))
        });
        let intake = &self;
        let entered = candidates.map(|candidate| Arc::clone(intake).enter(candidate)).buffered(AT_ONCE);
        let mut entered = std::pin::pin!(entered);
        let (mut batch, mut errors) = (Description { lines: 0, jobs: 0, refused: 0, ..self.batch.clone() }, Vec::new());
        let (mut chunk, mut entries) = (1, Vec::new());
        while let Some(entry) = entered.next().await {
            // It was not tried to its end, so nothing became of it.
            let Some(entry) = entry else { continue };
            let own = chunk_of(entry.line());
            if own != chunk {
                self.write(&mut batch, chunk, std::mem::take(&mut entries)).await?;
                chunk = own;
            }
            if let Entry::Error { line, error } = &entry
                && errors.len() < MAX_SHOWN
            {
                errors.push(LineError { line: *line, detail: error.clone() });
            }
            entries.push(entry);
        }
        self.write(&mut batch, chunk, entries).await?;
        Ok((batch, errors))
    }

    /// Writes what became of the lines of an object of the index, and adds them to the batch. A line that an earlier request
    /// has made a job stays one.
    async fn write(&self, batch: &mut Description, chunk: u64, mut entries: Vec<Entry>) -> Result<(), Fault> {
        let (batches, tenant) = (&self.gateway.batches, &self.caller.tenant);
        if self.batch.lines >= chunk {
            entries = merged(batches.entries(tenant, &batch.id, chunk).await?, entries);
        }
        batch.lines = entries.last().map_or(batch.lines, Entry::line);
        let jobs = entries.iter().filter(|entry| matches!(entry, Entry::Job { .. })).count();
        batch.jobs += jobs as u64;
        batch.refused += (entries.len() - jobs) as u64;
        batches.put_entries(tenant, &batch.id, chunk, &entries).await?;
        batches.put(tenant, &batch.at_least(&self.batch)).await
    }

    /// Enters a line; `None` if the request ended before.
    async fn enter(self: Arc<Self>, candidate: Candidate) -> Option<Entry> {
        let Candidate { line, text, memory } = candidate;
        if self.stop.is_cancelled() {
            return None;
        }
        let entered = match text {
            Ok(text) => self.enter_job(line, text, memory).await?,
            Err(error) => Err(error),
        };
        Some(entered.unwrap_or_else(|error| {
            let error = error.chars().take(MAX_DETAIL_CHARS).collect();
            Entry::Error { line, error }
        }))
    }

    async fn enter_job(&self, line: u64, text: Bytes, memory: MemoryPermit) -> Option<Result<Entry, String>> {
        let (gateway, caller) = (&self.gateway, &self.caller);
        let accept = || gateway.accepted(caller, &text, None, Some(self.made_id(line)));
        let job = match self.patience.held(&self.stop, accept).await? {
            Ok(job) => job,
            Err(problem) => return Some(Err(problem.details().detail)),
        };
        drop((text, memory));
        let enter = || gateway.enter(caller, job.clone(), Some(self.batch.id.clone()));
        let entered = self.patience.held(&self.stop, enter).await?;
        Some(entered.map_err(|problem| problem.details().detail).map(|(record, _)| {
            self.patience.renew();
            let destination = record.request.output.destination.clone();
            Entry::Job { line, job: record.id.clone(), destination }
        }))
    }
}

/// What became of lines that were sent again: what did now, unless a line has become a job before.
fn merged(before: Vec<Entry>, now: Vec<Entry>) -> Vec<Entry> {
    let mut lines: BTreeMap<u64, Entry> = before.into_iter().map(|entry| (entry.line(), entry)).collect();
    for entry in now {
        let was_job = matches!(lines.get(&entry.line()), Some(Entry::Job { .. }));
        if !was_job || matches!(entry, Entry::Job { .. }) {
            lines.insert(entry.line(), entry);
        }
    }
    lines.into_values().collect()
}

fn stopped() -> Problem {
    Problem::new(Kind::Unavailable, "the batch broke off; send it again with the same Idempotency-Key")
        .retry_in(Duration::from_secs(2))
}

/// The id that a line gives, if it can be read.
fn given_id(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        id: Option<String>,
    }
    json::read::<Named>(text, &Bounds::MESSAGE).ok()?.id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_a_job_stays_one() {
        let job = |line, id: &str| Entry::Job { line, job: JobId(id.into()), destination: None };
        let error = |line| Entry::Error { line, error: "no".into() };
        let before = vec![job(1, "a"), error(2), job(3, "c"), job(9, "i")];
        let now = vec![error(1), job(2, "b"), job(3, "d"), error(4)];
        assert_eq!(merged(before, now), [job(1, "a"), job(2, "b"), job(3, "d"), error(4), job(9, "i")]);
    }

    #[test]
    fn an_id_is_found_whatever_else_a_line_has() {
        assert_eq!(given_id(br#"{"prompt": "x", "id": "mug", "more": [1]}"#).as_deref(), Some("mug"));
        for none in [&b"{}"[..], b"", b"[]", b"{", br#"{"id": 7}"#, br#"{"id": null}"#] {
            assert_eq!(given_id(none), None);
        }
        assert_eq!(id_of_key("a"), id_of_key("a"));
        assert_ne!(id_of_key("a"), id_of_key("b"));
    }
}
