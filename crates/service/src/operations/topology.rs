//! `echogen topology`: what stands on the broker, without connecting unless asked.

use echogen_adapters::amqp::Topology;

use super::arguments::TopologyArguments;
use crate::{
    failure::{Exit, Failure},
    report::print_line,
    session::block_on,
};

/// Prints the topology, and declares it if asked.
pub(crate) fn run(arguments: &TopologyArguments, json: bool) -> Result<Exit, Failure> {
    if arguments.declare {
        let declared = block_on(async {
            arguments.broker.connect().await?.close().await;
            Ok(Exit::Success)
        })?;
        if declared != Exit::Success {
            return Ok(declared);
        }
    }
    let topology = Topology::of(&arguments.broker.config());
    let text = if json { serde_json::to_string(&topology).unwrap_or_default() } else { topology.to_string() };
    print_line(text.trim_end());
    Ok(Exit::Success)
}
