//! The tasks at work. They outlive the consumers by which they came: a connection that is lost takes no work with it.
//!
//! A task whose connection is lost can no longer be acknowledged, so its message comes again, while the task itself goes on
//! and publishes what follows. That message is no suspect: its worker did not die of it. It waits until the task has ended,
//! and then finds what that task has made.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use echogen_ports::Delivery;
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    consumers::{Consumers, InHand},
    waiting_tasks::WaitingTasks,
};

/// A task that came back so often runs alone. Once is no reason: a worker that stops returns whatever it was sent ahead, and the
/// neighbours of a task that kills its worker come back with it.
const SUSPECT_FROM: u32 = 2;

/// Whether a task may be one that kills its worker.
pub(crate) fn is_suspect(delivery: &Delivery) -> bool {
    delivery.redeliveries >= SUSPECT_FROM
}

/// Messages that are remembered to come again; of more, the oldest are forgotten, and count as suspects when they come.
const REMEMBERED: usize = 4_096;

/// The tasks at work, those of earlier consumers included.
pub(crate) struct TasksAtWork {
    /// A set and no tracker: its tasks end with it, also when the worker's future is dropped.
    tasks: JoinSet<()>,
    /// One for each task that may be at work, whatever consumer it came by.
    permits: Arc<Semaphore>,
    /// One for each of these tasks that is not of the interactive lane.
    places: Arc<Semaphore>,
    /// All permits.
    concurrency: u32,
    /// Cancelled when the grace period of a shutdown is over.
    abort: CancellationToken,
    waiting: WaitingTasks,
    /// Tasks that came by the present consumer.
    present: Vec<Running>,
    /// Tasks whose consumer is lost, and whose messages have not come again.
    lost: VecDeque<Lost>,
    hasher: RandomState,
}

struct Running {
    body: Bytes,
    ended: CancellationToken,
}

struct Lost {
    bytes: usize,
    hash: u64,
    ended: CancellationToken,
}

/// What a task needs that is to be at work.
pub(crate) struct Admission {
    /// Its own share of the limit.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Its place among those that are not of the interactive lane.
    pub(crate) place: Option<OwnedSemaphorePermit>,
    /// Of a suspect: everybody else's share, so that it runs alone.
    pub(crate) alone: Option<OwnedSemaphorePermit>,
    /// The end of the task of the same message that is still at work, since its connection was lost.
    pub(crate) earlier: Option<CancellationToken>,
}

impl TasksAtWork {
    /// For so many tasks at once, and `reserved` more of the interactive lane.
    pub(crate) fn new(concurrency: u16, reserved: u16) -> Self {
        let places = u32::from(concurrency.max(1));
        let concurrency = places + u32::from(reserved);
        Self {
            tasks: JoinSet::new(),
            permits: Arc::new(Semaphore::new(concurrency as usize)),
            places: Arc::new(Semaphore::new(places as usize)),
            concurrency,
            abort: CancellationToken::new(),
            waiting: WaitingTasks::default(),
            present: Vec::new(),
            lost: VecDeque::new(),
            hasher: RandomState::new(),
        }
    }

    /// The tasks in hand that have not begun.
    pub(crate) fn waiting(&self) -> &WaitingTasks {
        &self.waiting
    }

