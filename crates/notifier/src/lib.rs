//! The notifier: tells the client's own server that a job has ended, where the job names one.
//!
//! A telling that fails is tried again like any other task, and parked when its tries are used up. A server that is away or
//! does not answer must not hold up what is meant for others: it is left alone for a while, and its tellings fail at once
//! meanwhile.
//!
//! Deliberately absent: the job. It has ended, and its result stands whatever becomes of the telling.

mod patience;

use std::sync::Arc;

use async_trait::async_trait;
use echogen_ports::CallbackSender;
use echogen_protocol::Task;
use echogen_worker::{Outcome, Stage, StageContext, StageError};
use url::Url;

use patience::Patience;

/// The stage.
#[derive(Debug)]
pub struct Notifier {
    sender: Arc<dyn CallbackSender>,
    patience: Patience,
}

impl Notifier {
    /// The stage's name in logs, timings and metrics.
    pub const NAME: &'static str = "notifier";

    /// A notifier that tells by `sender`.
    pub fn new(sender: Arc<dyn CallbackSender>) -> Self {
        Self { sender, patience: Patience::default() }
    }
}

#[async_trait]
impl Stage for Notifier {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    async fn run(&self, task: Task, _: &StageContext) -> Result<Outcome, StageError> {
        let Task::Notify(task) = task else {
            return Err(StageError::misplaced(&task, Self::NAME));
        };
        let host = host(&task.callback);
        if !self.patience.may_call(&host) {
            return Err(StageError::transient(format!("{host} did not answer lately and is left alone for a while")));
        }
        let sent = self.sender.send(&task.callback, &task.event).await;
        // A refusal is an answer too: the server is there.
        match &sent {
            Err(error) if !error.is_permanent() => self.patience.failed(&host),
            _ => self.patience.answered(&host),
        }
        sent?;
        Ok(Outcome::Done)
    }
}

/// Whom the address belongs to: its host and port.
fn host(address: &str) -> String {
    let url = Url::parse(address).ok();
    let parts = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    parts.map_or_else(|| address.to_owned(), |(host, port)| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests;
