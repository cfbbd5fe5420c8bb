//! What is done about a message that the client library cannot read.
//!
//! Such a message, one with a header whose name is no UTF-8 for instance, ends the connection that it comes by before any
//! code of ours sees it, and everything else on that connection goes back to its queue as handed out in vain. RabbitMQ parks
//! what was handed out too often (`x-delivery-limit`), so without care it would park the neighbours too. Therefore, for a
//! while after such an end, each queue is consumed on a connection of its own and one message at a time: the message ends
//! its own connection alone, again and again and without long pauses, until RabbitMQ has parked it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lapin::ErrorKind;
use tokio::time::Instant;

/// How long care is taken after the last such message: longer than from one to its next coming.
const CARE: Duration = Duration::from_secs(10);

/// The pause before the next try. A message that may come thirty times must not stop a queue for long.
pub(super) const SHORT_PAUSE: Duration = Duration::from_millis(100);

/// Until when care is taken.
#[derive(Debug, Default)]
pub(super) struct Caution(Mutex<Option<Instant>>);

impl Caution {
    /// Takes note of an error of a consumer; returns whether it is about a message that cannot be read.
    pub(super) fn is_raised_by(&self, error: &lapin::Error) -> bool {
        self.raise_if(matches!(error.kind(), ErrorKind::ParsingError(_)))
    }

    /// The same for an error of a consumer that was being opened. A connection that has failed by then has most likely
    /// failed of what it brought the consumers before this one, and they were not asked yet. Care taken in vain costs little.
    pub(super) fn is_raised_by_opening(&self, error: &lapin::Error) -> bool {
        use ErrorKind::{InvalidChannelState, InvalidConnectionState, ParsingError};
        self.raise_if(matches!(error.kind(), ParsingError(_) | InvalidChannelState(..) | InvalidConnectionState(..)))
    }

    fn raise_if(&self, is_needed: bool) -> bool {
        if is_needed {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + CARE);
        }
        is_needed
    }

    /// The end of the care that is taken now, if any is.
    pub(super) fn until(&self) -> Option<Instant> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.filter(|until| *until > Instant::now())
    }
}
