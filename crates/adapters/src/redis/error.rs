//! Which of the client library's errors may be retried, and what to change.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};
use echogen_ports::Fault;

/// A port's error, of the server at this place.
pub(super) fn port_error(place: &str, error: RedisError) -> Fault {
    use ServerErrorKind::{NoPerm, ReadOnly};
    let what = format!("redis at {place}");
    let made = match error.kind() {
        _ if error.is_timeout() => Fault::timed_out(format!("{what} did not answer in time")),
        ErrorKind::AuthenticationFailed => {
            Fault::refused(format!("{what} refused the user name or password: {error}; check cache.url"))
        }
        ErrorKind::Server(NoPerm) => {
            Fault::refused(format!("{what} does not allow this: {error}; change the user's rules"))
        }
        ErrorKind::Server(ReadOnly) => {
            Fault::unavailable(format!("{what} is a read-only replica; name the primary in cache.url"))
        }
        // A key of another type, or a command that the server does not know, stays so.
        ErrorKind::UnexpectedReturnType | ErrorKind::InvalidClientConfig => Fault::internal(format!("{what}: {error}")),
        _ => Fault::unavailable(format!("{what}: {error}")),
    };
    made.because(error)
}
