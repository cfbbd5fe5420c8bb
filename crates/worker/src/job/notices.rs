//! Hands the end of a job to the notifier: one confirmed message into a queue of our own.
//!
//! Everything that a client receives of it (the event, the reply, the callback) is sent from there. So no queue and no
//! server of a client is on the path between a product and its ack.

use echogen_ports::{Broker, Fault, Message};
use echogen_protocol::{JobEvent, Notice, NotifyTask, StageTask, TaskHeaders};
use jiff::Timestamp;

use crate::TaskMetadata;

/// Publishes the task of sending `event` to everybody whom `metadata` names, and to the subscribers. Returns when the
/// broker has confirmed it.
pub(crate) async fn notify(
    broker: &dyn Broker,
    event: &JobEvent,
    metadata: &TaskMetadata,
    now: Timestamp,
) -> Result<(), Fault> {
    let task = NotifyTask::new(event.clone(), metadata.callback.clone(), metadata.reply_to.is_some());
    let task = task.of_tenant(metadata.tenant.clone());
    publish(broker, &task, metadata, now).await
}

/// The same for the reply queue alone.
pub(crate) async fn reply(
    broker: &dyn Broker,
    event: &JobEvent,
    metadata: &TaskMetadata,
    now: Timestamp,
) -> Result<(), Fault> {
    let task = NotifyTask::new(event.clone(), None, true).only(Notice::Reply);
    publish(broker, &task, metadata, now).await
}

async fn publish(broker: &dyn Broker, task: &NotifyTask, metadata: &TaskMetadata, now: Timestamp) -> Result<(), Fault> {
    let headers = TaskHeaders {
        first_seen: Some(now),
        traceparent: metadata.trace,
        job: Some(task.event.subject.to_string()),
        reply_to: metadata.reply_to.clone(),
        ..TaskHeaders::default()
    };
    broker.publish(&task.queue(), Message::of_task(task, &headers)).await
}
