//! `GET /v1/batches` and `GET /v1/batches/{id}`.

use axum::{
    Json,
    extract::{Path, Query, State},
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{BatchList, BatchView, counts::BUDGET, index::Description};
use crate::{
    Gateway,
    authentication::Caller,
    jobs::{page_fault, page_limit},
    problem::Problem,
};

/// Batches of a page, unless the request says how many.
const PAGE: usize = 20;

/// Batches of the largest page.
const MAX_PAGE: usize = 100;

/// What is asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BatchQuery {
    /// The `next` of the page before.
    #[schemars(length(max = 200))]
    after: Option<String>,
    /// Batches of a page, up to 100.
    #[schemars(range(min = 1, max = 100))]
    limit: Option<usize>,
}

/// `GET /v1/batches`. All batches of a page share one budget for counting, the newest first.
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<BatchQuery>,
) -> Result<Json<BatchList>, Problem> {
    let limit = page_limit(query.limit, PAGE, MAX_PAGE)?;
    let entries = gateway.batches.recent(&caller.tenant, query.after.as_deref(), limit).await.map_err(page_fault)?;
    let next = entries.last().filter(|_| entries.len() == limit).map(|(cursor, _)| cursor.clone());
    let (mut data, mut budget) = (Vec::new(), BUDGET);
    for (_, id) in entries {
        let Some(batch) = gateway.batches.find(&caller.tenant, &id).await? else { continue };
        let counted = gateway.count_jobs(&caller.tenant, &batch, &mut budget).await?;
        data.push(BatchView::of(&batch).with_counts(&counted));
    }
    Ok(Json(BatchList { data, next }))
}

/// `GET /v1/batches/{id}`
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<BatchView>, Problem> {
    let batch = gateway.batch(&caller, &id).await?;
    Ok(Json(gateway.batch_view(&caller, &batch).await?))
}

impl Gateway {
    /// Returns the caller's batch.
    pub(super) async fn batch(&self, caller: &Caller, id: &str) -> Result<Description, Problem> {
        let found = self.batches.find(&caller.tenant, id).await?;
        found.ok_or_else(|| Problem::not_found("there is no such batch"))
    }

    /// Returns a batch with its counts.
    pub(super) async fn batch_view(&self, caller: &Caller, batch: &Description) -> Result<BatchView, Problem> {
        let counted = self.count_jobs(&caller.tenant, batch, &mut { BUDGET }).await?;
        Ok(BatchView::of(batch).with_counts(&counted))
    }
}
