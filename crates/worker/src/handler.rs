//! What is done about one delivery, from its receipt to its ack.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use echogen_ports::{Broker, Delivery, Message, PortError, QueueName};
use echogen_protocol::{Failure, FailureKind, Job, JobError, Task, TaskHeaders};
use echogen_telemetry::{TaskEnd, metrics};
use futures::FutureExt;
use jiff::Timestamp;
use tokio::{
    select,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info, info_span, warn};

use crate::{
    Clock, FailureHandler, Outcome, Stage, StageContext, StageError, TaskFacts, Withdrawal, WorkerConfig,
    announcer::Announcer,
    cancellation::{Cancellations, Watch},
    config::jitter,
    quarantine::{Begun, CrashLedger},
    stage_kit::panic_message,
    trace::placed,
    worker::pause,
};

/// The time that what is being concluded has when all others are put back: a broker or store that is there needs less.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// Handles deliveries; shared by all tasks at work.
pub(crate) struct Handler {
    pub(crate) stage: Arc<dyn Stage>,
    pub(crate) queues: Vec<QueueName>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) failures: Arc<dyn FailureHandler>,
    pub(crate) clock: Clock,
    pub(crate) config: WorkerConfig,
    pub(crate) announcer: Announcer,
    pub(crate) cancellations: Arc<Cancellations>,
    pub(crate) ledger: Option<CrashLedger>,
}

/// A delivery in hand, apart from how it is settled.
pub(crate) struct InHand<'a> {
    pub(crate) queue: &'a QueueName,
    pub(crate) message: Message,
    pub(crate) redeliveries: u32,
    pub(crate) headers: TaskHeaders,
    pub(crate) facts: TaskFacts,
}

/// What is to be done about a delivery.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The work is done; these tasks follow.
    Done(Vec<(QueueName, Task)>),
    /// The job has ended elsewhere; there is nothing to do.
    Ended,
    /// The job fails for good.
    Fail(Failure),
    /// Another try after a while.
    Retry(StageError),
    /// Nobody can make anything of it.
    Park(String),
    /// There was no time: it goes back as it came.
    PutBack,
}

impl InHand<'_> {
    /// The job, unless it has ended. It is read once more, for what goes wrong is rare: the stage has the task itself.
    pub(crate) fn job(&self) -> Option<Job> {
        match Task::parse(&self.message.body) {
            Ok(task) => task.into_job(),
            Err(_) => Task::unreadable_job(&self.message.body),
        }
    }
}

impl Handler {
    /// Takes one delivery to its end. Whatever goes wrong before the ack puts it back. `alone` keeps others from being at
    /// work while it is; settling it may take long, and needs nobody to wait.
    pub(crate) async fn handle(
        &self,
        mut delivery: Delivery,
        queue: usize,
        alone: Option<OwnedSemaphorePermit>,
        abort: &CancellationToken,
    ) {
        let mut headers = TaskHeaders::from_map(&delivery.message.headers);
        let progress = metrics().task_started(self.stage.name(), self.waited(&headers, delivery.redeliveries));
        let span = info_span!(
            "task",
            stage = self.stage.name(),
            job = headers.job.as_deref().unwrap_or(""),
            attempt = headers.failures.saturating_add(1),
            trace_id = Empty,
            outcome = Empty,
        );
        let (trace, own) = placed(&span, self.stage.name(), headers.traceparent);
        span.record("trace_id", own.trace_id());
        // A task without a trace keeps the one that it gets now, whatever way it goes.
        headers.traceparent = Some(trace);
        let facts = TaskFacts {
            stage: Some(self.stage.name()),
            attempt: headers.failures.saturating_add(1),
            result_key: None,
            reply_to: headers.reply_to.clone(),
            callback: None,
            trace: Some(own),
        };
        // What is left of the delivery is how to settle it.
        let message = std::mem::take(&mut delivery.message);
        let (queue, redeliveries) = (&self.queues[queue], delivery.redeliveries);
        let mut task = InHand { queue, message, redeliveries, headers, facts };
        async {
            let (verdict, begun) = self.judge(&mut task, abort).await;
            drop(alone);
            let end = self.settle(delivery, &task, verdict, abort).await;
            Span::current().record("outcome", end.as_str());
            progress.ended(end);
            if let Some(begun) = begun {
                begun.end().await;
            }
        }
        .instrument(span)
        .await;
    }

