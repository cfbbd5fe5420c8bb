//! Tells the world what happens on a job's way: listeners by events, the job status store by a note. All of it is a courtesy;
//! only a job's end is guaranteed to arrive, by [`notices`](crate::job::notices).

use std::sync::Arc;

use echogen_ports::{Broker, Event};
use echogen_protocol::JobEvent;
use tracing::debug;

use crate::{JobState, JobStatusStore, TaskMetadata, job::background_sender::BackgroundSender};

/// Where events on the way are handed in.
#[derive(Clone, Debug)]
pub(crate) struct EventPublisher {
    broker: Arc<dyn Broker>,
    background: Option<BackgroundSender<Event>>,
    status_store: Option<JobStatusStore>,
}

impl EventPublisher {
    /// Tells at once, and waits for it.
    pub(crate) fn direct(broker: Arc<dyn Broker>) -> Self {
        Self { broker, background: None, status_store: None }
    }

    /// Tells in the background. The work is to be spawned; it ends when the last clone of the publisher is gone and
    /// everything is published.
    pub(crate) fn in_background(
        broker: Arc<dyn Broker>,
        status_store: Option<JobStatusStore>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let events = Arc::clone(&broker);
        let (background, work) = BackgroundSender::new("events", move |event| {
            let broker = Arc::clone(&events);
            async move { publish(&*broker, event).await }
        });
        (Self { broker, background: Some(background), status_store }, work)
    }

    /// Tells what happened.
    pub(crate) async fn publish(&self, event: JobEvent, metadata: &TaskMetadata) {
        self.note(&event, metadata);
        let event = Event::of_job(&event.in_trace(metadata.trace));
        match &self.background {
            Some(background) => background.send(event),
            None => publish(&*self.broker, event).await,
        }
    }

    /// Whether more events wait to be sent than usual.
    pub(crate) fn is_behind(&self) -> bool {
        self.background.as_ref().is_some_and(BackgroundSender::is_behind)
    }

    /// Notes where the job stands.
    pub(crate) fn note(&self, event: &JobEvent, metadata: &TaskMetadata) {
        if let (Some(status_store), Some(result_key)) = (&self.status_store, &metadata.result_key) {
            status_store.note(&event.subject, JobState::of(event, metadata, result_key));
        }
    }
}

async fn publish(broker: &dyn Broker, event: Event) {
    let topic = event.topic.clone();
    if let Err(error) = broker.publish_event(event).await {
        debug!(topic, %error, "event not sent");
    }
}
