//! Tells the world what happens on a job's way: listeners by events, the scoreboard by a note. All of it is a courtesy;
//! only a job's end is told with a promise, by [`ResultWriter`](crate::ResultWriter).

use std::sync::Arc;

use echogen_ports::{Broker, Event};
use echogen_protocol::JobEvent;
use tracing::warn;

use crate::{JobState, JobStatusBoard, TaskFacts, courier::Courier};

/// Where events on the way are handed in.
#[derive(Clone, Debug)]
pub(crate) struct Announcer {
    broker: Arc<dyn Broker>,
    courier: Option<Courier<Event>>,
    board: Option<JobStatusBoard>,
}

impl Announcer {
    /// Tells at once, and waits for it.
    pub(crate) fn direct(broker: Arc<dyn Broker>) -> Self {
        Self { broker, courier: None, board: None }
    }

    /// Tells in the background. The work is to be spawned; it ends when the last clone of the announcer is gone and
    /// everything is told.
    pub(crate) fn in_background(
        broker: Arc<dyn Broker>,
        board: Option<JobStatusBoard>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let events = Arc::clone(&broker);
        let (courier, work) = Courier::new("events", move |event| {
            let broker = Arc::clone(&events);
            async move { publish(&*broker, event).await }
        });
        (Self { broker, courier: Some(courier), board }, work)
    }

    /// Tells what happened.
    pub(crate) async fn tell(&self, event: JobEvent, facts: &TaskFacts) {
        self.note(&event, facts);
        let event = Event::of_job(&event.in_trace(facts.trace));
        match &self.courier {
            Some(courier) => courier.send(event),
            None => publish(&*self.broker, event).await,
        }
    }

    /// Tells what happened and waits until it is told, for what somebody may be waiting for.
    pub(crate) async fn tell_now(&self, event: JobEvent, facts: &TaskFacts) {
        self.note(&event, facts);
        publish(&*self.broker, Event::of_job(&event.in_trace(facts.trace))).await;
    }

    fn note(&self, event: &JobEvent, facts: &TaskFacts) {
        if let (Some(board), Some(result_key)) = (&self.board, &facts.result_key) {
            board.note(&event.subject, JobState::of(event, facts, result_key));
        }
    }
}

async fn publish(broker: &dyn Broker, event: Event) {
    let topic = event.topic.clone();
    if let Err(error) = broker.publish_event(event).await {
        warn!(topic, %error, "event not sent");
    }
}
