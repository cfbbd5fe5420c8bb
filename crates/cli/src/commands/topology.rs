//! `echogen topology`: what stands on the broker, without connecting unless asked.

use echogen_service::{
    Exit, Failure, block_on,
    console::print_line,
    operations::topology::{declare, topology},
};

use crate::service::arguments::TopologyArguments;

/// Prints the topology, and declares it if asked.
pub(crate) fn run(arguments: &TopologyArguments, json: bool) -> Result<Exit, Failure> {
    let config = arguments.broker.config();
    if arguments.declare {
        let declared = block_on(async {
            declare(&config).await?;
            Ok(Exit::Success)
        })?;
        if declared != Exit::Success {
            return Ok(declared);
        }
    }
    let topology = topology(&config);
    let text = if json { serde_json::to_string(&topology).unwrap_or_default() } else { topology.to_string() };
    print_line(text.trim_end());
    Ok(Exit::Success)
}
