//! Which of the client library's errors may be retried.

use echogen_ports::Fault;
use lapin::{
    ErrorKind,
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
};

/// The broker's own code, where it refused something.
pub(super) fn refusal(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    match error.kind() {
        ErrorKind::ProtocolError(refused) => Some(refused.kind()),
        _ => None,
    }
}

/// Whether the broker knows no such queue or exchange.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    matches!(refusal(error), Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)))
}

/// Whether something exists already, but otherwise.
pub(super) fn is_mismatch(error: &lapin::Error) -> bool {
    matches!(refusal(error), Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)))
}

/// A port's error. Wrong credentials and missing rights do not mend by themselves; everything else may.
pub(super) fn port_error(what: &str, error: lapin::Error) -> Fault {
    let denied = matches!(
        refusal(&error),
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED))
    );
    let message = format!("{what}: {error}");
    let port_error = if denied {
        Fault::refused(format!("{message}; check the user, its password, its rights and the virtual host"))
    } else {
        Fault::unavailable(message)
    };
    port_error.because(error)
}
