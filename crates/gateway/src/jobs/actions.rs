//! What can be done about a job: cancel it, ask for it again, delete it.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey};
use echogen_protocol::{Job, JobStatus};
use http::StatusCode;

use super::{JobView, Status};
use crate::{
    Gateway,
    authentication::Caller,
    problem::{Kind, Problem},
};

/// `POST /v1/jobs/{id}/cancel`. A job that has ended stays as it is.
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    let record = gateway.record(&caller, &id).await?;
    gateway.cancel(&record.request).await?;
    Ok(Json(gateway.view(&record).await?))
}

/// `POST /v1/jobs/{id}/again`. Only what has ended without its pictures can be asked for again.
pub(crate) async fn again(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let record = gateway.record(&caller, &id).await?;
    let before = gateway.result(&record).await?;
    match &before {
        Some(result) if result.status == JobStatus::Completed => {
            let detail = "the job has completed; send a new one to have other pictures";
            return Err(Problem::new(Kind::Conflict, detail));
        }
        Some(_) => {}
        None if gateway.state(&record.id).await.is_some_and(|state| Status::from(state.state) == Status::Parked) => {}
        None => return Err(Problem::new(Kind::Conflict, "the job has not ended; cancel it first")),
    }
    let held = gateway.hold(&caller, &record.request).await?;
    let again = u64::try_from(gateway.clock.now().as_millisecond()).unwrap_or(1);
    let job = Job { again, deadline: None, ..record.request.clone() };
    // The old result goes first: whoever looks from now on is to see that the job is on its way.
    let key = ObjectKey::of_result(&job).map_err(Fault::from)?;
    gateway.ports.results.delete(&key).await?;
    if let Err(error) = gateway.publish(&job).await {
        let bytes = before.and_then(|result| serde_json::to_vec_pretty(&result).ok()).map(Bytes::from);
        if let Some(bytes) = bytes {
            gateway.ports.results.put_if_absent(&key, bytes).await?;
        }
        return Err(error.into());
    }
    held.keep();
    Ok((StatusCode::ACCEPTED, Json(JobView::queued(&record))).into_response())
}

/// `DELETE /v1/jobs/{id}`. The record goes last, so a deletion that breaks off can be asked for again.
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let record = gateway.record(&caller, &id).await?;
    let Some(result) = gateway.result(&record).await? else {
        let is_parked = gateway.state(&record.id).await.is_some_and(|state| Status::from(state.state).is_end());
        return if is_parked {
            gateway.records.delete(&record).await?;
            Ok(StatusCode::NO_CONTENT)
        } else {
            Err(Problem::new(Kind::Conflict, "the job has not ended; cancel it first"))
        };
    };
    for image in &result.images {
        gateway.ports.results.delete(&ObjectKey::new(image.key.clone()).map_err(Fault::from)?).await?;
    }
    let key = ObjectKey::of_result(&record.request).map_err(Fault::from)?;
    gateway.ports.results.delete(&key).await?;
    gateway.records.delete(&record).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Gateway {
    /// Cancels a job unless it has ended.
    pub(crate) async fn cancel(&self, job: &Job) -> Result<(), Problem> {
        self.canceller.cancel(&job.id, job.output.destination.as_deref()).await?;
        if let Some(tenant) = &job.tenant {
            // Its end is known here before its event comes, if that comes at all.
            self.release(tenant, &job.id);
        }
        Ok(())
    }
}
