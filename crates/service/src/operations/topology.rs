//! The exchanges and queues of an installation.

use echogen_adapters::amqp::Topology;

use crate::{Failure, config::ServiceConfig};

/// What is declared on a broker with these settings; connects to nothing.
pub fn topology(config: &ServiceConfig) -> Topology {
    Topology::of(&config.broker)
}

/// Declares it.
pub async fn declare(config: &ServiceConfig) -> Result<(), Failure> {
    super::connect(config).await?.close().await;
    Ok(())
}
