//! Which of the client library's errors may be retried, and what to change.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};
use echogen_ports::Fault;

/// What is said of a server that cannot be used as it is.
pub(super) const CLUSTER: &str = "is a Redis Cluster; EchoGen needs one server, name one in cache.url";
pub(super) const REPLICA: &str = "is a read-only replica; name the primary in cache.url";
const FULL: &str = "has no memory left; give it more (maxmemory), or the policy allkeys-lru";

/// A port's error, of the server at this place.
pub(super) fn port_error(place: &str, error: RedisError) -> Fault {
    use ServerErrorKind::{Ask, ClusterDown, CrossSlot, Moved, NoPerm, ReadOnly};
    let what = format!("redis at {place}");
    let made = match error.kind() {
        _ if error.is_timeout() => Fault::timed_out(format!("{what} did not answer in time")),
        ErrorKind::AuthenticationFailed => {
            Fault::refused(format!("{what} refused the user name or password: {error}; check cache.url"))
        }
        ErrorKind::Server(NoPerm) => {
            Fault::refused(format!("{what} does not allow this: {error}; change the user's rules"))
        }
        // Transient: during a fail-over a primary may be one for a while.
        ErrorKind::Server(ReadOnly) => Fault::unavailable(format!("{what} {REPLICA}")),
        ErrorKind::Server(Moved | Ask | CrossSlot | ClusterDown) => Fault::refused(format!("{what} {CLUSTER}")),
        _ if error.code() == Some("OOM") => Fault::unavailable(format!("{what} {FULL}")),
        // A key of another type, or a command that the server does not know, stays so.
        ErrorKind::UnexpectedReturnType | ErrorKind::InvalidClientConfig => Fault::internal(format!("{what}: {error}")),
        _ => Fault::unavailable(format!("{what}: {error}")),
    };
    made.because(error)
}
