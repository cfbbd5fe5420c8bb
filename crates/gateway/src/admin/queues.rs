//! `GET /admin/queues`: how many tasks wait in each queue.

use axum::{Json, extract::State};
use echogen_ports::Fault;
use echogen_protocol::{QueueName, StageName};
use futures::{StreamExt, TryStreamExt, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Gateway, problem::Problem};

/// Queues that are asked at the same time.
const AT_ONCE: usize = 8;

/// All queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueList {
    /// The queues, in the order of the stages.
    pub data: Vec<QueueView>,
}

/// A queue of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueView {
    /// The stage that its tasks are for.
    pub stage: String,
    /// Its lane; absent where all lanes share a queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// Its partition of tenants; absent where all share a queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u16>,
    /// Its name, without the installation's prefix.
    pub name: String,
    /// Tasks that are ready and that nobody has received.
    pub waiting: u64,
}

/// `GET /admin/queues`
pub(crate) async fn list(State(gateway): State<Gateway>) -> Result<Json<QueueList>, Problem> {
    let partitions = gateway.partitions;
    let queues = StageName::ALL.into_iter().flat_map(|stage| {
        let queues = stage.queues(partitions).into_iter().chain(stage.unsplit());
        queues.map(move |queue| (stage, queue))
    });
    let queues: Vec<(StageName, QueueName)> = queues.collect();
    let read = stream::iter(queues).map(|(stage, queue)| gateway.queue(stage, queue)).buffered(AT_ONCE);
    Ok(Json(QueueList { data: read.try_collect().await? }))
}

impl Gateway {
    async fn queue(&self, stage: StageName, queue: QueueName) -> Result<QueueView, Fault> {
        let waiting = self.ports.browse.depth(&queue).await?;
        let place = queue.place();
        Ok(QueueView {
            stage: stage.to_string(),
            lane: place.map(|(_, lane, _)| lane.to_string()),
            partition: place.map(|(_, _, partition)| partition.number()),
            name: queue.0,
            waiting,
        })
    }
}
