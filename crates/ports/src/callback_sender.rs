//! The client's own servers, which are told of the end of its jobs.

use async_trait::async_trait;
use echogen_protocol::JobEvent;

use crate::Fault;

/// What a server answered; that it answered says that it is there.
#[must_use = "the server may have refused"]
#[derive(Debug)]
pub enum CallbackReply {
    /// It knows of the event.
    Heard,
    /// It did not take the event: for now or for good, as the error's kind says, with the wait that it asked for.
    Refused(Fault),
}

impl CallbackReply {
    /// The refusal as an error, for a caller to whom not having been heard is one failure like any other.
    pub fn heard(self) -> Result<(), Fault> {
        match self {
            Self::Heard => Ok(()),
            Self::Refused(error) => Err(error),
        }
    }
}

/// Tells servers of clients.
#[async_trait]
pub trait CallbackSender: Send + Sync + std::fmt::Debug {
    /// Tells the server at `address`, which begins with `https://`, of `event`; returns what it answers, also where it
    /// refuses: one path of a server may be at fault while the others are well. An error says that nobody answered; it is
    /// permanent if the address must not be called, or not as it stands. Whoever did not say that it knows may have heard
    /// all the same: unless the failure is permanent the caller tells it again, and the event's id says that it is the same.
    async fn send(&self, address: &str, event: &JobEvent) -> Result<CallbackReply, Fault>;
}
