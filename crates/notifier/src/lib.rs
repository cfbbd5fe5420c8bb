//! The notifier: tells the client's own server that a job has ended, where the job names one.
//!
//! A telling that fails is tried again like any other task, and parked when its tries are used up. A server that does
//! not answer must not hold up what is meant for others: it is left alone for a while, and its tellings fail at once
//! meanwhile, to come back when the while is over. One that answers is there, whatever it says: clients who share a
//! server do not pay for each other's paths.
//!
//! Deliberately absent: the job. It has ended, and its result stands whatever becomes of the telling.

mod patience;

use std::sync::Arc;

use async_trait::async_trait;
use echogen_ports::{CallbackSender, Fault};
use echogen_protocol::NotifyTask;
use echogen_worker::{Outcome, Stage, StageContext};
use url::Url;

use patience::Patience;

/// The stage.
#[derive(Debug)]
pub struct Notifier {
    sender: Arc<dyn CallbackSender>,
    patience: Patience,
}

impl Notifier {
    /// A notifier that tells by `sender`.
    pub fn new(sender: Arc<dyn CallbackSender>) -> Self {
        Self { sender, patience: Patience::default() }
    }
}

#[async_trait]
impl Stage for Notifier {
    type Task = NotifyTask;

    async fn run(&self, task: NotifyTask, _: &StageContext) -> Result<Outcome, Fault> {
        let host = host(&task.callback);
        if let Err(left) = self.patience.may_call(&host) {
            let message = format!("{host} did not answer lately and is left alone for a while");
            return Err(Fault::circuit_open(message).retry_in(left));
        }
        let sent = self.sender.send(&task.callback, &task.event).await;
        match &sent {
            // A refusal is an answer too: the server is there.
            Ok(_) => self.patience.answered(&host),
            Err(error) if !error.is_permanent() => self.patience.failed(&host),
            // An address that must not be called says nothing of the server.
            Err(_) => {}
        }
        sent?.heard()?;
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
