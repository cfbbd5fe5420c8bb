//! The operations of clients and operators on a running installation, as functions that return values. Nothing is
//! printed here.

pub mod canary;
pub mod cancel;
pub mod dead_letters;
mod events;
pub mod retry;
pub mod status;
pub mod submit;
pub mod topology;
pub mod usage;
pub mod wait;

pub use events::{Incoming, JobEvents};

use std::sync::Arc;

use echogen_adapters::amqp::AmqpBroker;
use echogen_worker::Clock;

use crate::{Failure, backends, config::ServiceConfig};

/// Connects to the broker that the settings name, and declares nothing: a client need not have the right. The caller must
/// close the connection, which waits until the broker has processed the final acknowledgements.
pub async fn connect(config: &ServiceConfig) -> Result<Arc<AmqpBroker>, Failure> {
    Ok(Arc::new(backends::connect_client(config).await?))
}

/// A number for [`Job::again`](echogen_protocol::Job::again) that is greater than all before it: the time in milliseconds.
pub fn again_now() -> u64 {
    u64::try_from(Clock::system().now().as_millisecond()).unwrap_or_default()
}
