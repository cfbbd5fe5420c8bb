//! The queue loop, written once for all stages.
//!
//! ```text
//!  permit ─▶ receive ─▶ decode ─▶ run the stage ─┬─ done ──────▶ publish what follows ─┐
//!    ▲          │         │                      ├─ job's fault ▶ result and event     ├─▶ ack ─▶ permit back
//!    │          │ came    │ unreadable           ├─ world's ────▶ publish with a delay │
//!    │          │ back    └──────────────────────┼─ too often ──▶ dead letter ─────────┤
//!    │          ▼                                └─ cancelled ────────────────────────┘
//!    │     all permits: it runs alone
//!    └── put back ◀── shutdown's grace is over, or a step before the ack failed
//! ```
//!
//! What must stay true: the ack comes last, after the product is stored (the stage's promise) and everything that
//! follows is confirmed by the broker. So dying at any point repeats work and loses none. The permit is taken before
//! receiving, so the limit is a limit. A consumer outlives its deliveries. A task that came back may be one that kills
//! its worker, so nothing else is at work while it runs. Dropping the future of [`Worker::run`] is like dying: nothing
//! of it goes on.

use std::{sync::Arc, time::Duration};

use echogen_ports::{Broker, Fault, QueueName};
use echogen_protocol::StageTask;
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    Clock, FailureHandler, JobStatusBoard, Stage, WorkerConfig, announcer::Announcer, cancellation::Cancellations,
    completion::Completion, handler::Handler, lanes::Consumers, quarantine::CrashLedger, waits::pause,
};

/// The time that courtesies still waiting to be told have at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A consumer that lived so long was no failure: what ends it is something new.
const STEADY: Duration = Duration::from_secs(60);

/// Runs one stage on its queues: of those that have something waiting, each is served by its weight
/// ([`WorkerConfig::lane_weights`]), and the limit on tasks at work holds for all together.
pub struct Worker<S> {
    stage: Arc<S>,
    queues: Vec<(QueueName, u32)>,
    broker: Arc<dyn Broker>,
    failures: Arc<dyn FailureHandler>,
    clock: Clock,
    config: WorkerConfig,
    board: Option<JobStatusBoard>,
}

impl<S: Stage> Worker<S> {
    /// A worker of `stage` on the queues that this stage has.
    pub fn new(
        stage: Arc<S>,
        broker: Arc<dyn Broker>,
        failures: Arc<dyn FailureHandler>,
        config: WorkerConfig,
    ) -> Self {
        let queues = config.lane_weights.queues(S::Task::STAGE);
        Self { stage, queues, broker, failures, clock: Clock::system(), config, board: None }
    }

    /// The same worker on one queue of its stage.
    #[cfg(test)]
    fn on_queue(mut self, queue: QueueName) -> Self {
        self.queues = vec![(queue, 1)];
        self
    }

    /// The same worker by another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The same worker, which notes on a scoreboard where its jobs stand, and in the board's cache which tasks take
    /// their worker down.
    #[must_use]
    pub fn with_board(mut self, board: JobStatusBoard) -> Self {
        self.board = Some(board);
        self
    }

