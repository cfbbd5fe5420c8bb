//! The exchanges and queues of an installation.

use echogen_adapters::amqp::Topology;

use crate::{Failure, backends, config::ServiceConfig};

/// Returns what is declared on a broker with these settings. Does not connect.
pub fn topology(config: &ServiceConfig) -> Topology {
    Topology::of(&config.broker)
}

/// Declares the topology on the broker.
pub async fn declare(config: &ServiceConfig) -> Result<(), Failure> {
    backends::connect(config).await?.close().await;
    Ok(())
}
