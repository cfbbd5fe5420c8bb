//! What the notifier does, for tests of other stages: it publishes events and replies, and records its tasks.

use std::sync::{Arc, Mutex};

use echogen_ports::{Broker, Event, MemoryBroker, Message};
use echogen_protocol::{Lane, Notice, NotifyTask, QueueName, StageName, StageTask, TaskHeaders};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// A consumer of the notifier's queue.
pub(super) struct StandInNotifier {
    received: Arc<Mutex<Vec<(NotifyTask, TaskHeaders)>>>,
    running: JoinHandle<()>,
}

impl StandInNotifier {
    pub(super) fn start(broker: &MemoryBroker) -> Self {
        let received = Arc::default();
        let running = TaskTracker::new().spawn(run(broker.clone(), Arc::clone(&received)));
        Self { received, running }
    }

    /// The tasks since the last call.
    pub(super) fn take(&self) -> Vec<(NotifyTask, TaskHeaders)> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

impl Drop for StandInNotifier {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn run(broker: MemoryBroker, received: Arc<Mutex<Vec<(NotifyTask, TaskHeaders)>>>) {
    let mut consumer = broker.consume(&QueueName::of(StageName::Notifier, Lane::Standard), 1).await.unwrap();
    while let Ok(Some(delivery)) = consumer.receive().await {
        let Message { body, headers } = &delivery.message;
        let (task, headers) = (NotifyTask::parse(body).expect("for the notifier"), TaskHeaders::from_map(headers));
        let event = Event::of_job(&task.event);
        if let Some(reply_to) = headers.reply_to.clone().filter(|_| task.pending.contains(&Notice::Reply)) {
            broker.publish_event(event.clone().replying_to(reply_to)).await.ok();
        }
        if task.pending.contains(&Notice::Event) {
            broker.publish_event(event).await.unwrap();
        }
        received.lock().unwrap().push((task, headers));
        delivery.ack().await.unwrap();
    }
}
