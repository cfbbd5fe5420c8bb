//! What clients and operators do with a running installation, as functions that return values: nothing is printed here.

pub mod canary;
pub mod cancel;
pub mod dead_letters;
mod events;
pub mod status;
pub mod submit;
pub mod topology;

pub use events::JobEvents;

use std::sync::Arc;

use echogen_adapters::amqp::AmqpBroker;

use crate::{Failure, backends, config::ServiceConfig};

/// Connects to the broker that the settings name, and declares the topology. The caller also closes it, so that it has
/// read the final acknowledgements.
pub async fn connect(config: &ServiceConfig) -> Result<Arc<AmqpBroker>, Failure> {
    Ok(Arc::new(backends::connect(config).await?))
}
