//! The client's own servers, which are told of the end of its jobs.

use async_trait::async_trait;
use echogen_protocol::JobEvent;

use crate::PortError;

/// Tells servers of clients.
#[async_trait]
pub trait CallbackSender: Send + Sync + std::fmt::Debug {
    /// Tells the server at `address` of `event`; returns when it has said that it knows. A failure is permanent if the
    /// server will not hear of it, also later. After any other it may have heard all the same: the caller tells it again,
    /// and the event's id says that it is the same.
    async fn send(&self, address: &str, event: &JobEvent) -> Result<(), PortError>;
}
