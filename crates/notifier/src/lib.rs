//! The notifier: sends the event of a job's end to the client's own server, where the job names one.
//!
//! A callback that fails is retried like any other task, and dead-lettered after its last attempt. A server that does not
//! answer must not delay the callbacks to others: its circuit opens, and while it is open its callbacks fail at once and
//! are retried when the pause is over. Any answer closes the circuit, whatever its status: clients that share a server are
//! not affected by each other's paths.
//!
//! Deliberately absent: the job. It has ended, and its result stands whatever becomes of the callback.

mod circuit_breaker;

use std::sync::Arc;

use async_trait::async_trait;
use echogen_ports::{CallbackSender, Fault};
use echogen_protocol::NotifyTask;
use echogen_worker::{Outcome, Stage, StageContext};
use url::Url;

use circuit_breaker::CircuitBreaker;

/// The stage.
#[derive(Debug)]
pub struct Notifier {
    sender: Arc<dyn CallbackSender>,
    circuit_breaker: CircuitBreaker,
}

impl Notifier {
    /// A notifier that calls servers with `sender`.
    pub fn new(sender: Arc<dyn CallbackSender>) -> Self {
        Self { sender, circuit_breaker: CircuitBreaker::default() }
    }
}

#[async_trait]
impl Stage for Notifier {
    type Task = NotifyTask;

    async fn run(&self, task: NotifyTask, _: &StageContext) -> Result<Outcome, Fault> {
        let host = host(&task.callback);
        if let Err(left) = self.circuit_breaker.may_call(&host) {
            let message = format!("{host} did not answer recently and is not called for a while");
            return Err(Fault::circuit_open(message).retry_in(left));
        }
        let sent = self.sender.send(&task.callback, &task.event).await;
        match &sent {
            // A refusal is an answer too.
            Ok(_) => self.circuit_breaker.answered(&host),
            Err(error) if !error.is_permanent() => self.circuit_breaker.failed(&host),
            // The address was refused before the call, which says nothing about the server.
            Err(_) => {}
        }
        sent?.heard()?;
        Ok(Outcome::Done)
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
