//! What a stage is: a function from a task to an outcome. No loops, no ack, no retry in it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use echogen_ports::{Broker, Fault};
use echogen_protocol::{
    ContentHash, EventKind, JobEvent, JobId, Lane, NextTask, ReplyTo, StageName, StageTask, TraceContext,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    Clock, job::event_publisher::EventPublisher, queue_loop::waiting_tasks::WaitingTask,
    stage_kit::time_limit::TimeLimit,
};

/// One step of a job's way. Its name in logs, timings and metrics is that of its tasks: [`StageTask::STAGE`].
#[async_trait]
pub trait Stage: Send + Sync + 'static {
    /// What it takes, from the queues of its own.
    type Task: StageTask;

    /// Does the work of one task and says what comes next.
    ///
    /// It may run again for the same task, also at the same time elsewhere, so it is idempotent: what it makes it
    /// stores under a name that follows from the content. It returns only when its product is stored. It may be
    /// dropped at any `.await` (timeout, shutdown).
    async fn run(&self, task: Self::Task, context: &StageContext) -> Result<Outcome, Fault>;

    /// Whether the stage itself says when the work on a task begins, by [`StageContext::begin`]; otherwise it begins at
    /// once.
    fn begins_later(&self) -> bool {
        false
    }
}

/// What follows a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// These tasks, each for its queue.
    Next(Vec<NextTask>),
    /// Nothing: the job has its result.
    Done,
}

impl Outcome {
    /// One task, for the queue that such tasks belong in.
    pub fn next<T: StageTask>(task: &T) -> Self {
        Self::Next(vec![NextTask::of(task)])
    }
}

/// What goes with a task besides its job: who asked for it, in which trace, and where it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskMetadata {
    /// The stage that has the task; none outside the stages.
    pub stage: Option<StageName>,
    /// That stage's try, 1 for the first.
    pub attempt: u32,
    /// The lane of the queue that it came from; `None` for a queue that no lane has.
    pub lane: Option<Lane>,
    /// When the task was first published, if its sender said so.
    pub first_seen: Option<Timestamp>,
    /// When the job came in: when its first task was first published.
    pub accepted: Option<Timestamp>,
    /// What the job asked for, if that is known; see [`Job::content`](echogen_protocol::Job::content).
    pub content: Option<ContentHash>,
    /// See [`Job::again`](echogen_protocol::Job::again).
    pub again: u64,
    /// The key of the job's `result.json`; `None` where it follows from the job at hand.
    pub result_key: Option<String>,
    /// The reply queue that the client gave, if any.
    pub reply_to: Option<ReplyTo>,
    /// The job's callback URL, if any.
    pub callback: Option<String>,
    /// The job's tenant, if any.
    pub tenant: Option<String>,
    /// The job's trace, and the span of this try.
    pub trace: Option<TraceContext>,
    /// The settings by which the sender named products; see [`TaskHeaders::settings`](echogen_protocol::TaskHeaders::settings).
    pub settings: Option<String>,
}

/// What a stage knows besides its task.
#[derive(Clone, Debug)]
pub struct StageContext {
    /// Cancelled when the process cannot wait any longer; the task then goes back to its queue.
    pub cancelled: CancellationToken,
    /// Cancelled when the client took the job back; whatever the stage does for it is in vain.
    pub job_cancelled: CancellationToken,
    /// The time that the attempt has.
    pub time_limit: TimeLimit,
    /// Whether an earlier attempt may have made some of the products.
    pub came_before: bool,
    /// Whether the task came back from a worker that may have died of it: it must share its work with no other task.
    pub alone: bool,
    /// What goes with the task.
    pub metadata: TaskMetadata,
    /// The time of day.
    pub clock: Clock,
    publisher: EventPublisher,
    /// Until the work begins: its part of what the worker may have waiting.
    waiting: Arc<Mutex<Option<WaitingTask>>>,
}

impl StageContext {
    /// A context of a task that is no more than its metadata; the worker completes it.
    pub(crate) fn new(publisher: EventPublisher, clock: Clock, time_limit: TimeLimit, metadata: TaskMetadata) -> Self {
        let (cancelled, job_cancelled) = (CancellationToken::new(), CancellationToken::new());
        Self {
            cancelled,
            job_cancelled,
            time_limit,
            came_before: metadata.attempt > 1,
            alone: false,
            metadata,
            clock,
            publisher,
            waiting: Arc::default(),
        }
    }

    /// The same context of a task that waits for its turn until [`begin`](Self::begin).
    pub(crate) fn of_waiting(mut self, waiting: Option<WaitingTask>) -> Self {
        self.waiting = Arc::new(Mutex::new(waiting));
        self
    }

    /// The work begins, or goes on: the time limit runs anew from here, and the worker may receive another task.
    pub fn begin(&self) {
        self.time_limit.restart();
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The work waits for another turn: until it goes on, the time limit does not run.
    pub fn wait(&self) {
        self.time_limit.pause();
    }

    /// Checks that the sender named products by the same settings as this stage; `same` says whether two settings name the
    /// same. A sender of an earlier version does not say.
    ///
    /// # Errors
    ///
    /// Refused: every such task makes in vain what its sender will never find, until somebody gives both the same settings.
    pub fn check_settings(&self, what: &str, own: &str, same: impl FnOnce(&str) -> bool) -> Result<(), Fault> {
        let Some(theirs) = self.metadata.settings.as_deref().filter(|theirs| !same(theirs)) else { return Ok(()) };
        let shown = |settings: &str| if settings.is_empty() { "none".to_owned() } else { format!("{settings:?}") };
        let (theirs, own) = (shown(theirs), shown(own));
        Err(Fault::refused(format!(
            "the sender of this task has other {what} than this stage: {theirs} there, {own} here; give both the same bundle \
             and settings, then send the task again"
        )))
    }

    /// A context for tests of a stage: first try, an hour of time, events sent at once.
    pub fn for_test(broker: Arc<dyn Broker>) -> Self {
        let time_limit = TimeLimit::new(Duration::from_secs(3_600), None);
        time_limit.restart();
        let metadata = TaskMetadata { attempt: 1, ..TaskMetadata::default() };
        Self::new(EventPublisher::direct(broker), Clock::system(), time_limit, metadata)
    }

    /// Tells listeners what happened. Events on the way are a courtesy: the task does not wait for them, and one that
    /// cannot be sent is logged, no more.
    pub async fn publish_new(&self, kind: EventKind, job: &JobId, data: serde_json::Value) {
        self.publish(JobEvent::new(kind, job, self.clock.now(), data)).await;
    }

    /// Whether more events wait to be sent than usual, so that what may be left out is better left out.
    pub fn is_behind(&self) -> bool {
        self.publisher.is_behind()
    }

    /// Tells listeners of an event of which a job has several; see [`JobEvent::with_part`].
    pub async fn publish(&self, event: JobEvent) {
        self.publisher.publish(event, &self.metadata).await;
    }
}
