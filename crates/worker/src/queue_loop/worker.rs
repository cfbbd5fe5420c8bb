//! The queue loop, written once for all stages.
//!
//! ```text
//!  permit ─▶ receive ─▶ decode ─▶ run the stage ─┬─ done ──────▶ publish what follows ─┐
//!    ▲          │         │                      ├─ job's fault ▶ result and event     ├─▶ ack ─▶ permit back
//!    │          │ came    │ unreadable           ├─ world's ────▶ publish with a delay │
//!    │          │ back    └──────────────────────┼─ too often ──▶ dead letter ─────────┤
//!    │          ▼                                └─ cancelled ────────────────────────┘
//!    │     all permits: it runs alone
//!    └── requeued ◀── shutdown's grace is over, or a step before the ack failed
//! ```
//!
//! What must stay true: the ack comes last, after the product is stored (the stage's promise) and everything that
//! follows is confirmed by the broker. So dying at any point repeats work and loses none. The permit is taken before
//! receiving, so the limit is a limit; it holds for the tasks of all consumers together. A consumer outlives its
//! deliveries, and tasks outlive a consumer that is lost. A task that came back may be one that kills its worker, so
//! nothing else is at work while it runs, unless it came back because its connection was lost. Dropping the future of
//! [`Worker::run`] is like dying: nothing of it goes on.

use std::{sync::Arc, time::Duration};

use echogen_ports::{Broker, Fault};
use echogen_protocol::{StageTask, TaskHeaders};
use tokio::{
    select,
    sync::OwnedSemaphorePermit,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    Clock, FailureHandler, JobStatusStore, Stage,
    job::{cancellations::Cancellations, event_publisher::EventPublisher},
};

use super::{
    completion::Completion,
    config::WorkerConfig,
    consumers::{Consumers, Lanes, Received},
    crash_counter::CrashCounter,
    handler::Handler,
    lanes::LaneQueues,
    tasks_at_work::TasksAtWork,
    waits::pause,
};

/// The time that best-effort events have to be sent at shutdown.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Of the tasks at once, one in so many more may be of the interactive lane where tasks wait for their turn.
const INTERACTIVE_SHARE: u16 = 8;

/// A consumer that lived so long was no failure: what ends it is something new.
const STEADY: Duration = Duration::from_secs(60);

/// Runs one stage on its queues: lanes by their weights ([`WorkerConfig::lane_weights`]), partitions of tenants in turn. The limit
/// on tasks at work holds for all together.
pub struct Worker<S> {
    stage: Arc<S>,
    lanes: Vec<LaneQueues>,
    broker: Arc<dyn Broker>,
    failures: Arc<dyn FailureHandler>,
    clock: Clock,
    config: WorkerConfig,
    status_store: Option<JobStatusStore>,
}

impl<S: Stage> Worker<S> {
    /// A worker of `stage` on the queues that this stage has.
    pub fn new(
        stage: Arc<S>,
        broker: Arc<dyn Broker>,
        failures: Arc<dyn FailureHandler>,
        config: WorkerConfig,
    ) -> Self {
        let lanes = config.lane_weights.queues(config.queues(S::Task::STAGE));
        Self { stage, lanes, broker, failures, clock: Clock::system(), config, status_store: None }
    }

    /// The same worker on one queue of its stage.
    #[cfg(test)]
    fn on_queue(mut self, queue: echogen_ports::QueueName) -> Self {
        self.lanes = vec![LaneQueues { weight: 1, queues: vec![queue] }];
        self
    }

    /// The same worker by another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The same worker, which notes in a job status store where its jobs stand, and in the store's cache which tasks take
    /// their worker down.
    #[must_use]
    pub fn with_status_store(mut self, status_store: JobStatusStore) -> Self {
        self.status_store = Some(status_store);
        self
    }

