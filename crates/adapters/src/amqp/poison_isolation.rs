//! What happens after a message that the client library cannot parse.
//!
//! lapin ends the connection when it cannot parse a message, for instance one with a header whose name is not UTF-8. None
//! of our code sees the message, and every unacknowledged message of the connection returns to its queue with one more
//! delivery counted. RabbitMQ dead-letters a message that was delivered too often (`x-delivery-limit`), so without isolation
//! the other messages would be dead-lettered too. Therefore, for a time after such a failure, each queue is consumed on a
//! connection of its own with a prefetch of 1. The message then ends only its own connection, until RabbitMQ has
//! dead-lettered it. The pauses between these attempts are short.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lapin::ErrorKind;
use tokio::time::Instant;

/// How long queues stay isolated after the last such failure; longer than the time between two deliveries of the message.
const ISOLATION_TIME: Duration = Duration::from_secs(10);

/// The pause before the next attempt to consume. The message may return thirty times, so the pause is short.
pub(super) const SHORT_PAUSE: Duration = Duration::from_millis(100);

/// The time at which the isolation of queues ends.
#[derive(Debug, Default)]
pub(super) struct PoisonIsolation(Mutex<Option<Instant>>);

impl PoisonIsolation {
    /// Starts isolation if an error of a consumer is about a message that cannot be parsed; returns whether it is.
    pub(super) fn start_if_unreadable(&self, error: &lapin::Error) -> bool {
        self.start_if(matches!(error.kind(), ErrorKind::ParsingError(_)))
    }

    /// The same for an error while a consumer is opened. A connection that has failed by then has most likely failed
    /// because of a message for one of its earlier consumers, none of which has reported the failure yet. Isolation
    /// without need costs little.
    pub(super) fn start_if_opening_failed(&self, error: &lapin::Error) -> bool {
        use ErrorKind::{InvalidChannelState, InvalidConnectionState, ParsingError};
        self.start_if(matches!(error.kind(), ParsingError(_) | InvalidChannelState(..) | InvalidConnectionState(..)))
    }

    fn start_if(&self, is_needed: bool) -> bool {
        if is_needed {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + ISOLATION_TIME);
        }
        is_needed
    }

    /// The end of the present isolation; `None` outside of one.
    pub(super) fn end(&self) -> Option<Instant> {
        let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        end.filter(|end| *end > Instant::now())
    }
}
