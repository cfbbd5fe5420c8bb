//! `GET /admin/workers`: which processes live.

use axum::{Json, extract::State};
use echogen_worker::Heartbeat;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Gateway, problem::Problem};

/// All processes that live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerList {
    /// The processes, one entry for each role that one runs.
    pub data: Vec<WorkerView>,
}

/// A role of a process that was heard of within the last minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerView {
    /// Its role.
    pub role: String,
    /// The name of its machine, or of its container.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// The version that it runs; absent while the cache does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it started; absent while the cache does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// `GET /admin/workers`
pub(crate) async fn list(State(gateway): State<Gateway>) -> Result<Json<WorkerList>, Problem> {
    let all = Heartbeat::all(&*gateway.ports.quota, &*gateway.ports.cache).await?;
    let view = |Heartbeat { role, host, pid, version, since }| WorkerView { role, host, pid, version, since };
    Ok(Json(WorkerList { data: all.into_iter().map(view).collect() }))
}