    /// How long a task lay in its queue, if this is its first receipt and its sender said when it was sent.
    fn waited(&self, headers: &TaskHeaders, redeliveries: u32) -> Option<Duration> {
        let sent = headers.first_seen.filter(|_| headers.failures == 0 && redeliveries == 0)?;
        // Another machine's clock may be ahead of ours.
        Some(Duration::try_from(self.clock.now().duration_since(sent)).unwrap_or_default())
    }

    async fn settle(
        &self,
        delivery: Delivery,
        task: &InHand<'_>,
        verdict: Verdict,
        abort: &CancellationToken,
    ) -> TaskEnd {
        if matches!(verdict, Verdict::PutBack) {
            info!("task put back");
            settled(delivery.requeue().await);
            return TaskEnd::PutBack;
        }
        let concluded = select! {
            biased;
            concluded = self.conclude(task, verdict, abort) => concluded,
            () = after(abort, LAST_CHANCE) => Err(PortError::transient("there is no time left")),
        };
        match concluded {
            Ok(end) => {
                settled(delivery.ack().await);
                end
            }
            Err(error) => {
                // Growing waits, so that an outage of minutes does not use up the broker's own limit.
                let wait = self.config.backoff.wait(delivery.redeliveries.saturating_add(1), jitter());
                warn!(%error, ?wait, "task not concluded, will come again");
                pause(wait, abort).await;
                settled(delivery.requeue().await);
                TaskEnd::PutBack
            }
        }
    }

    /// Says what is to be done; of a task that came back also its mark, to be taken away once it is settled.
    async fn judge(&self, task: &mut InHand<'_>, abort: &CancellationToken) -> (Verdict, Option<Begun>) {
        if task.redeliveries > self.config.max_redeliveries {
            let times = task.redeliveries;
            let story = format!("handed out {times} times and never settled; it may kill its worker");
            return (Verdict::Park(story), None);
        }
        let mut begun = None;
        if let (Some(ledger), true) = (&self.ledger, task.redeliveries > 0) {
            let (crashes, mark) = ledger.begin(&task.message.body).await;
            begun = Some(mark);
            if crashes >= self.config.max_crashes.max(1) {
                let story = format!("it took its worker down {crashes} times while it ran alone");
                return (Verdict::Park(story), begun);
            }
        }
        let verdict = match Task::parse(&task.message.body) {
            Ok(parsed) => self.run(task, parsed, abort).await,
            Err(error) => unreadable(&task.message.body, &error),
        };
        (verdict, begun)
    }

    /// Runs the stage under its job's deadline, unless the job is over already.
    async fn run(&self, task: &mut InHand<'_>, parsed: Task, abort: &CancellationToken) -> Verdict {
        // A job that has ended cannot expire or be taken back.
        let Some(job) = parsed.job() else {
            let context = self.context(task, None, abort);
            return self.attempt(parsed, &context).await;
        };
        let deadline = job.deadline;
        task.facts.callback.clone_from(&job.callback);
        if self.is_expired(deadline) {
            return expired(deadline);
        }
        let mut watch = self.cancellations.watch(job.id.clone());
        task.facts.result_key = Some(job.result_key());
        if watch.is_told()
            && let Some(verdict) = self.taken_back(&mut watch, &task.facts).await
        {
            return verdict;
        }
        let context = self.context(task, deadline, abort);
        select! {
            biased;
            verdict = self.attempt(parsed, &context) => match verdict {
                Verdict::Retry(_) if self.is_expired(deadline) => expired(deadline),
                verdict => verdict,
            },
            verdict = self.until_taken_back(&mut watch, &task.facts) => {
                context.job_cancelled.cancel();
                verdict
            }
        }
    }

