//! Subscriptions to the events of one job.

use echogen_ports::{Broker, EventStream};
use echogen_protocol::{EventKind, JobEvent, JobId};

use crate::Failure;

/// The events of one job.
pub struct JobEvents {
    stream: Box<dyn EventStream>,
    id: JobId,
}

impl JobEvents {
    /// Subscribes. After this returns no event is missed while the broker is available.
    pub async fn subscribe(broker: &dyn Broker, id: &JobId) -> Result<Self, Failure> {
        let stream = broker.subscribe("job").await;
        let stream = stream.map_err(|error| Failure::refused("events cannot be received", &error))?;
        Ok(Self { stream, id: id.clone() })
    }

    /// Returns the next event; `None` once the connection is lost. Cancel safe.
    pub async fn next(&mut self) -> Option<JobEvent> {
        loop {
            let event = self.stream.next().await?.to_job();
            if let Some(event) = event.filter(|event| event.subject == self.id) {
                return Some(event);
            }
        }
    }
}

/// Returns whether no event follows this one: the job has ended or was parked.
pub(crate) fn is_last(event: &JobEvent) -> bool {
    event.kind.ends_job() || event.kind == EventKind::Parked
}

/// Returns why a job did not complete, from its last event.
pub(crate) fn reason(event: &JobEvent) -> Option<&str> {
    let why = event.data.pointer("/error/message").or_else(|| event.data.get("reason"));
    why.and_then(serde_json::Value::as_str)
}
