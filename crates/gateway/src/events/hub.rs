//! One subscription of the process to the events of all jobs, and who in it listens to which.
//!
//! A listener that falls behind, and every listener after the subscription broke off, is told that it has missed something;
//! it then begins anew with a snapshot. So nothing is kept for anybody, and a slow client costs its own connection only.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use echogen_ports::{Backoff, Broker, Event};
use echogen_protocol::{EventKind, JobEvent};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::jobs::tenant_of;

/// Events that a listener may be behind.
const CAPACITY: usize = 64;

/// The pauses before the subscription is opened again.
const AGAIN: Backoff = Backoff::doubling(0.2, 5.0);

/// The time over which ends of jobs are counted.
const WINDOW: Duration = Duration::from_secs(300);

/// What a listener receives.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    /// Something happened to a job.
    Event(Arc<JobEvent>),
    /// Events may have been missed: the state is to be read anew.
    Missed,
}

/// Whose events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Those of one job.
    Job(String),
    /// Those of all jobs of a tenant.
    Tenant(String),
}

#[derive(Default)]
struct State {
    listeners: HashMap<Topic, broadcast::Sender<Update>>,
    /// When jobs ended, for an estimate of how long a queue takes.
    ends: VecDeque<Instant>,
}

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Hub(Arc<Mutex<State>>);

/// A listener's end of the hub.
pub(crate) struct Listener {
    hub: Hub,
    topic: Topic,
    updates: broadcast::Receiver<Update>,
}

impl Hub {
    /// Listens from now on.
    pub(crate) fn listen(&self, topic: Topic) -> Listener {
        let sender =
            self.lock().listeners.entry(topic.clone()).or_insert_with(|| broadcast::channel(CAPACITY).0).clone();
        Listener { hub: self.clone(), topic, updates: sender.subscribe() }
    }

    /// Jobs of the installation that ended each second, over the last minutes; `None` if there were none.
    pub(crate) fn ends_per_second(&self) -> Option<f64> {
        let state = self.lock();
        let first = state.ends.front().filter(|first| first.elapsed() < WINDOW)?;
        let seconds = first.elapsed().as_secs_f64().max(1.0);
        Some(state.ends.len() as f64 / seconds)
    }

    /// Hands events on until `end`, and calls `ended` with the tenant and id of each job that ends.
    pub(crate) async fn run(
        &self,
        broker: Arc<dyn Broker>,
        mut ended: impl FnMut(&str, &str) + Send,
        end: CancellationToken,
    ) {
        let mut failures = 0;
        while !end.is_cancelled() {
            match broker.subscribe("job").await {
                Ok(mut events) => {
                    failures = 0;
                    self.all(&Update::Missed);
                    while let Some(Some(event)) = end.run_until_cancelled(events.next()).await {
                        self.hand_on(&event, &mut ended);
                    }
                }
                Err(error) => {
                    failures += 1;
                    warn!(%error, "events of jobs cannot be received, will try again");
                }
            }
            end.run_until_cancelled(tokio::time::sleep(AGAIN.wait(failures.max(1)))).await;
        }
    }

    fn hand_on(&self, event: &Event, ended: &mut impl FnMut(&str, &str)) {
        // By its topic, `job.KIND.ID`, so that an event that nobody listens to is not parsed.
        let mut words = event.topic.splitn(3, '.');
        let (Some(kind), Some(id)) = (words.nth(1), words.next()) else { return };
        let tenant = tenant_of(id);
        if EventKind::ENDS.iter().any(|end| end.as_str() == kind) {
            self.note_end();
            if let Some(tenant) = tenant {
                ended(tenant, id);
            }
        }
        let topics = [Some(Topic::Job(id.to_owned())), tenant.map(|tenant| Topic::Tenant(tenant.to_owned()))];
        let state = self.lock();
        let senders: Vec<_> = topics.iter().flatten().filter_map(|topic| state.listeners.get(topic).cloned()).collect();
        drop(state);
        if senders.is_empty() {
            return;
        }
        let Some(event) = event.to_job().map(Arc::new) else { return };
        for sender in senders {
            // An error says that the last listener has just gone.
            drop(sender.send(Update::Event(Arc::clone(&event))));
        }
    }

    fn note_end(&self) {
        let mut state = self.lock();
        state.ends.push_back(Instant::now());
        while state.ends.len() > 10_000 || state.ends.front().is_some_and(|first| first.elapsed() > WINDOW) {
            state.ends.pop_front();
        }
    }

    fn all(&self, update: &Update) {
        for sender in self.lock().listeners.values() {
            drop(sender.send(update.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock can be used: no change of the state is left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// The next update. Cancel safe.
    pub(crate) async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Ok(update) => update,
            // The hub keeps a sender for as long as somebody listens, so the channel is not closed.
            Err(broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed) => Update::Missed,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        // This listener still counts.
        if state.listeners.get(&self.topic).is_some_and(|sender| sender.receiver_count() <= 1) {
            state.listeners.remove(&self.topic);
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("topics", &self.lock().listeners.len()).finish_non_exhaustive()
    }
}
