//! The in-memory callback sender: servers in memory that answer as configured.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use echogen_protocol::JobEvent;

use super::lock;
use crate::{CallbackReply, CallbackSender, Fault};

/// How a server in memory answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackAnswer {
    /// It accepts.
    Heard,
    /// It refuses temporarily.
    Busy,
    /// It refuses permanently.
    Refused,
}

/// Servers in memory, which record what they receive.
#[derive(Debug, Default)]
pub struct MemoryCallbackSender {
    answers: Mutex<HashMap<String, CallbackAnswer>>,
    heard: Mutex<Vec<(String, JobEvent)>>,
    calls: Mutex<usize>,
}

impl MemoryCallbackSender {
    /// No server: no address answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the server at `address` answer so from now on.
    pub fn let_answer(&self, address: &str, answer: CallbackAnswer) {
        lock(&self.answers).insert(address.to_owned(), answer);
    }

    /// The events received, with the addresses, in order.
    pub fn heard(&self) -> Vec<(String, JobEvent)> {
        lock(&self.heard).clone()
    }

    /// The number of calls, whatever their outcome.
    pub fn calls(&self) -> usize {
        *lock(&self.calls)
    }
}

#[async_trait]
impl CallbackSender for MemoryCallbackSender {
    async fn send(&self, address: &str, _tenant: Option<&str>, event: &JobEvent) -> Result<CallbackReply, Fault> {
        if !address.starts_with("https://") {
            return Err(Fault::refused(format!("{address} is not called: it is no https:// address")));
        }
        *lock(&self.calls) += 1;
        let refused = |error| Ok(CallbackReply::Refused(error));
        match lock(&self.answers).get(address) {
            None => Err(Fault::unavailable(format!("nobody is at {address}"))),
            Some(CallbackAnswer::Busy) => refused(Fault::throttled(format!("{address} is busy"))),
            Some(CallbackAnswer::Refused) => refused(Fault::refused(format!("{address} refuses"))),
            Some(CallbackAnswer::Heard) => {
                lock(&self.heard).push((address.to_owned(), event.clone()));
                Ok(CallbackReply::Heard)
            }
        }
    }
}
