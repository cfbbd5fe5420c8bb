//! What has to be done before the ack: the next tasks, the job's end, another try, or a dead letter.

use std::{sync::Arc, time::Duration};

use echogen_ports::{Backoff, Broker, Fault, FaultKind, Message, QueueName};
use echogen_protocol::{EventKind, Failure, JobEvent, JobId, JobOutline, Lane, NextTask, StageName, TaskHeaders, text};
use echogen_telemetry::{JobOutcome, TaskEnd, fail_span};
use futures::future::try_join_all;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, info, warn};

use crate::{
    Clock, FailureHandler, TaskMetadata, in_sending_span,
    job::{duration, event_publisher::EventPublisher, notices},
};

use super::{
    config::WorkerConfig,
    disposition::{Disposition, ReceivedTask},
    waits::pause,
};

/// The waits for room in a full queue, where the broker asks for none.
const FULL_QUEUE: Backoff = Backoff::doubling(0.5, 8.0);

/// Does what was decided about deliveries.
pub(crate) struct Completion {
    pub(crate) stage: StageName,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) failures: Arc<dyn FailureHandler>,
    pub(crate) clock: Clock,
    pub(crate) config: WorkerConfig,
    pub(crate) publisher: EventPublisher,
}

impl Completion {
    /// Does everything that has to be done before the ack, and says what became of the task.
    pub(crate) async fn apply(
        &self,
        task: &ReceivedTask<'_>,
        disposition: Disposition,
        abort: &CancellationToken,
    ) -> Result<TaskEnd, Fault> {
        match disposition {
            Disposition::Done(tasks) => {
                let following = tasks.len();
                let published = tasks.into_iter().map(|next| {
                    let headers = self.following_headers(task, &next);
                    let queue = next.queue_after(task.queue);
                    let NextTask { body, delay, .. } = next;
                    let message = Message { body: body.into(), headers: headers.to_map() };
                    let (message, span) = in_sending_span(message, &queue, headers.job.as_deref().unwrap_or(""));
                    self.publish(queue, message, delay, abort).instrument(span)
                });
                try_join_all(published).await?;
                debug!(following, "task done");
                Ok(TaskEnd::Done)
            }
            Disposition::Ended => {
                info!("the job was cancelled, its task ends here");
                self.answer(task).await?;
                Ok(TaskEnd::Ended)
            }
            Disposition::Fail(failure) => self.fail(task, failure).await,
            Disposition::Retry(error) => self.retry(task, &error).await,
            Disposition::Park(reason) => self.park(task, task.headers.clone(), &reason).await,
            Disposition::Requeue => Ok(TaskEnd::Requeued),
        }
    }

    /// Publishes; where the queue is full, it waits with the delivery unsettled. To requeue the delivery instead would count
    /// as another one that came to nothing, and so park good jobs in a long jam.
    async fn publish(
        &self,
        queue: QueueName,
        message: Message,
        delay: Duration,
        abort: &CancellationToken,
    ) -> Result<(), Fault> {
        let until = Instant::now() + self.config.full_queue_timeout();
        for refusals in 1.. {
            let published = match delay.is_zero() {
                true => self.broker.publish(&queue, message.clone()).await,
                false => self.broker.publish_after(&queue, message.clone(), delay).await,
            };
            let Err(fault) = published else { break };
            let wait = FULL_QUEUE.wait_asked(fault.retry_after(), refusals);
            let is_over = abort.is_cancelled() || Instant::now() + wait >= until;
            if fault.kind() != FaultKind::QueueFull || is_over {
                return Err(fault);
            }
            debug!(%queue, error = %fault, "waiting to publish");
            pause(wait, abort).await;
        }
        Ok(())
    }

    /// Publishes once more the end of a job that ended elsewhere, if somebody asked to be notified: whoever ended it may not
    /// have known of them.
    async fn answer(&self, task: &ReceivedTask<'_>) -> Result<(), Fault> {
        let is_asked = task.metadata.callback.is_some() || task.metadata.reply_to.is_some();
        match task.job.as_ref().filter(|_| is_asked) {
            Some(job) => self.failures.fail(job, Failure::cancelled(), &task.metadata).await,
            None => Ok(()),
        }
    }

    async fn fail(&self, task: &ReceivedTask<'_>, failure: Failure) -> Result<TaskEnd, Fault> {
        let Some(job) = &task.job else {
            return self.park(task, task.headers.clone(), &failure.message).await;
        };
        info!(job = %job.id, kind = failure.kind.as_str(), error = %failure.message, "job failed");
        fail_span(&Span::current(), &failure.message);
        let message = failure.message.clone();
        match self.failures.fail(job, failure, &task.metadata).await {
            // Where no result can ever be written, trying for ever would tell nobody.
            Err(error) if error.is_permanent() => {
                let reason = format!("{message} (and its result cannot be written: {error})");
                self.park(task, task.headers.clone(), &reason).await
            }
            failed => failed.map(|()| TaskEnd::Failed),
        }
    }

