//! The queue loop, written once for all stages.
//!
//! ```text
//!  permit ─▶ receive ─▶ decode ─▶ run the stage ─┬─ done ──────▶ publish what follows ─┐
//!    ▲                    │                      ├─ job's fault ▶ result and event     ├─▶ ack ─▶ permit back
//!    │                    │ unreadable           ├─ world's ────▶ publish with a delay │
//!    │                    └──────────────────────┴─ too often ──▶ dead letter ─────────┘
//!    └── put back ◀── shutdown's grace is over, or a step before the ack failed
//! ```
//!
//! What must stay true: the ack comes last, after the product is stored (the stage's promise) and everything that
//! follows is confirmed by the broker. So dying at any point repeats work and loses none. The permit is taken before
//! receiving, so the limit is a limit. A consumer outlives its deliveries.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use echogen_ports::{Broker, Consumer, Delivery, Message, PortError, QueueName};
use echogen_protocol::{EventKind, Failure, FailureKind, Job, JobError, Task, TaskHeaders};
use futures::FutureExt;
use serde_json::json;
use tokio::{
    select,
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::{
    Clock, FailureHandler, Outcome, Stage, StageContext, StageError, WorkerConfig, config::jitter,
    inference::panic_message,
};

/// Runs one stage on one queue.
#[derive(Clone)]
pub struct Worker {
    stage: Arc<dyn Stage>,
    queue: QueueName,
    broker: Arc<dyn Broker>,
    failures: Arc<dyn FailureHandler>,
    clock: Clock,
    config: WorkerConfig,
}

/// What is to be done about a delivery.
#[derive(Debug)]
enum Verdict {
    /// The work is done; these tasks follow.
    Done(Vec<(QueueName, Task)>),
    /// The job fails for good.
    Fail(Box<Job>, Failure),
    /// Another try after a while.
    Retry(Box<Job>, StageError),
    /// Nobody can make anything of it; the job it is for, if that much is known.
    Park(Option<Box<Job>>, String),
    /// There was no time: it goes back as it came.
    PutBack,
}

impl Worker {
    /// A worker of `stage` on `queue`.
    pub fn new(
        stage: Arc<dyn Stage>,
        queue: QueueName,
        broker: Arc<dyn Broker>,
        failures: Arc<dyn FailureHandler>,
        config: WorkerConfig,
    ) -> Self {
        Self { stage, queue, broker, failures, clock: Clock::system(), config }
    }

    /// The same worker by another clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Works until `shutdown` is cancelled; then takes nothing more, lets what runs end within the grace period, puts
    /// the rest back, and returns. A broker that goes away is waited for; one that refuses is an error.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), PortError> {
        let mut failures = 0;
        while !shutdown.is_cancelled() {
            let Err(error) = self.consume(&shutdown, &mut failures).await else { continue };
            if error.is_permanent() {
                return Err(error);
            }
            failures += 1;
            let wait = self.config.backoff.wait_asked(error.retry_after(), failures, jitter());
            warn!(stage = self.stage.name(), queue = %self.queue, %error, ?wait, "broker lost, will consume again");
            pause(wait, &shutdown).await;
        }
        Ok(())
    }

    /// The life of one consumer, from its start until the last of its deliveries is settled.
    async fn consume(&self, shutdown: &CancellationToken, failures: &mut u32) -> Result<(), PortError> {
        let concurrency = self.config.concurrency.max(1);
        let mut consumer = self.broker.consume(&self.queue, concurrency).await?;
        let (tasks, abort) = (TaskTracker::new(), CancellationToken::new());
        let ended = self.receive(&mut *consumer, &tasks, &abort, shutdown, failures).await;
        self.drain(&tasks, &abort).await;
        ended
    }

    async fn receive(
        &self,
        consumer: &mut dyn Consumer,
        tasks: &TaskTracker,
        abort: &CancellationToken,
        shutdown: &CancellationToken,
        failures: &mut u32,
    ) -> Result<(), PortError> {
        let permits = Arc::new(Semaphore::new(usize::from(self.config.concurrency.max(1))));
        loop {
            let received = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, consumer.receive().await)
            };
            let (permit, delivery) = select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                received = received => received,
            };
            let Some(delivery) = delivery? else {
                return Err(PortError::transient(format!("the consumer of {} has ended", self.queue)));
            };
            *failures = 0;
            let (worker, abort) = (self.clone(), abort.clone());
            tasks.spawn(async move {
                worker.handle(delivery, &abort).await;
                drop(permit);
            });
        }
    }

    async fn drain(&self, tasks: &TaskTracker, abort: &CancellationToken) {
        tasks.close();
        if timeout(self.config.grace(), tasks.wait()).await.is_err() {
            warn!(stage = self.stage.name(), tasks = tasks.len(), "grace period is over, putting tasks back");
            abort.cancel();
            tasks.wait().await;
        }
    }

    /// Takes one delivery to its end. Whatever goes wrong before the ack puts it back.
    async fn handle(&self, delivery: Delivery, abort: &CancellationToken) {
        let headers = TaskHeaders::from_map(&delivery.message.headers);
        let job = headers.job.clone().unwrap_or_default();
        let span = info_span!("task", stage = self.stage.name(), job, attempt = headers.failures + 1);
        let handling = async {
            let verdict = self.judge(&delivery, &headers, abort).await;
            if matches!(verdict, Verdict::PutBack) {
                info!("task put back");
                settled(delivery.requeue().await);
                return;
            }
            match self.conclude(&delivery.message, headers, verdict).await {
                Ok(()) => settled(delivery.ack().await),
                Err(error) => {
                    warn!(%error, "task not concluded, will come again");
                    pause(self.config.backoff.wait(1, jitter()), abort).await;
                    settled(delivery.requeue().await);
                }
            }
        };
        handling.instrument(span).await;
    }

    /// Decodes the message and runs the stage under its deadline.
    async fn judge(&self, delivery: &Delivery, headers: &TaskHeaders, abort: &CancellationToken) -> Verdict {
        if delivery.redeliveries > self.config.max_redeliveries {
            let times = delivery.redeliveries;
            let job = Task::parse(&delivery.message.body).ok().map(|task| Box::new(task.job().clone()));
            return Verdict::Park(job, format!("handed out {times} times and never settled; it may kill its worker"));
        }
        let task = match Task::parse(&delivery.message.body) {
            Ok(task) => task,
            Err(error) => return unreadable(&delivery.message.body, &error),
        };
        let job = Box::new(task.job().clone());
        if self.is_expired(&job) {
            return expired(job);
        }
        let time_limit = Instant::now() + self.time_for(&job);
        let (broker, clock) = (Arc::clone(&self.broker), self.clock.clone());
        let context = StageContext::new(broker, clock, abort.clone(), time_limit, headers.failures.saturating_add(1));
        // A stage keeps nothing half-changed across tasks, so one that panicked can be used for the next.
        let run = AssertUnwindSafe(self.stage.run(task, &context)).catch_unwind();
        select! {
            biased;
            () = abort.cancelled() => Verdict::PutBack,
            ended = timeout_at(time_limit, run) => match ended {
                Ok(Ok(ended)) => verdict_of(job, ended),
                Ok(Err(panic)) => self.blame(job, &format!("panicked: {}", panic_message(&*panic))),
                Err(_) if self.is_expired(&job) => expired(job),
                Err(_) => self.blame(job, &format!("took longer than {} seconds", self.config.task_timeout_seconds)),
            },
        }
    }

    /// A try that the stage itself did not end.
    fn blame(&self, job: Box<Job>, what: &str) -> Verdict {
        Verdict::Retry(job, StageError::transient(format!("the {} stage {what}", self.stage.name())))
    }

    /// Does everything that has to be done before the ack.
    async fn conclude(&self, message: &Message, headers: TaskHeaders, verdict: Verdict) -> Result<(), PortError> {
        match verdict {
            Verdict::Done(tasks) => {
                for (queue, task) in &tasks {
                    self.broker.publish(queue, self.follow_up(task, &headers)).await?;
                }
                debug!(following = tasks.len(), "task done");
                Ok(())
            }
            Verdict::Fail(job, failure) => {
                info!(job = %job.id, kind = failure.kind.as_str(), error = %failure.message, "job failed");
                let message_of_failure = failure.message.clone();
                match self.failures.fail(&job, failure).await {
                    // Where no result can ever be written, trying for ever would tell nobody.
                    Err(error) if error.is_permanent() => {
                        let reason = format!("{message_of_failure} (and its result cannot be written: {error})");
                        self.park(message, headers, Some(&job), &reason).await
                    }
                    concluded => concluded,
                }
            }
            Verdict::Retry(job, error) => self.retry(message, headers, &job, &error).await,
            Verdict::Park(job, reason) => self.park(message, headers, job.as_deref(), &reason).await,
            Verdict::PutBack => Ok(()),
        }
    }

    async fn retry(
        &self,
        message: &Message,
        mut headers: TaskHeaders,
        job: &Job,
        error: &StageError,
    ) -> Result<(), PortError> {
        headers.failures = headers.failures.saturating_add(1);
        headers.first_seen = headers.first_seen.or_else(|| Some(self.clock.now()));
        headers.last_error = Some(one_line(&story(error)));
        let failures = headers.failures;
        if failures >= self.config.max_attempts {
            let reason = format!("{failures} tries failed, the last one: {}", story(error));
            return self.park(message, headers, Some(job), &reason).await;
        }
        let wait = self.config.backoff.wait_asked(error.retry_after(), failures, jitter());
        warn!(job = %job.id, attempt = failures, error = %story(error), ?wait, "stage failed, will retry");
        let again = Message { body: message.body.clone(), headers: headers.to_map() };
        self.broker.publish_after(&self.queue, again, wait).await?;
        let data = json!({ "stage": self.stage.name(), "failures": failures, "error": error.to_string() });
        self.tell(EventKind::Retrying, job, failures, data).await;
        Ok(())
    }

    async fn park(
        &self,
        message: &Message,
        headers: TaskHeaders,
        job: Option<&Job>,
        reason: &str,
    ) -> Result<(), PortError> {
        error!(job = headers.job.as_deref().unwrap_or(""), reason, "task parked among the dead letters");
        let parked = Message { body: message.body.clone(), headers: headers.to_map() };
        self.broker.dead_letter(&self.queue, parked, &one_line(reason)).await?;
        if let Some(job) = job {
            let data = json!({ "stage": self.stage.name(), "reason": reason });
            self.tell(EventKind::Parked, job, headers.failures, data).await;
        }
        Ok(())
    }

    async fn tell(&self, kind: EventKind, job: &Job, failures: u32, data: serde_json::Value) {
        let (broker, abort) = (Arc::clone(&self.broker), CancellationToken::new());
        let context = StageContext::new(broker, self.clock.clone(), abort, Instant::now(), failures);
        let event = echogen_protocol::JobEvent::new(kind, &job.id, self.clock.now(), data);
        context.tell_event(event.with_part(self.stage.name()).with_part(failures)).await;
    }

    fn follow_up(&self, task: &Task, headers: &TaskHeaders) -> Message {
        let headers = TaskHeaders {
            failures: 0,
            first_seen: Some(self.clock.now()),
            last_error: None,
            traceparent: headers.traceparent.clone(),
            job: Some(task.job().id.to_string()),
            reply_to: headers.reply_to.clone(),
        };
        Message::of_task(task, &headers)
    }

    fn is_expired(&self, job: &Job) -> bool {
        job.deadline.is_some_and(|deadline| deadline <= self.clock.now())
    }

    /// The time one try has: the worker's limit, or what is left to the job's deadline.
    fn time_for(&self, job: &Job) -> Duration {
        let limit = self.config.task_timeout();
        let left = job.deadline.map(|deadline| deadline.duration_since(self.clock.now()));
        left.map_or(limit, |left| limit.min(Duration::try_from(left).unwrap_or_default()))
    }
}

