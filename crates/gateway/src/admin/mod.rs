//! Requests of operators: queues, dead letters, processes, tenants. They need a key with the scope `admin`, and are served at the
//! listener for them only.

mod letters;
mod queues;
mod tenants;
mod workers;

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    letters::{Letter, LetterList, LettersSettled},
    queues::{QueueList, QueueView},
    tenants::{KeyView, TenantList, TenantView},
    workers::{WorkerList, WorkerView},
};
pub(crate) use self::{
    letters::{LetterQuery, LettersRequest, drop_letters, list_letters, redrive_letters},
    queues::list as list_queues,
    tenants::list as list_tenants,
    workers::list as list_workers,
};

use crate::{Gateway, problem::Problem};

/// What came of filling the queues again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refilled {
    /// Jobs that were published again.
    pub published: u64,
}

/// `POST /admin/refill`
pub(crate) async fn refill(State(gateway): State<Gateway>) -> Result<Json<Refilled>, Problem> {
    Ok(Json(Refilled { published: gateway.refill().await? }))
}
