//! What is done about one delivery, from its receipt to its ack.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use echogen_ports::{DEAD_LETTER_REASON, Delivery, Fault, QueueName, spawn_blocking};
use echogen_protocol::{Failure, FailureKind, Job, JobError, JobOutline, StageName, StageTask, TaskHeaders};
use echogen_telemetry::{Messaging, MessagingOperation, TaskEnd, metrics};
use futures::FutureExt;
use jiff::Timestamp;
use tokio::{select, sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, field::Empty, info, info_span, warn};

use crate::{
    CancellationStatus, Stage, StageContext, TaskMetadata,
    job::{
        cancellations::{Cancellations, Watch},
        duration,
    },
    stage_kit::{
        panic_message,
        time_limit::{FOREVER, Over, TimeLimit},
    },
};

use super::{
    completion::Completion,
    crash_counter::{CrashCounter, CrashGuard},
    disposition::{Disposition, ReceivedTask},
    trace::placed,
    waiting_tasks::WaitingTask,
    waits::{after, pause},
};

/// The time that what is being completed has when all others are requeued: a broker or store that is there needs less.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// A body up to this size is read where it is, in less than a millisecond. A larger one holds a picture.
const READ_INLINE_BYTES: usize = 64 * 1024;

/// Handles deliveries; shared by all tasks at work.
pub(crate) struct Handler<S> {
    pub(crate) stage: Arc<S>,
    pub(crate) queues: Vec<QueueName>,
    pub(crate) completion: Completion,
    pub(crate) cancellations: Arc<Cancellations>,
    pub(crate) crash_counter: Option<CrashCounter>,
}

impl<S: Stage> Handler<S> {
    /// Takes one delivery to its end. Whatever goes wrong before the ack requeues it. A suspect comes with `alone`, which
    /// keeps others from being at work while it is; settling it may take long, and needs nobody to wait.
    pub(crate) async fn handle(
        &self,
        mut delivery: Delivery,
        queue: usize,
        alone: Option<OwnedSemaphorePermit>,
        waiting: WaitingTask,
        abort: &CancellationToken,
    ) {
        let mut headers = TaskHeaders::from_map(&delivery.message.headers);
        let progress = metrics().task_started(S::Task::STAGE, self.waited(&headers, delivery.redeliveries));
        let span = info_span!(
            "task",
            otel.kind = "consumer",
            stage = S::Task::STAGE.as_str(),
            job = headers.job.as_deref().unwrap_or(""),
            attempt = headers.failures.saturating_add(1),
            trace_id = Empty,
            outcome = Empty,
        );
        let (trace, own) = placed(&span, S::Task::STAGE, headers.traceparent);
        let (job, destination) = (headers.job.as_deref().unwrap_or(""), self.queues[queue].as_str());
        Messaging { operation: MessagingOperation::Process, destination, job }.describe(&span);
        span.record("trace_id", own.trace_id());
        // A task without a trace keeps the one that it gets now, whatever way it goes.
        headers.traceparent = Some(trace);
        let metadata = TaskMetadata {
            stage: Some(S::Task::STAGE),
            attempt: headers.failures.saturating_add(1),
            lane: self.queues[queue].place().map(|(_, lane, _)| lane),
            first_seen: headers.first_seen,
            accepted: duration::accepted(S::Task::STAGE, &headers),
            content: headers.content,
            again: 0,
            result_key: None,
            reply_to: headers.reply_to.clone(),
            callback: None,
            tenant: None,
            trace: Some(own),
            settings: headers.settings.clone(),
        };
        // What is left of the delivery is how to settle it.
        let message = std::mem::take(&mut delivery.message);
        let (queue, redeliveries) = (&self.queues[queue], delivery.redeliveries);
        let is_suspect = alone.is_some();
        let waiting = Some(waiting);
        let mut task = ReceivedTask { queue, message, redeliveries, is_suspect, headers, metadata, job: None, waiting };
        async {
            let (disposition, guard) = self.decide(&mut task, abort).await;
            drop(alone);
            let end = self.settle(delivery, &task, disposition, abort).await;
            Span::current().record("outcome", end.as_str());
            progress.ended(end);
            // Last: as long as the task is not settled, it counts as one that may take its worker down.
            if let Some(guard) = guard {
                guard.end().await;
            }
        }
        .instrument(span)
        .await;
    }

    /// How long a task lay in its queue, if this is its first receipt and its sender said when it was sent.
    fn waited(&self, headers: &TaskHeaders, redeliveries: u32) -> Option<Duration> {
        let sent = headers.first_seen.filter(|_| headers.failures == 0 && redeliveries == 0)?;
        // Another machine's clock may be ahead of ours.
        Some(Duration::try_from(self.completion.clock.now().duration_since(sent)).unwrap_or_default())
    }

