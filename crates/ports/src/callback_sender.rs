//! The clients' own servers, which are notified of the ends of jobs.

use async_trait::async_trait;
use echogen_protocol::JobEvent;

use crate::Fault;

/// A server's response; any response shows that the server is reachable.
#[must_use = "the server may have refused"]
#[derive(Debug)]
pub enum CallbackReply {
    /// It has accepted the event.
    Heard,
    /// It has refused the event, temporarily or permanently, as the fault's kind says; with the wait that it asked for.
    Refused(Fault),
}

impl CallbackReply {
    /// The refusal as an error, for a caller that treats it like any other failure.
    pub fn heard(self) -> Result<(), Fault> {
        match self {
            Self::Heard => Ok(()),
            Self::Refused(error) => Err(error),
        }
    }
}

/// Sends callbacks to clients' servers.
#[async_trait]
pub trait CallbackSender: Send + Sync + std::fmt::Debug {
    /// Posts `event` of a job of `tenant` to `address`, which begins with `https://`; returns the response, also a refusal,
    /// because one path of a server may fail while the others work. An error means that there was no response; it is permanent
    /// if the address must not be called. A server that did not accept the event may have processed it nevertheless: unless
    /// the error is permanent the caller sends it again, and the event's id identifies the duplicate.
    async fn send(&self, address: &str, tenant: Option<&str>, event: &JobEvent) -> Result<CallbackReply, Fault>;
}
