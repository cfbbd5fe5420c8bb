//! `echogen topology`: the exchanges and queues on the broker, without connecting unless asked.

use clap::Args;
use echogen_service::{
    Exit, Failure, block_on,
    config::ServiceConfig,
    console::print_line,
    operations::topology::{declare, topology},
};

/// `echogen topology`.
#[derive(Args, Debug, Clone)]
pub(crate) struct TopologyArguments {
    /// Also declare everything on the broker
    #[arg(long)]
    pub(crate) declare: bool,
}

/// Prints the topology, and declares it if asked.
pub(crate) fn run(arguments: &TopologyArguments, config: &ServiceConfig, json: bool) -> Result<Exit, Failure> {
    if arguments.declare {
        let declared = block_on(async {
            declare(config).await?;
            Ok(Exit::Success)
        })?;
        if declared != Exit::Success {
            return Ok(declared);
        }
    }
    let topology = topology(config);
    let text = if json { serde_json::to_string(&topology).unwrap_or_default() } else { topology.to_string() };
    print_line(text.trim_end());
    Ok(Exit::Success)
}