/// What follows from a try that the stage ended itself.
fn verdict_of(job: Box<Job>, ended: Result<Outcome, StageError>) -> Verdict {
    match ended {
        Ok(Outcome::Next(tasks)) => Verdict::Done(tasks),
        Ok(Outcome::Done) => Verdict::Done(Vec::new()),
        Err(StageError::Permanent { kind, message, .. }) => Verdict::Fail(job, Failure { kind, message }),
        Err(error) => Verdict::Retry(job, error),
    }
}

/// A job that cannot be read fails under its id, if that much is readable; anything else is parked for a person.
fn unreadable(body: &[u8], error: &JobError) -> Verdict {
    match Task::unreadable_job(body) {
        Some(job) => {
            Verdict::Fail(Box::new(job), Failure { kind: FailureKind::InvalidJob, message: error.to_string() })
        }
        None => Verdict::Park(None, format!("unreadable: {error}")),
    }
}

fn expired(job: Box<Job>) -> Verdict {
    let deadline = job.deadline.map(|deadline| deadline.to_string()).unwrap_or_default();
    let message = format!("the deadline {deadline} passed before the pictures were made");
    Verdict::Fail(job, Failure { kind: FailureKind::Expired, message })
}

/// A delivery that could not be settled comes again by itself.
fn settled(result: Result<(), PortError>) {
    if let Err(error) = result {
        warn!(%error, "delivery not settled, it will come again");
    }
}

/// Waits, but not longer than until `end` is cancelled.
async fn pause(wait: Duration, end: &CancellationToken) {
    select! {
        () = end.cancelled() => {}
        () = sleep(wait) => {}
    }
}

/// An error with its causes, each said once.
fn story(error: &StageError) -> String {
    let mut story = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !story.contains(&text) {
            story = format!("{story}: {text}");
        }
        cause = error.source();
    }
    story
}

/// Fit for a header: brokers bound those.
fn one_line(text: &str) -> String {
    text.chars().take(1_000).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
