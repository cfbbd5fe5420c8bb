//! Subscriptions to the events of one job.

use std::{pin::Pin, sync::Arc, time::Duration};

use echogen_ports::{Backoff, Broker, EventStream, Fault};
use echogen_protocol::{ContentHash, EventKind, JobEvent, JobId};
use futures::{Stream, StreamExt, stream};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::Failure;

/// The pauses before subscribing again after the broker was lost.
const AGAIN: Backoff = Backoff::doubling(0.25, 15.0);

/// The time that one attempt to subscribe may take.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(60);

/// What a subscription yields.
#[derive(Debug)]
pub enum Incoming {
    /// An event of the job.
    Event(Box<JobEvent>),
    /// The broker was lost. Events until [`Incoming::Subscribed`] are missed.
    Lost,
    /// The subscription stands again.
    Subscribed,
}

/// The events of one job, for as long as they are wanted: a lost subscription is made again.
pub struct JobEvents {
    incoming: Pin<Box<dyn Stream<Item = Incoming> + Send>>,
}

impl JobEvents {
    /// Subscribes. After this returns no event is missed while the broker is available.
    pub async fn subscribe(broker: Arc<dyn Broker>, id: &JobId) -> Result<Self, Failure> {
        let first = try_subscribe(&*broker, id).await;
        let first = first.map_err(|error| Failure::refused("events cannot be received", &error))?;
        Ok(Self { incoming: Box::pin(incoming(broker, id.clone(), first)) })
    }

    /// Waits for the next event, or for a change of the subscription. Cancel safe.
    pub async fn next(&mut self) -> Incoming {
        match self.incoming.next().await {
            Some(incoming) => incoming,
            // The stream never ends.
            None => std::future::pending().await,
        }
    }
}

async fn try_subscribe(broker: &dyn Broker, id: &JobId) -> Result<Box<dyn EventStream>, Fault> {
    let subscribed = timeout(SUBSCRIBE_TIMEOUT, broker.subscribe(&topics(id))).await;
    subscribed.unwrap_or_else(|_| Err(Fault::timed_out(format!("no subscription within {SUBSCRIBE_TIMEOUT:?}"))))
}

/// The topics of a job's events, of every kind.
fn topics(id: &JobId) -> String {
    format!("job.*.{id}")
}

enum State {
    Subscribed(Box<dyn EventStream>),
    Lost,
}

/// An endless stream. It holds the state of an attempt to subscribe, so that a caller that stops waiting does not start it anew.
fn incoming(broker: Arc<dyn Broker>, id: JobId, first: Box<dyn EventStream>) -> impl Stream<Item = Incoming> + Send {
    stream::unfold(State::Subscribed(first), move |state| {
        let (broker, id) = (Arc::clone(&broker), id.clone());
        async move {
            match state {
                State::Subscribed(mut events) => match next_of(&mut *events, &id).await {
                    Some(event) => Some((Incoming::Event(Box::new(event)), State::Subscribed(events))),
                    None => Some((Incoming::Lost, State::Lost)),
                },
                State::Lost => Some((Incoming::Subscribed, State::Subscribed(subscribe_again(&*broker, &id).await))),
            }
        }
    })
}

/// Returns the next event of the job; `None` when the subscription has ended.
async fn next_of(events: &mut dyn EventStream, id: &JobId) -> Option<JobEvent> {
    loop {
        // The topics of a job whose id continues this one with a dot match too.
        let event = events.next().await?.to_job();
        if let Some(event) = event.filter(|event| event.subject == *id) {
            return Some(event);
        }
    }
}

async fn subscribe_again(broker: &dyn Broker, id: &JobId) -> Box<dyn EventStream> {
    let mut failures = 1;
    loop {
        sleep(AGAIN.wait(failures)).await;
        match try_subscribe(broker, id).await {
            Ok(events) => return events,
            Err(error) => warn!(job = %id, %error, failures, "events cannot be received, trying again"),
        }
        failures = failures.saturating_add(1);
    }
}

/// Returns whether no event follows this one for whoever sent a job with this content: the job has ended or was parked, or
/// its id is taken by other content.
pub(crate) fn is_last(event: &JobEvent, content: Option<ContentHash>) -> bool {
    let is_refused = || event.kind == EventKind::Conflict && is_about(event, content);
    event.kind.ends_job() || event.kind == EventKind::Parked || is_refused()
}

fn is_about(event: &JobEvent, content: Option<ContentHash>) -> bool {
    let refused = event.data.get("content").and_then(serde_json::Value::as_str);
    content.is_some_and(|content| refused == Some(content.to_string().as_str()))
}

/// Returns why a job did not complete, from its last event.
pub(crate) fn reason(event: &JobEvent) -> Option<&str> {
    let why = event.data.pointer("/error/message").or_else(|| event.data.get("reason"));
    let why = why.or_else(|| event.data.get("message"));
    why.and_then(serde_json::Value::as_str)
}