    async fn retry(&self, task: &ReceivedTask<'_>, error: &Fault) -> Result<TaskEnd, Fault> {
        let (mut headers, job) = (task.headers.clone(), task.job.as_ref());
        // Time spent waiting for a circuit to close is no attempt.
        let is_attempt = error.kind() != FaultKind::CircuitOpen;
        headers.failures = headers.failures.saturating_add(is_attempt.into());
        headers.first_seen = headers.first_seen.or_else(|| Some(self.clock.now()));
        let story = error.story();
        headers.last_error = Some(text::one_line(&story));
        let failures = headers.failures;
        if is_attempt && failures >= self.config.max_attempts {
            let reason = format!("{failures} tries failed, the last one: {story}");
            return self.park(task, headers, &reason).await;
        }
        let wait = self.wait_before_retry(error, failures, job);
        match is_attempt {
            true => warn!(attempt = failures, error = %story, ?wait, "stage failed, will retry"),
            false => debug!(error = %story, ?wait, "not attempted"),
        }
        fail_span(&Span::current(), &error.to_string());
        let again = Message { body: task.message.body.clone(), headers: headers.to_map() };
        self.broker.publish_after(task.queue, again, wait).await?;
        if let Some(job) = job {
            let data = json!({ "stage": self.stage.as_str(), "failures": failures, "error": error.to_string() });
            self.publisher.publish(self.event(EventKind::Retrying, job, failures, data), &task.metadata).await;
        }
        Ok(TaskEnd::Retried)
    }

    /// No less than the other side asked for, nor than our own wait: five tries within seconds would outlast no jam. But a job
    /// whose deadline passes meanwhile is to expire then.
    fn wait_before_retry(&self, error: &Fault, failures: u32, job: Option<&JobOutline>) -> Duration {
        let own = self.config.backoff.wait(failures);
        let wait = self.config.backoff.wait_asked(error.retry_after(), failures).max(own);
        self.clock.within(wait, job.and_then(|job| job.deadline))
    }

    /// Parks the message with its story: which stage gave up, after how many tries and deliveries, and since when.
    async fn park(&self, task: &ReceivedTask<'_>, mut headers: TaskHeaders, reason: &str) -> Result<TaskEnd, Fault> {
        fail_span(&Span::current(), reason);
        headers.stage = Some(self.stage.to_string());
        headers.redeliveries = task.redeliveries;
        headers.first_seen = headers.first_seen.or_else(|| Some(self.clock.now()));
        error!(job = headers.job.as_deref().unwrap_or(""), reason, "task parked among the dead letters");
        // In this order: a step that fails repeats both, and a second event is recognised by its id, a second letter is not.
        self.announce_parked(task, reason, headers.failures).await?;
        let parked = Message { body: task.message.body.clone(), headers: headers.to_map() };
        self.broker.dead_letter(&self.dead_letters_of(task), parked, &text::one_line(reason)).await?;
        if let Some(job) = task.job.as_ref().filter(|_| self.stage != StageName::Notifier) {
            duration::record(job.lane, JobOutcome::Parked, &task.metadata, self.clock.now());
        }
        Ok(TaskEnd::DeadLettered)
    }

    /// The queue whose dead letters a task joins: its own, or that of its lane if the broker has returned it.
    fn dead_letters_of(&self, task: &ReceivedTask<'_>) -> QueueName {
        match self.stage.returned().as_ref() == Some(task.queue) {
            true => QueueName::of(self.stage, task.job.as_ref().map_or_else(Lane::default, |job| job.lane)),
            false => task.queue.clone(),
        }
    }

    /// Makes known that a task is parked: to the subscribers if it belongs to a job, and to the client's reply queue even
    /// if nothing of the message could be read. A notice that is parked has no further notice.
    async fn announce_parked(&self, task: &ReceivedTask<'_>, reason: &str, failures: u32) -> Result<(), Fault> {
        if self.stage == StageName::Notifier {
            return Ok(());
        }
        let data = json!({
            "stage": self.stage.as_str(),
            "reason": reason,
            "failures": failures,
            "redeliveries": task.redeliveries,
        });
        let (now, metadata) = (self.clock.now(), &task.metadata);
        match &task.job {
            Some(job) => {
                let event = self.event(EventKind::Parked, job, failures, data);
                self.publisher.note(&event, metadata);
                // The job has no result, so its callback is not called.
                let metadata = TaskMetadata { callback: None, ..metadata.clone() };
                notices::notify(&*self.broker, &event.in_trace(metadata.trace), &metadata, now).await
            }
            None if metadata.reply_to.is_some() => {
                let event = JobEvent::new(EventKind::Parked, &JobId::of_message(&task.message.body), now, data);
                notices::reply(&*self.broker, &event.in_trace(metadata.trace), metadata, now).await
            }
            None => Ok(()),
        }
    }

    fn event(&self, kind: EventKind, job: &JobOutline, failures: u32, data: serde_json::Value) -> JobEvent {
        let event = JobEvent::new(kind, &job.id, self.clock.now(), data);
        event.with_part(self.stage).with_part(failures)
    }

    fn following_headers(&self, task: &ReceivedTask<'_>, next: &NextTask) -> TaskHeaders {
        TaskHeaders {
            first_seen: Some(self.clock.now()),
            accepted: task.metadata.accepted,
            traceparent: task.metadata.trace,
            job: Some(next.job_id.to_string()),
            reply_to: task.metadata.reply_to.clone(),
            settings: next.settings.clone(),
            content: task.metadata.content,
            cost: next.cost,
            kilopixels: next.kilopixels,
            ..TaskHeaders::default()
        }
    }
}