    async fn settle(
        &self,
        delivery: Delivery,
        task: &ReceivedTask<'_>,
        disposition: Disposition,
        abort: &CancellationToken,
    ) -> TaskEnd {
        if matches!(disposition, Disposition::Requeue) {
            info!("task requeued");
            settled(delivery.requeue().await);
            return TaskEnd::Requeued;
        }
        let completed = select! {
            // In this order: what is complete at the last moment counts.
            biased;
            completed = self.completion.apply(task, disposition, abort) => completed,
            // The process has to end, and the broker or the store does not answer.
            () = after(abort, LAST_CHANCE) => Err(Fault::timed_out("there is no time left")),
        };
        match completed {
            // The ack comes last: everything before it is stored and confirmed.
            Ok(end) => {
                settled(delivery.ack().await);
                end
            }
            Err(error) => {
                // Growing waits, so that an outage of minutes does not use up the broker's own limit.
                let wait = self.completion.config.backoff.wait(delivery.redeliveries.saturating_add(1));
                warn!(%error, ?wait, "task not completed, will come again");
                pause(wait, abort).await;
                settled(delivery.requeue().await);
                TaskEnd::Requeued
            }
        }
    }

    /// Says what is to be done; of a task that came back also its mark, to be taken away once it is settled.
    async fn decide(
        &self,
        task: &mut ReceivedTask<'_>,
        abort: &CancellationToken,
    ) -> (Disposition, Option<CrashGuard>) {
        let config = &self.completion.config;
        if S::Task::STAGE.returned().as_ref() == Some(task.queue) {
            return (returned::<S>(task).await, None);
        }
        if task.redeliveries > config.max_redeliveries {
            let times = task.redeliveries;
            let story = format!("handed out {times} times and never settled; it may kill its worker");
            return (parked_unrun::<S>(task, story).await, None);
        }
        let mut guard = None;
        // The mark stands before anything of the task is run.
        if let (Some(crash_counter), true) = (&self.crash_counter, task.is_suspect) {
            let (crashes, mark) = crash_counter.begin(&task.message.body).await;
            guard = Some(mark);
            if crashes >= config.max_crashes.max(1) {
                let story = format!("it took its worker down {crashes} times while it ran alone");
                return (parked_unrun::<S>(task, story).await, guard);
            }
        }
        let disposition = match read::<S::Task>(&task.message.body).await {
            Ok(parsed) => {
                // As the client wrote it: the dispatcher passes on a reference in place of a picture.
                if S::Task::STAGE == StageName::Dispatcher {
                    task.metadata.content = parsed.job().map(Job::content);
                }
                note_job(task, parsed.job().map(Job::outline));
                self.run(task, parsed, abort).await
            }
            Err(Unreadable { error, job }) => {
                note_job(task, job.map(|job| *job));
                unreadable(task, &error)
            }
        };
        (disposition, guard)
    }

    /// Runs the stage under its job's deadline, unless the job is over already.
    async fn run(&self, task: &mut ReceivedTask<'_>, parsed: S::Task, abort: &CancellationToken) -> Disposition {
        let clock = &self.completion.clock;
        let deadline = task.job.as_ref().and_then(|job| job.deadline);
        let context = self.context(task, deadline, abort);
        // A job that has ended cannot expire or be cancelled.
        let Some(job) = &task.job else {
            return self.attempt(parsed, &context).await;
        };
        if clock.is_past(job.deadline) {
            return expired(job.deadline);
        }
        let mut watch = self.cancellations.watch(job.id.clone());
        if watch.is_notified()
            && let Some(disposition) = self.check_cancelled(&mut watch, job).await
        {
            return disposition;
        }
        select! {
            // In this order: work that is done counts, also if the job is cancelled at the same moment.
            biased;
            disposition = self.attempt(parsed, &context) => match disposition {
                Disposition::Retry(_) if clock.is_past(job.deadline) => expired(job.deadline),
                disposition => disposition,
            },
            // The job is cancelled: what the stage has begun elsewhere, on a thread of its own, ends too.
            disposition = self.until_cancelled(&mut watch, job) => {
                context.job_cancelled.cancel();
                disposition
            }
        }
    }

    /// Runs the stage within the time it has.
    async fn attempt(&self, task: S::Task, context: &StageContext) -> Disposition {
        if !self.stage.begins_later() {
            context.begin();
        }
        // A stage keeps nothing half-changed across tasks, so one that panicked can be used for the next.
        let running = AssertUnwindSafe(self.stage.run(task, context)).catch_unwind();
        select! {
            // In this order: when the grace period is over nothing more is begun, also if it could end at once.
            biased;
            () = context.cancelled.cancelled() => Disposition::Requeue,
            ended = context.time_limit.bound(running) => match ended {
                Ok(Ok(ended)) => Disposition::of(ended),
                Ok(Err(panic)) => blame::<S>(&format!("panicked: {}", panic_message(&*panic))),
                Err(Over) => {
                    let seconds = self.completion.config.task_timeout_seconds;
                    blame::<S>(&format!("took longer than {seconds} seconds"))
                }
            },
        }
    }

