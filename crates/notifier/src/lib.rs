//! The notifier: makes the end of a job known to the subscribers of events, to the client's reply queue, and to the client's
//! own server.
//!
//! Each of the three is sent, retried and given up independently: what cannot be sent at once becomes a task of its own. The
//! others have been sent by then, and are not sent again.
//!
//! | notice | is retried | is given up |
//! |---|---|---|
//! | event | with growing waits | after four attempts, about a minute: the subscriber's queue takes nothing |
//! | reply | the same | the same; the queue is full, gone, or takes nothing |
//! | callback | with growing waits | after [`NotifierConfig::give_up_after`]; at once if the server answers that it is gone for good |
//!
//! A server or reply queue that does not answer must not delay the notices to others: its circuit opens, and what is sent to
//! it waits until the pause is over, which is no attempt. Any answer closes the circuit, whatever its status: clients that
//! share a server are not affected by each other's paths.
//!
//! Deliberately absent: the job. It has ended, and its result stands whatever becomes of the notices.

mod circuit_breaker;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use echogen_ports::{Backoff, Broker, CallbackSender, Event, Fault, FaultKind};
use echogen_protocol::{NextTask, Notice, NotifyTask, ReplyTo};
use echogen_telemetry::{NoticeEnd, NoticeName, metrics};
use echogen_worker::{Outcome, Stage, StageContext};
use futures::future::join_all;
use tracing::warn;
use url::Url;

use circuit_breaker::CircuitBreaker;

/// Attempts of an event and of a reply.
const MAX_TRIES: u32 = 4;

/// The wait before a notice that failed together with others is sent again as a task of its own.
const FIRST_WAIT: Backoff = Backoff::doubling(5.0, 5.0);

/// The notifier's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct NotifierConfig {
    /// For how long a callback is retried, from the end of the job.
    pub give_up_after: Duration,
}

/// The stage.
#[derive(Debug)]
pub struct Notifier {
    broker: Arc<dyn Broker>,
    callbacks: Option<Arc<dyn CallbackSender>>,
    config: NotifierConfig,
    circuit_breaker: CircuitBreaker,
}

impl Notifier {
    /// A notifier that publishes to `broker`, and calls servers with `callbacks`; without it, jobs with a callback are
    /// parked.
    pub fn new(broker: Arc<dyn Broker>, callbacks: Option<Arc<dyn CallbackSender>>, config: NotifierConfig) -> Self {
        Self { broker, callbacks, config, circuit_breaker: CircuitBreaker::default() }
    }

    async fn send(&self, notice: Notice, task: &NotifyTask, context: &StageContext) -> Result<(), Fault> {
        match notice {
            Notice::Event => self.broker.publish_event(Event::of_job(&task.event)).await,
            Notice::Reply => match &context.metadata.reply_to {
                Some(reply_to) => self.reply(task, reply_to).await,
                None => Ok(()),
            },
            Notice::Callback => match &task.callback {
                Some(callback) => self.call(task, callback).await,
                None => Ok(()),
            },
            Notice::Unknown => Ok(()),
        }
    }

    async fn reply(&self, task: &NotifyTask, reply_to: &ReplyTo) -> Result<(), Fault> {
        let name = format!("the reply queue {}", reply_to.queue);
        let call = self.circuit_breaker.may_call(&name).map_err(|left| not_called(&name, left))?;
        let sent = self.broker.publish_event(Event::of_job(&task.event).replying_to(reply_to.clone())).await;
        match &sent {
            Err(fault) if fault.kind() == FaultKind::Timeout => call.failed(),
            _ => call.answered(),
        }
        sent
    }

    async fn call(&self, task: &NotifyTask, callback: &str) -> Result<(), Fault> {
        let Some(sender) = &self.callbacks else {
            return Err(Fault::refused("callbacks are not configured here"));
        };
        let host = host(callback);
        let call = self.circuit_breaker.may_call(&host).map_err(|left| not_called(&host, left))?;
        let sent = sender.send(callback, task.tenant.as_deref(), &task.event).await;
        match &sent {
            // A refusal is an answer too.
            Ok(_) => call.answered(),
            Err(error) if !error.is_permanent() => call.failed(),
            // The address was refused before the call, which says nothing about the server.
            Err(_) => {}
        }
        sent?.heard()
    }

    /// Sends the only notice of a task; a failure is the task's own.
    async fn send_alone(&self, notice: Notice, task: &NotifyTask, context: &StageContext) -> Result<Outcome, Fault> {
        let Err(fault) = self.send(notice, task, context).await else {
            metrics().notice(name(notice), NoticeEnd::Sent);
            return Ok(Outcome::Done);
        };
        let is_hopeless = notice == Notice::Callback && fault.is_permanent();
        if !is_hopeless && !self.is_over(notice, context) {
            metrics().notice(name(notice), NoticeEnd::Retried);
            // A reply queue that does not exist may be declared again by its client.
            let kind = if fault.is_permanent() { FaultKind::Unavailable } else { fault.kind() };
            return Err(fault.of_kind(kind));
        }
        metrics().notice(name(notice), NoticeEnd::Lost);
        if notice != Notice::Callback {
            warn!(job = %task.event.subject, notice = name(notice).as_str(), error = %fault, "a notice of a job's end is lost");
            return Ok(Outcome::Done);
        }
        // A callback is kept for the person who mends the server, and can be sent again then.
        let seconds = self.config.give_up_after.as_secs();
        let late = if is_hopeless { String::new() } else { format!("not delivered within {seconds} seconds: ") };
        Err(Fault::refused(format!("{late}{fault}")).because(fault))
    }

    /// Whether a notice has been tried for long enough.
    fn is_over(&self, notice: Notice, context: &StageContext) -> bool {
        let age = context.metadata.first_seen.map(|first| context.clock.now().duration_since(first));
        let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default();
        match notice {
            Notice::Callback => age >= self.config.give_up_after,
            // A pause is no attempt, but what has waited for an hour is of no use to anybody.
            _ => context.metadata.attempt >= MAX_TRIES || age >= Duration::from_secs(3_600),
        }
    }
}

#[async_trait]
impl Stage for Notifier {
    type Task = NotifyTask;

    async fn run(&self, task: NotifyTask, context: &StageContext) -> Result<Outcome, Fault> {
        if let [notice] = task.pending[..] {
            return self.send_alone(notice, &task, context).await;
        }
        let sent = task.pending.iter().map(|notice| async { (*notice, self.send(*notice, &task, context).await) });
        let mut retries = Vec::new();
        for (notice, sent) in join_all(sent).await {
            metrics().notice(name(notice), if sent.is_ok() { NoticeEnd::Sent } else { NoticeEnd::Retried });
            if let Err(fault) = sent {
                let wait = FIRST_WAIT.wait_asked(fault.retry_after(), 1);
                retries.push(NextTask::of(&task.only(notice)).after(wait));
            }
        }
        Ok(if retries.is_empty() { Outcome::Done } else { Outcome::Next(retries) })
    }
}

fn not_called(who: &str, left: Duration) -> Fault {
    Fault::circuit_open(format!("{who} did not answer recently and is not called for a while")).retry_in(left)
}

/// How the metrics call it.
fn name(notice: Notice) -> NoticeName {
    match notice {
        Notice::Event | Notice::Unknown => NoticeName::Event,
        Notice::Reply => NoticeName::Reply,
        Notice::Callback => NoticeName::Callback,
    }
}

/// The key of the server's circuit: host and port of the address.
fn host(address: &str) -> String {
    let url = Url::parse(address).ok();
    let parts = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    parts.map_or_else(|| address.to_owned(), |(host, port)| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests;
