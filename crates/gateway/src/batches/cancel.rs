//! `POST /v1/batches/{id}/cancel`: cancels all jobs of a batch, in the background.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::{Path, State},
};
use echogen_ports::Fault;
use echogen_protocol::JobId;
use echogen_tenants::TenantName;
use futures::{StreamExt, stream};
use http::StatusCode;
use tracing::warn;

use super::{
    BatchView,
    index::{Description, Entry},
};
use crate::{Gateway, authentication::Caller, problem::Problem};

/// Jobs that are cancelled at the same time.
const AT_ONCE: usize = 16;

/// `POST /v1/batches/{id}/cancel`. Jobs that have ended stay as they are. If this process ends before it has come through, the
/// rest is cancelled by asking again.
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<BatchView>), Problem> {
    let batch = gateway.batch(&caller, &id).await?;
    let view = gateway.batch_view(&caller, &batch).await?;
    if let Some(turn) = gateway.cancelling.begin(format!("{}/{id}", caller.tenant)) {
        let tracker = gateway.tracker.clone();
        tracker.spawn(async move {
            let end = gateway.shutdown.clone();
            end.run_until_cancelled(gateway.cancel_jobs(&caller.tenant, &batch)).await;
            drop(turn);
        });
    }
    Ok((StatusCode::ACCEPTED, Json(view)))
}

impl Gateway {
    async fn cancel_jobs(&self, tenant: &TenantName, batch: &Description) {
        for chunk in batch.chunks() {
            let entries = match self.batches.entries(tenant, &batch.id, chunk).await {
                Ok(entries) => entries,
                Err(error) => {
                    warn!(batch = %batch.id, error = %error.story(), "lines of a batch were not read, their jobs go on");
                    continue;
                }
            };
            let jobs = entries.into_iter().filter_map(|entry| match entry {
                Entry::Job { job, .. } => Some(job),
                Entry::Error { .. } => None,
            });
            let cancelling = stream::iter(jobs).for_each_concurrent(AT_ONCE, |job| async move {
                if let Err(error) = self.cancel_known(tenant, &job).await {
                    warn!(%job, error = %error.story(), "a job of a batch was not cancelled");
                }
            });
            cancelling.await;
        }
    }

    /// Cancels a job that has a record: one that was deleted is not cancelled ahead of its coming again.
    async fn cancel_known(&self, tenant: &TenantName, id: &JobId) -> Result<(), Fault> {
        if let Some(record) = self.records.find(tenant, id).await? {
            self.canceller.cancel(id, record.request.output.destination.as_deref()).await?;
            self.release(tenant.as_str(), id);
        }
        Ok(())
    }
}

/// Batches that this process is cancelling: a second request for one starts nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancelling(Arc<Mutex<HashSet<String>>>);

/// The right to cancel a batch, until it is dropped.
pub(crate) struct Turn {
    cancelling: Cancelling,
    batch: String,
}

impl Cancelling {
    fn begin(&self, batch: String) -> Option<Turn> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(batch.clone());
        is_new.then(|| Turn { cancelling: self.clone(), batch })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.cancelling.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cancelled_once_at_a_time() {
        let cancelling = Cancelling::default();
        let first = cancelling.begin("acme/a".into()).unwrap();
        assert!(cancelling.begin("acme/a".into()).is_none() && cancelling.begin("acme/b".into()).is_some());
        drop(first);
        assert!(cancelling.begin("acme/a".into()).is_some());
    }
}