    fn context(
        &self,
        task: &mut ReceivedTask<'_>,
        deadline: Option<Timestamp>,
        abort: &CancellationToken,
    ) -> StageContext {
        let Completion { clock, config, publisher, .. } = &self.completion;
        let until = deadline.map(|_| Instant::now() + clock.within(FOREVER, deadline));
        let time_limit = TimeLimit::new(config.task_timeout(), until);
        let context = StageContext::new(publisher.clone(), clock.clone(), time_limit, task.metadata.clone());
        let mut context = context.of_waiting(task.waiting.take());
        context.came_before |= task.redeliveries > 0;
        context.cancelled = abort.clone();
        context.alone = task.is_suspect;
        context
    }

    async fn until_cancelled(&self, watch: &mut Watch, job: &JobOutline) -> Disposition {
        loop {
            watch.notified().await;
            if let Some(disposition) = self.check_cancelled(watch, job).await {
                return disposition;
            }
        }
    }

    /// Checks the word that the job was cancelled: its result is the truth. A job that was sent anew since goes on.
    async fn check_cancelled(&self, watch: &mut Watch, job: &JobOutline) -> Option<Disposition> {
        match self.completion.failures.check_cancelled(job).await {
            Ok(CancellationStatus::Ended) => Some(Disposition::Ended),
            Ok(CancellationStatus::Unsettled) => Some(Disposition::Fail(Failure::cancelled())),
            Ok(CancellationStatus::Not) => {
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
}

/// A body that is no task of its stage.
struct Unreadable {
    error: JobError,
    /// Its job, if enough is readable for the job to fail under its own id. Boxed, since most bodies are readable.
    job: Option<Box<JobOutline>>,
}

/// Reads a body, once. What takes long is read where it holds up no other task.
async fn read<T: StageTask>(body: &Bytes) -> Result<T, Unreadable> {
    fn read_now<T: StageTask>(body: &[u8]) -> Result<T, Unreadable> {
        T::parse(body).map_err(|error| Unreadable { error, job: T::unreadable_job(body).map(Box::new) })
    }
    if body.len() <= READ_INLINE_BYTES {
        return read_now(body);
    }
    let body = body.clone();
    let read = spawn_blocking(move || read_now(&body)).await;
    read.unwrap_or_else(|fault| Err(Unreadable { error: JobError::new("", fault.to_string()), job: None }))
}

/// Keeps of the job what is needed once the task has gone to the stage.
fn note_job(task: &mut ReceivedTask<'_>, job: Option<JobOutline>) {
    task.metadata.again = job.as_ref().map_or(0, |job| job.again);
    task.metadata.callback = job.as_ref().and_then(|job| job.callback.clone());
    task.metadata.tenant = job.as_ref().and_then(|job| job.tenant.clone());
    task.metadata.result_key = job.as_ref().map(|job| job.result_key.clone());
    task.job = job;
}

/// Reads the body of a task that is not run all the same: whoever waits for its job is to hear of it.
async fn note_job_unrun<S: Stage>(task: &mut ReceivedTask<'_>) {
    let job = match read::<S::Task>(&task.message.body).await {
        Ok(parsed) => parsed.job().map(Job::outline),
        Err(Unreadable { job, .. }) => job.map(|job| *job),
    };
    note_job(task, job);
}

/// Parks a task that is not run.
async fn parked_unrun<S: Stage>(task: &mut ReceivedTask<'_>, story: String) -> Disposition {
    note_job_unrun::<S>(task).await;
    Disposition::Park(story)
}

/// A message that the broker has taken out of its queue. Its dead letter lies where those of its lane do.
async fn returned<S: Stage>(task: &mut ReceivedTask<'_>) -> Disposition {
    note_job_unrun::<S>(task).await;
    match task.message.headers.get(DEAD_LETTER_REASON) {
        Some(reason) => Disposition::Park(reason.clone()),
        None => Disposition::Fail(Failure {
            kind: FailureKind::Expired,
            message: "the time to live of its message was over before a worker took it".to_owned(),
        }),
    }
}

/// A job that cannot be read fails under its id, if that much is readable; anything else is parked for a person.
fn unreadable(task: &ReceivedTask<'_>, error: &JobError) -> Disposition {
    match task.job {
        Some(_) => Disposition::Fail(Failure { kind: FailureKind::InvalidJob, message: error.to_string() }),
        None => Disposition::Park(format!("unreadable: {error}")),
    }
}

fn expired(deadline: Option<Timestamp>) -> Disposition {
    let deadline = deadline.map(|deadline| deadline.to_string()).unwrap_or_default();
    let message = format!("the deadline {deadline} passed before the pictures were made");
    Disposition::Fail(Failure { kind: FailureKind::Expired, message })
}

/// A try that the stage itself did not end.
fn blame<S: Stage>(what: &str) -> Disposition {
    Disposition::Retry(Fault::unavailable(format!("the {} stage {what}", S::Task::STAGE)))
}

/// A delivery that could not be settled comes again by itself.
fn settled(result: Result<(), Fault>) {
    if let Err(error) = result {
        warn!(%error, "delivery not settled, it will come again");
    }
}
