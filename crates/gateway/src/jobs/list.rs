//! `GET /v1/jobs`: a tenant's jobs, the newest first, page by page.

use std::fmt::Display;

use axum::{
    Json,
    extract::{Query, State},
};
use echogen_ports::{Fault, FaultKind};
use echogen_protocol::JobId;
use futures::{StreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{JobView, Status};
use crate::{Gateway, authentication::Caller, problem::Problem};

/// Jobs of a page, unless the request says how many.
const PAGE: usize = 50;

/// Jobs of the largest page.
const MAX_PAGE: usize = 200;

/// Jobs that are looked at for one page, if a filter leaves few of them.
const MAX_SCANNED: usize = 2_000;

/// Jobs that are read at the same time.
const AT_ONCE: usize = 16;

/// What is asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// The `next` of the page before.
    #[schemars(length(max = 200))]
    after: Option<String>,
    /// Jobs of a page, up to 200.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// Only jobs that stand here.
    status: Option<Status>,
    /// Only jobs of this batch.
    #[schemars(length(max = MAX_BATCH_CHARS))]
    batch: Option<String>,
}

/// Characters of a batch's id, at most, in a query.
const MAX_BATCH_CHARS: usize = 200;

/// A page of jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobList {
    /// The jobs, the newest first.
    pub data: Vec<JobView>,
    /// Where the next page begins, as `after`; null on the last one.
    pub next: Option<String>,
}

/// `GET /v1/jobs`
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<JobList>, Problem> {
    let limit = page_limit(query.limit, PAGE, MAX_PAGE)?;
    if query.batch.as_ref().is_some_and(|batch| batch.chars().count() > MAX_BATCH_CHARS) {
        return Err(Problem::field("/batch", format!("is no batch: it has more than {MAX_BATCH_CHARS} characters")));
    }
    let (mut data, mut after, mut scanned) = (Vec::new(), query.after.clone(), 0);
    loop {
        let entries = gateway.records.recent(&caller.tenant, after.as_deref(), limit).await.map_err(page_fault)?;
        let is_last = entries.len() < limit;
        scanned += entries.len();
        let views = gateway.views(&caller, &entries).await?;
        for ((cursor, _), view) in entries.into_iter().zip(views) {
            after = Some(cursor);
            let Some(view) = view else { continue };
            let is_asked = query.status.is_none_or(|status| view.status == status)
                && query.batch.as_ref().is_none_or(|batch| view.batch.as_ref() == Some(batch));
            if is_asked {
                data.push(view);
            }
            if data.len() == limit {
                return Ok(Json(JobList { data, next: after }));
            }
        }
        if is_last {
            return Ok(Json(JobList { data, next: None }));
        }
        if scanned >= MAX_SCANNED {
            return Ok(Json(JobList { data, next: after }));
        }
    }
}

/// How many entries a page has.
pub(crate) fn page_limit<N: PartialOrd + From<u8> + Display>(given: Option<N>, page: N, most: N) -> Result<N, Problem> {
    match given {
        Some(limit) if limit < N::from(1) || limit > most => {
            Err(Problem::field("/limit", format!("is {limit}; write a number from 1 to {most}")))
        }
        given => Ok(given.unwrap_or(page)),
    }
}

/// The error of a page that cannot be read: its cursor may be none.
pub(crate) fn page_fault(fault: Fault) -> Problem {
    match fault.kind() {
        FaultKind::InvalidJob => Problem::field("/after", "is no cursor of a page"),
        _ => fault.into(),
    }
}

impl Gateway {
    /// The jobs of a page as they stand now; `None` for one that is being deleted.
    pub(crate) async fn views(
        &self,
        caller: &Caller,
        entries: &[(String, JobId)],
    ) -> Result<Vec<Option<JobView>>, Problem> {
        // Owned, because a stream of futures that borrow its items cannot be sent between threads.
        let ids: Vec<JobId> = entries.iter().map(|(_, id)| id.clone()).collect();
        let views = stream::iter(ids).map(|id| async move {
            match self.records.find(&caller.tenant, &id).await? {
                Some(record) => self.view(&record).await.map(Some),
                None => Ok(None),
            }
        });
        let views: Vec<Result<Option<JobView>, Problem>> = views.buffered(AT_ONCE).collect().await;
        views.into_iter().collect()
    }
}