    /// Waits until one more task may be at work. Cancel safe.
    pub(crate) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        take(&self.permits, 1).await
    }

    /// Waits until one more task that is not of the interactive lane may be at work. Cancel safe.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        take(&self.places, 1).await
    }

    /// Says how a delivery runs. One that came back because its connection was lost waits for its earlier self. Any other that
    /// came back [often](SUSPECT_FROM) runs alone: this waits until whatever is at work has ended, and nothing begins until it
    /// has.
    pub(crate) async fn admit(
        &mut self,
        delivery: &Delivery,
        permit: Option<OwnedSemaphorePermit>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Admission {
        let came_back = delivery.redeliveries > 0;
        let earlier = if came_back { self.expected_back(&delivery.message.body) } else { None };
        if earlier.is_some() || !is_suspect(delivery) {
            return Admission { permit, place, alone: None, earlier };
        }
        let alone = take(&self.permits, self.concurrency - 1).await;
        Admission { permit, place, alone, earlier: None }
    }

    /// Starts a task, which comes by the present consumer.
    pub(crate) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        body: Bytes,
        admission: Admission,
        in_hand: InHand,
        work: impl FnOnce(Option<OwnedSemaphorePermit>, CancellationToken) -> F + Send + 'static,
    ) {
        while let Some(ended) = self.tasks.try_join_next() {
            check(ended);
        }
        self.present.retain(|running| !running.ended.is_cancelled());
        let ended = CancellationToken::new();
        self.present.push(Running { body, ended: ended.clone() });
        let (abort, permits, places) = (self.abort.clone(), Arc::clone(&self.permits), Arc::clone(&self.places));
        self.tasks.spawn(async move {
            // Dropped at the end, also at a panic: the consumer may go, and another of the same message may begin.
            let (in_hand, _ended) = (in_hand, ended.drop_guard());
            let Admission { mut permit, mut place, alone, earlier } = admission;
            if let Some(earlier) = earlier {
                // Whoever only waits takes no share of the limit from others.
                drop(permit);
                let has_place = place.take().is_some();
                select! {
                    // The grace period is over: it is requeued as soon as it has its turn.
                    () = abort.cancelled() => {}
                    // Its product is there now, or the earlier try failed.
                    () = earlier.cancelled() => {}
                }
                permit = take(&permits, 1).await;
                if has_place {
                    place = take(&places, 1).await;
                }
            }
            work(alone, abort).await;
            // In this order: whoever takes the place sees that the credit is back.
            drop(in_hand);
            drop(place);
            drop(permit);
        });
    }

    /// Lets a consumer go that has ended. It takes nothing more, and is kept until the last of its deliveries is settled:
    /// where the connection is not lost, they still can be.
    pub(crate) fn retire(&mut self, mut consumers: Consumers) {
        for Running { body, ended } in self.present.drain(..).filter(|running| !running.ended.is_cancelled()) {
            self.lost.push_back(Lost { bytes: body.len(), hash: self.hasher.hash_one(&body), ended });
        }
        self.lost.drain(..self.lost.len().saturating_sub(REMEMBERED));
        self.tasks.spawn(async move {
            // In this order: what it has received and nobody handles goes back first, to whoever consumes now.
            consumers.stop().await;
            consumers.settled().await;
        });
    }

    /// Waits for the end of all tasks; after `grace` they are told to requeue what they have.
    pub(crate) async fn drain(&mut self, grace: Duration, at_end_of_grace: impl FnOnce(usize)) {
        if timeout(grace, all_of(&mut self.tasks)).await.is_err() {
            at_end_of_grace(self.tasks.len());
            self.abort.cancel();
            all_of(&mut self.tasks).await;
        }
    }

    /// The end of the task of this message that is at work without a consumer, if there is one. Each is found once.
    fn expected_back(&mut self, body: &Bytes) -> Option<CancellationToken> {
        // A body is hashed only if it can be one of those.
        self.lost.iter().find(|lost| lost.bytes == body.len())?;
        let hash = self.hasher.hash_one(body);
        let index = self.lost.iter().position(|lost| lost.bytes == body.len() && lost.hash == hash)?;
        self.lost.remove(index).map(|lost| lost.ended)
    }
}

/// Permits are never closed while they are asked for.
async fn take(permits: &Arc<Semaphore>, count: u32) -> Option<OwnedSemaphorePermit> {
    Arc::clone(permits).acquire_many_owned(count).await.ok()
}

async fn all_of(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        check(ended);
    }
}

/// A stage's panic is caught where it runs; one here is a fault of the loop, and its delivery comes again.
fn check(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a task was not handled to its end");
    }
}