    /// Runs the stage within the time it has.
    async fn attempt(&self, task: Task, context: &StageContext) -> Verdict {
        // A stage keeps nothing half-changed across tasks, so one that panicked can be used for the next.
        let running = AssertUnwindSafe(self.stage.run(task, context)).catch_unwind();
        select! {
            biased;
            () = context.cancelled.cancelled() => Verdict::PutBack,
            ended = timeout_at(context.time_limit, running) => match ended {
                Ok(Ok(ended)) => verdict_of(ended),
                Ok(Err(panic)) => self.blame(&format!("panicked: {}", panic_message(&*panic))),
                Err(_) => self.blame(&format!("took longer than {} seconds", self.config.task_timeout_seconds)),
            },
        }
    }

    fn context(&self, task: &InHand<'_>, deadline: Option<Timestamp>, abort: &CancellationToken) -> StageContext {
        let time_limit = Instant::now() + self.within_deadline(self.config.task_timeout(), deadline);
        let announcer = self.announcer.clone();
        let mut context = StageContext::new(announcer, self.clock.clone(), time_limit, task.facts.clone());
        context.cancelled = abort.clone();
        context.alone = task.redeliveries > 0;
        context
    }

    async fn until_taken_back(&self, watch: &mut Watch, facts: &TaskFacts) -> Verdict {
        loop {
            watch.told().await;
            if let Some(verdict) = self.taken_back(watch, facts).await {
                return verdict;
            }
        }
    }

    /// Checks the word that the job was taken back: its result is the truth. A job that was sent anew since goes on.
    async fn taken_back(&self, watch: &mut Watch, facts: &TaskFacts) -> Option<Verdict> {
        let result_key = facts.result_key.as_deref().unwrap_or_default();
        match self.failures.check_cancelled(watch.job(), result_key).await {
            Ok(Withdrawal::Ended) => Some(Verdict::Ended),
            Ok(Withdrawal::Unsettled) => Some(Verdict::Fail(Failure::cancelled())),
            Ok(Withdrawal::Not) => {
                watch.forget();
                None
            }
            Err(error) => {
                warn!(%error, "heard that the job is cancelled, and cannot see whether it is");
                watch.ignore();
                None
            }
        }
    }

    /// A try that the stage itself did not end.
    fn blame(&self, what: &str) -> Verdict {
        Verdict::Retry(StageError::transient(format!("the {} stage {what}", self.stage.name())))
    }

    fn is_expired(&self, deadline: Option<Timestamp>) -> bool {
        deadline.is_some_and(|deadline| deadline <= self.clock.now())
    }

    /// A time, or what is left to the job's deadline if that is less.
    pub(crate) fn within_deadline(&self, limit: Duration, deadline: Option<Timestamp>) -> Duration {
        let left = deadline.map(|deadline| deadline.duration_since(self.clock.now()));
        left.map_or(limit, |left| limit.min(Duration::try_from(left).unwrap_or_default()))
    }
}

/// What follows from a try that the stage ended itself.
fn verdict_of(ended: Result<Outcome, StageError>) -> Verdict {
    match ended {
        Ok(Outcome::Next(tasks)) => Verdict::Done(tasks),
        Ok(Outcome::Done) => Verdict::Done(Vec::new()),
        Err(StageError::Permanent { kind, message, .. }) => Verdict::Fail(Failure { kind, message }),
        Err(error) => Verdict::Retry(error),
    }
}

/// A job that cannot be read fails under its id, if that much is readable; anything else is parked for a person.
fn unreadable(body: &[u8], error: &JobError) -> Verdict {
    match Task::unreadable_job(body) {
        Some(_) => Verdict::Fail(Failure { kind: FailureKind::InvalidJob, message: error.to_string() }),
        None => Verdict::Park(format!("unreadable: {error}")),
    }
}

fn expired(deadline: Option<Timestamp>) -> Verdict {
    let deadline = deadline.map(|deadline| deadline.to_string()).unwrap_or_default();
    let message = format!("the deadline {deadline} passed before the pictures were made");
    Verdict::Fail(Failure { kind: FailureKind::Expired, message })
}

/// Ends a while after `token` is cancelled.
async fn after(token: &CancellationToken, wait: Duration) {
    token.cancelled().await;
    sleep(wait).await;
}

/// A delivery that could not be settled comes again by itself.
fn settled(result: Result<(), PortError>) {
    if let Err(error) = result {
        warn!(%error, "delivery not settled, it will come again");
    }
}
