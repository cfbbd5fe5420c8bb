//! Which jobs their clients took back: what a worker heard lately, and the tasks at work that it concerns.
//!
//! Hearing is a courtesy, no more: a worker that missed the event finds the job's result when it commits its own. So
//! this is bounded, and forgets.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use echogen_ports::{Backoff, Broker};
use echogen_protocol::{EventKind, JobId};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Ids that are remembered: with a million jobs waiting, a client may take back thousands at once.
const REMEMBERED: usize = 65_536;

/// The pauses before listening again after the broker was lost.
const LISTEN_AGAIN: Backoff = Backoff::doubling(1.0, 30.0);

/// Jobs that were taken back, as far as this worker has heard.
#[derive(Debug)]
pub(crate) struct Cancellations {
    remembered: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    heard: HashSet<JobId>,
    /// The same ids, the oldest first.
    order: VecDeque<JobId>,
    at_work: HashMap<JobId, AtWork>,
}

/// Tasks of one job at work here; of a job that was sent twice there may be two.
#[derive(Debug, Default)]
struct AtWork {
    tasks: usize,
    told: CancellationToken,
}

impl Default for Cancellations {
    fn default() -> Self {
        Self::remembering(REMEMBERED)
    }
}

impl Cancellations {
    /// None heard of; at most `remembered` ids are kept.
    pub(crate) fn remembering(remembered: usize) -> Self {
        Self { remembered: remembered.max(1), state: Mutex::default() }
    }

    /// Listens to the broker for ever; spawn it, and end it by dropping it.
    pub(crate) async fn listen(self: Arc<Self>, broker: Arc<dyn Broker>) {
        let topic = format!("job.{}", EventKind::Cancelled.as_str());
        let mut failures = 0_u32;
        loop {
            failures = failures.saturating_add(1);
            match broker.subscribe(&topic).await {
                Ok(mut events) => {
                    failures = 1;
                    while let Some(event) = events.next().await {
                        if let Some(event) = event.to_job().filter(|event| event.kind == EventKind::Cancelled) {
                            self.hear(&event.subject);
                        }
                    }
                }
                Err(error) => warn!(%error, "not listening for cancelled jobs"),
            }
            sleep(LISTEN_AGAIN.wait(failures)).await;
        }
    }

    /// Records that a job was cancelled, and stops its running tasks.
    pub(crate) fn hear(&self, id: &JobId) {
        debug!(job = %id, "heard that the job is cancelled");
        let mut state = self.lock();
        if state.heard.insert(id.clone()) {
            state.order.push_back(id.clone());
        }
        while state.order.len() > self.remembered {
            let Some(oldest) = state.order.pop_front() else { break };
            state.heard.remove(&oldest);
        }
        if let Some(at_work) = state.at_work.get(id) {
            at_work.told.cancel();
        }
    }

    /// Watches for a job while a task of it is at work.
    pub(crate) fn watch(self: &Arc<Self>, id: JobId) -> Watch {
        let mut state = self.lock();
        let was_heard = state.heard.contains(&id);
        let at_work = state.at_work.entry(id.clone()).or_default();
        at_work.tasks += 1;
        if was_heard {
            at_work.told.cancel();
        }
        let told = at_work.told.clone();
        drop(state);
        Watch { all: Arc::clone(self), id, told }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running task that is stopped when its job is cancelled.
#[derive(Debug)]
pub(crate) struct Watch {
    all: Arc<Cancellations>,
    id: JobId,
    told: CancellationToken,
}

impl Watch {
    /// Whether the word has come.
    pub(crate) fn is_notified(&self) -> bool {
        self.told.is_cancelled()
    }

    /// Waits for the word.
    pub(crate) async fn notified(&self) {
        self.told.cancelled().await;
    }

    /// Forgets the word, also for those who come later: it was not true, or the job was sent anew since. From now on
    /// the next word counts.
    pub(crate) fn forget(&mut self) {
        let mut state = self.all.lock();
        if state.heard.remove(&self.id) {
            state.order.retain(|heard| *heard != self.id);
        }
        if let Some(at_work) = state.at_work.get_mut(&self.id) {
            if at_work.told.is_cancelled() {
                at_work.told = CancellationToken::new();
            }
            self.told = at_work.told.clone();
        }
    }

    /// Goes on as if the word had not come, here only.
    pub(crate) fn ignore(&mut self) {
        self.told = CancellationToken::new();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.all.lock();
        if let Some(at_work) = state.at_work.get_mut(&self.id) {
            at_work.tasks -= 1;
            if at_work.tasks == 0 {
                state.at_work.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> JobId {
        JobId(format!("job-{number}"))
    }

    #[test]
    fn a_task_is_notified_before_and_while_it_is_at_work() {
        let all = Arc::new(Cancellations::remembering(10));
        let (one, twin, other) = (all.watch(id(1)), all.watch(id(1)), all.watch(id(2)));
        assert!(!one.is_notified());
        all.hear(&id(1));
        assert_eq!([one.is_notified(), twin.is_notified(), other.is_notified()], [true, true, false]);
        drop((one, twin, other));
        assert!(all.watch(id(1)).is_notified(), "it is remembered");
        assert!(all.lock().at_work.is_empty(), "nothing is kept of tasks that are over");
    }

    #[test]
    fn a_job_that_is_sent_anew_is_forgotten() {
        let all = Arc::new(Cancellations::remembering(10));
        all.hear(&id(1));
        let mut told = all.watch(id(1));
        told.forget();
        assert!(!told.is_notified());
        assert!(!all.watch(id(1)).is_notified());
        all.hear(&id(1));
        assert!(told.is_notified() && all.watch(id(1)).is_notified(), "a later word counts again");
        told.ignore();
        assert!(!told.is_notified() && all.watch(id(1)).is_notified(), "what is ignored is so in one place");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let all = Arc::new(Cancellations::remembering(3));
        (0..1_000).for_each(|number| all.hear(&id(number % 500)));
        let state = all.lock();
        assert_eq!((state.heard.len(), state.order.len()), (3, 3));
        assert!(state.heard.contains(&id(499)) && !state.heard.contains(&id(496)));
    }
}
