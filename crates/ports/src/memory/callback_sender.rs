//! The callback sender's twin: servers in memory that answer as they are told to.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use echogen_protocol::JobEvent;

use super::lock;
use crate::{CallbackReply, CallbackSender, PortError};

/// How a server in memory answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackAnswer {
    /// It has heard.
    Heard,
    /// It is busy.
    Busy,
    /// It will never hear of this.
    Refused,
}

/// Servers in memory, which note what they hear.
#[derive(Debug, Default)]
pub struct MemoryCallbackSender {
    answers: Mutex<HashMap<String, CallbackAnswer>>,
    heard: Mutex<Vec<(String, JobEvent)>>,
    calls: Mutex<usize>,
}

impl MemoryCallbackSender {
    /// No server: nobody is there at any address.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the server at `address` answer so from now on.
    pub fn let_answer(&self, address: &str, answer: CallbackAnswer) {
        lock(&self.answers).insert(address.to_owned(), answer);
    }

    /// What was heard where, in order.
    pub fn heard(&self) -> Vec<(String, JobEvent)> {
        lock(&self.heard).clone()
    }

    /// How many calls there were, whatever came of them.
    pub fn calls(&self) -> usize {
        *lock(&self.calls)
    }
}

#[async_trait]
impl CallbackSender for MemoryCallbackSender {
    async fn send(&self, address: &str, event: &JobEvent) -> Result<CallbackReply, PortError> {
        if !address.starts_with("https://") {
            return Err(PortError::permanent(format!("{address} is not called: it is no https:// address")));
        }
        *lock(&self.calls) += 1;
        let refused = |error| Ok(CallbackReply::Refused(error));
        match lock(&self.answers).get(address) {
            None => Err(PortError::transient(format!("nobody is at {address}"))),
            Some(CallbackAnswer::Busy) => refused(PortError::transient(format!("{address} is busy"))),
            Some(CallbackAnswer::Refused) => refused(PortError::permanent(format!("{address} refuses"))),
            Some(CallbackAnswer::Heard) => {
                lock(&self.heard).push((address.to_owned(), event.clone()));
                Ok(CallbackReply::Heard)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{CallbackServers, callback_sender_contract};

    impl CallbackServers for MemoryCallbackSender {
        fn address(&self, answer: CallbackAnswer) -> String {
            let address = format!("https://example.org/{answer:?}");
            self.let_answer(&address, answer);
            address
        }

        fn nobody(&self) -> String {
            "https://example.org/nobody".to_owned()
        }

        fn heard(&self) -> Vec<JobEvent> {
            self.heard().into_iter().map(|(_, event)| event).collect()
        }
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let servers = MemoryCallbackSender::new();
        callback_sender_contract(&servers, &servers).await;
        assert_eq!(servers.calls(), 6);
    }
}