    /// Works until `shutdown` is cancelled; then takes nothing more, lets what runs end within the grace period, puts
    /// the rest back, and returns. A broker that goes away is waited for; one that refuses is an error.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Fault> {
        echogen_telemetry::metrics().expect_stage(S::Task::STAGE, self.config.concurrency);
        let (announcer, telling) = Announcer::in_background(Arc::clone(&self.broker), self.board.clone());
        let cancellations = Arc::new(Cancellations::default());
        let (mut teller, mut listener) = (JoinSet::new(), JoinSet::new());
        teller.spawn(telling);
        listener.spawn(Arc::clone(&cancellations).listen(Arc::clone(&self.broker)));
        let ended = self.work(Arc::new(self.handler(announcer, cancellations)), &shutdown).await;
        if timeout(LAST_WORDS, teller.join_next()).await.is_err() {
            warn!(stage = S::Task::STAGE.as_str(), "some events were not sent before the end");
        }
        ended
    }

    fn handler(&self, announcer: Announcer, cancellations: Arc<Cancellations>) -> Handler<S> {
        Handler {
            stage: Arc::clone(&self.stage),
            queues: self.queues.iter().map(|(queue, _)| queue.clone()).collect(),
            completion: Completion {
                stage: S::Task::STAGE,
                broker: Arc::clone(&self.broker),
                failures: Arc::clone(&self.failures),
                clock: self.clock.clone(),
                config: self.config.clone(),
                announcer,
            },
            cancellations,
            ledger: self.board.as_ref().map(|board| CrashLedger::new(Arc::clone(board.cache()))),
        }
    }

    /// One consumer after the other.
    async fn work(&self, handler: Arc<Handler<S>>, shutdown: &CancellationToken) -> Result<(), Fault> {
        let mut failures = 0;
        while !shutdown.is_cancelled() {
            let Err(error) = self.consume(&handler, shutdown, &mut failures).await else { continue };
            if error.is_permanent() {
                return Err(error);
            }
            failures += 1;
            let wait = self.config.backoff.wait_asked(error.retry_after(), failures);
            let queues = self.queues.len();
            warn!(stage = S::Task::STAGE.as_str(), queues, %error, ?wait, "broker lost, will consume again");
            pause(wait, shutdown).await;
        }
        Ok(())
    }

    /// The life of one consumer, from its start until the last of its deliveries is settled.
    async fn consume(
        &self,
        handler: &Arc<Handler<S>>,
        shutdown: &CancellationToken,
        failures: &mut u32,
    ) -> Result<(), Fault> {
        let concurrency = self.config.concurrency.max(1);
        let mut consumers = select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            started = Consumers::start(&*self.broker, &self.queues, concurrency) => started?,
        };
        let began = Instant::now();
        // A set and no tracker: its tasks end with it, also when this future is dropped.
        let (mut tasks, abort) = (JoinSet::new(), CancellationToken::new());
        let ended = self.receive(handler, &mut consumers, &mut tasks, &abort, shutdown, failures).await;
        if began.elapsed() >= STEADY {
            *failures = 0;
        }
        consumers.stop().await;
        self.drain(&mut tasks, &abort).await;
        ended
    }

    async fn receive(
        &self,
        handler: &Arc<Handler<S>>,
        consumers: &mut Consumers,
        tasks: &mut JoinSet<()>,
        abort: &CancellationToken,
        shutdown: &CancellationToken,
        failures: &mut u32,
    ) -> Result<(), Fault> {
        let concurrency = u32::from(self.config.concurrency.max(1));
        let permits = Arc::new(Semaphore::new(concurrency as usize));
        loop {
            while let Some(ended) = tasks.try_join_next() {
                check(ended);
            }
            let received = async {
                let permit = take(&permits, 1).await;
                let Some((queue, delivery)) = consumers.next().await? else {
                    return Err(Fault::unavailable(format!("a consumer of {} has ended", S::Task::STAGE.as_str())));
                };
                // All other permits: whatever is at work ends first, and nothing begins until this one has ended.
                let rest = if delivery.redeliveries > 0 { take(&permits, concurrency - 1).await } else { None };
                Ok((queue, delivery, permit, rest))
            };
            let (queue, delivery, permit, rest) = select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                received = received => received?,
            };
            *failures = 0;
            let (handler, abort) = (Arc::clone(handler), abort.clone());
            tasks.spawn(async move {
                handler.handle(delivery, queue, rest, &abort).await;
                drop(permit);
            });
        }
    }

    async fn drain(&self, tasks: &mut JoinSet<()>, abort: &CancellationToken) {
        if timeout(self.config.grace(), all_of(tasks)).await.is_err() {
            warn!(stage = S::Task::STAGE.as_str(), tasks = tasks.len(), "grace period is over, putting tasks back");
            abort.cancel();
            all_of(tasks).await;
        }
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
fn check(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a task was not handled to its end");
    }
}

#[cfg(test)]
mod tests;
