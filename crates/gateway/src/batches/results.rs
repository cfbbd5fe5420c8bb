//! `GET /v1/batches/{id}/results`: one line for each line of the batch, in their order: the job as it stands now, or the error.

use std::{collections::VecDeque, io};

use axum::{
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use echogen_ports::Fault;
use futures::{StreamExt, stream};
use http::header;
use serde_json::json;
use tracing::warn;

use super::index::{Description, Entry};
use crate::{Gateway, authentication::Caller, limits::StreamPlace, problem::Problem};

/// Jobs that are read at the same time.
const AT_ONCE: usize = 16;

/// The media type of one JSON document a line.
const MEDIA_TYPE: &str = "application/x-ndjson";

/// `GET /v1/batches/{id}/results`. Lines are read as the client takes them. A stream that cannot go on breaks off, and never
/// ends as if it were whole.
pub(crate) async fn results(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let batch = gateway.batch(&caller, &id).await?;
    let place = gateway.streams.enter(&caller)?;
    let source = Source::new(gateway.clone(), caller.clone(), batch, place);
    let entries = stream::unfold(source, |mut source| async move { source.next().await.map(|next| (next, source)) });
    let lines = entries.map(move |entry| {
        let (gateway, caller) = (gateway.clone(), caller.clone());
        async move {
            match entry {
                Ok(entry) => gateway.result_line(&caller, entry).await.map_err(|problem| problem.details().detail),
                Err(fault) => Err(fault.story()),
            }
        }
    });
    let lines = lines.buffered(AT_ONCE).map(|line| {
        line.map_err(|detail| {
            warn!(error = detail, "results of a batch break off");
            io::Error::other(detail)
        })
    });
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], Body::from_stream(lines)).into_response())
}

/// The lines of a batch, read object by object.
struct Source {
    gateway: Gateway,
    caller: Caller,
    batch: Description,
    chunks: VecDeque<u64>,
    entries: VecDeque<Entry>,
    _place: StreamPlace,
}

impl Source {
    fn new(gateway: Gateway, caller: Caller, batch: Description, place: StreamPlace) -> Self {
        let chunks = batch.chunks().collect();
        Self { gateway, caller, batch, chunks, entries: VecDeque::new(), _place: place }
    }

    async fn next(&mut self) -> Option<Result<Entry, Fault>> {
        loop {
            if let Some(entry) = self.entries.pop_front() {
                // A stream of hours must not hold up the end of the process.
                let is_over = self.gateway.shutdown.is_cancelled();
                return Some(if is_over { Err(Fault::unavailable("the gateway ends")) } else { Ok(entry) });
            }
            let chunk = self.chunks.pop_front()?;
            match self.gateway.batches.entries(&self.caller.tenant, &self.batch.id, chunk).await {
                Ok(entries) => self.entries = entries.into(),
                Err(fault) => return Some(Err(fault)),
            }
        }
    }
}

impl Gateway {
    async fn result_line(&self, caller: &Caller, entry: Entry) -> Result<Bytes, Problem> {
        let json = match entry {
            Entry::Job { line, job, .. } => match self.records.find(&caller.tenant, &job).await? {
                Some(record) => serde_json::to_vec(&self.view(&record).await?),
                None => serde_json::to_vec(&json!({ "line": line, "error": format!("the job {job} was deleted") })),
            },
            Entry::Error { line, error } => serde_json::to_vec(&json!({ "line": line, "error": error })),
        };
        let mut line = json.map_err(|error| Fault::internal("a line cannot be written as JSON").because(error))?;
        line.push(b'\n');
        Ok(line.into())
    }
}
