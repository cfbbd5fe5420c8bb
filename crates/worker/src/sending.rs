//! The span in which a message is sent.

use echogen_ports::{Message, QueueName};
use echogen_telemetry::{Messaging, MessagingOperation, place_span};
use tracing::{Span, info_span};

/// A span for the sending of `job`'s message, below the current one or, without one, in a new trace; and the message with the
/// span's trace context. Without a collector the message stays as it is, and keeps the context that it may have.
pub fn in_sending_span(message: Message, queue: &QueueName, job: &str) -> (Message, Span) {
    let span = info_span!("send", otel.kind = "producer", job);
    let message = match place_span(&span, "send", None) {
        Some(own) => message.in_trace(own),
        None => message,
    };
    Messaging { operation: MessagingOperation::Send, destination: queue.as_str(), job }.describe(&span);
    (message, span)
}
