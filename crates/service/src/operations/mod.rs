//! The operations of clients and operators on a running installation, as functions that return values. Nothing is
//! printed here.

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

/// Connects to the broker that the settings name, and declares nothing: a client need not have the right. The caller must
/// close the connection, which waits until the broker has processed the final acknowledgements.
pub async fn connect(config: &ServiceConfig) -> Result<Arc<AmqpBroker>, Failure> {
    Ok(Arc::new(backends::connect_client(config).await?))
}
