//! Which of the client library's errors may be retried.

use echogen_ports::Fault;
use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};

use super::rights::refused_resource;

/// The AMQP error code, where the broker refused a request.
pub(super) fn refusal(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    match error.kind() {
        ErrorKind::ProtocolError(refused) => Some(refused.kind()),
        _ => None,
    }
}

/// Whether the queue or exchange does not exist.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    matches!(refusal(error), Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)))
}

/// Whether the queue or exchange exists with other settings.
pub(super) fn is_mismatch(error: &lapin::Error) -> bool {
    matches!(refusal(error), Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)))
}

/// The fault for an error. Wrong credentials and missing rights are permanent; everything else is transient.
pub(super) fn port_error(what: &str, error: lapin::Error) -> Fault {
    let denied = matches!(
        refusal(&error),
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED))
    );
    let message = format!("{what}: {error}");
    let port_error = if let Some(resource) = refused_resource(&error) {
        Fault::refused(format!("{message}; the user lacks a right on {resource}, see the page on permissions"))
    } else if denied {
        Fault::refused(format!("{message}; check the user, its password, its rights and the virtual host"))
    } else {
        Fault::unavailable(message)
    };
    port_error.because(error)
}