    /// Works until `shutdown` is cancelled; then takes nothing more, lets what runs end within the grace period, puts
    /// the rest back, and returns. A broker that goes away is waited for; one that refuses is an error.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Fault> {
        echogen_telemetry::metrics().expect_stage(S::Task::STAGE, self.config.concurrency);
        echogen_telemetry::metrics().serves(S::Task::STAGE, &self.config.lanes);
        let (publisher, telling) = EventPublisher::in_background(Arc::clone(&self.broker), self.status_store.clone());
        let cancellations = Arc::new(Cancellations::default());
        let (mut teller, mut listener) = (JoinSet::new(), JoinSet::new());
        teller.spawn(telling);
        listener.spawn(Arc::clone(&cancellations).listen(Arc::clone(&self.broker)));
        let ended = self.work(Arc::new(self.handler(publisher, cancellations)), &shutdown).await;
        if timeout(LAST_WORDS, teller.join_next()).await.is_err() {
            warn!(stage = S::Task::STAGE.as_str(), "some events were not sent before the end");
        }
        ended
    }

    fn handler(&self, publisher: EventPublisher, cancellations: Arc<Cancellations>) -> Handler<S> {
        Handler {
            stage: Arc::clone(&self.stage),
            queues: self.lanes.iter().flat_map(|lane| &lane.queues).cloned().collect(),
            completion: Completion {
                stage: S::Task::STAGE,
                broker: Arc::clone(&self.broker),
                failures: Arc::clone(&self.failures),
                clock: self.clock.clone(),
                config: self.config.clone(),
                publisher,
            },
            cancellations,
            crash_counter: self
                .status_store
                .as_ref()
                .map(|status_store| CrashCounter::new(Arc::clone(status_store.cache()))),
        }
    }

    /// Consumes until `shutdown`, or until the broker refuses; then waits for the tasks at work.
    async fn work(&self, handler: Arc<Handler<S>>, shutdown: &CancellationToken) -> Result<(), Fault> {
        // A stage whose tasks wait for their turn could be full of them.
        let reserved = if self.stage.begins_later() { self.config.concurrency.div_ceil(INTERACTIVE_SHARE) } else { 0 };
        let mut tasks = TasksAtWork::new(self.config.concurrency, reserved);
        let ended = self.consume_again_and_again(&handler, &mut tasks, shutdown).await;
        let stage = S::Task::STAGE.as_str();
        let late = |tasks| warn!(stage, tasks, "grace period is over, requeueing tasks");
        tasks.drain(self.config.grace(), late).await;
        ended
    }

    /// One consumer after the other. A lost connection costs no work: the tasks at work go on, and meanwhile what the limit
    /// leaves is consumed.
    async fn consume_again_and_again(
        &self,
        handler: &Arc<Handler<S>>,
        tasks: &mut TasksAtWork,
        shutdown: &CancellationToken,
    ) -> Result<(), Fault> {
        let mut failures = 0;
        while !shutdown.is_cancelled() {
            let Err(fault) = self.consume(handler, tasks, shutdown, &mut failures).await else { continue };
            if fault.is_permanent() {
                return Err(fault);
            }
            failures += 1;
            let wait = self.config.backoff.wait_asked(fault.retry_after(), failures);
            let queues: usize = self.lanes.iter().map(|lane| lane.queues.len()).sum();
            warn!(stage = S::Task::STAGE.as_str(), queues, error = %fault, ?wait, "broker lost, will consume again");
            pause(wait, shutdown).await;
        }
        Ok(())
    }

    /// The life of one consumer.
    async fn consume(
        &self,
        handler: &Arc<Handler<S>>,
        tasks: &mut TasksAtWork,
        shutdown: &CancellationToken,
        failures: &mut u32,
    ) -> Result<(), Fault> {
        let mut consumers = select! {
            // In this order: whoever is to end begins nothing.
            biased;
            // A broker that does not answer holds up no shutdown.
            () = shutdown.cancelled() => return Ok(()),
            started = Consumers::start(&self.broker, &self.lanes, self.config.concurrency.max(1)) => started?,
        };
        let began = Instant::now();
        let ended = self.receive(handler, &mut consumers, tasks, shutdown, failures).await;
        if began.elapsed() >= STEADY {
            *failures = 0;
        }
        tasks.retire(consumers);
        ended
    }

    /// Receives and starts tasks until `shutdown` or until a consumer has ended.
    async fn receive(
        &self,
        handler: &Arc<Handler<S>>,
        consumers: &mut Consumers,
        tasks: &mut TasksAtWork,
        shutdown: &CancellationToken,
        failures: &mut u32,
    ) -> Result<(), Fault> {
        loop {
            let received = async {
                // Both come before the delivery, so that the limits are limits.
                let permit = tasks.permit().await;
                let (Some(received), place) = self.next(consumers, tasks).await? else {
                    return Err(Fault::unavailable(format!("a consumer of {} has ended", S::Task::STAGE)));
                };
                let admission = tasks.admit(&received.delivery, permit, place).await;
                Ok((received, admission))
            };
            let (Received { queue, delivery, in_hand, is_interactive }, admission) = select! {
                // In this order: whoever is to end begins nothing.
                biased;
                // A delivery that waits to run alone is dropped, and so requeued.
                () = shutdown.cancelled() => return Ok(()),
                // The next task, or the end of a consumer.
                received = received => received?,
            };
            *failures = 0;
            let handler = Arc::clone(handler);
            let body = delivery.message.body.clone();
            let waiting = tasks.waiting().add(TaskHeaders::cost_in(&delivery.message.headers).into(), is_interactive);
            tasks.spawn(body, admission, in_hand, move |alone, abort| async move {
                handler.handle(delivery, queue, alone, waiting, &abort).await;
            });
        }
    }

    /// Receives the next task, with its place among those that are not of the interactive lane. While all such places are
    /// taken, or the tasks that have not begun cost too much, only an interactive task is received: it waits for its own lane
    /// alone.
    async fn next(
        &self,
        consumers: &mut Consumers,
        tasks: &TasksAtWork,
    ) -> Result<(Option<Received>, Option<OwnedSemaphorePermit>), Fault> {
        let limit = self.config.max_waiting_cost.max(1);
        let place = async {
            let place = tasks.place().await;
            tasks.waiting().below(limit).await;
            place
        };
        let interactive = async {
            tasks.waiting().interactive_below(limit).await;
            consumers.next(Lanes::Interactive).await
        };
        let place = select! {
            // In this order: while there is room for all, the lanes share it by their weights.
            biased;
            place = place => place,
            received = interactive => return Ok((received?, None)),
        };
        let received = consumers.next(Lanes::All).await?;
        let place = place.filter(|_| received.as_ref().is_none_or(|received| !received.is_interactive));
        Ok((received, place))
    }
}

#[cfg(test)]
mod tests;
