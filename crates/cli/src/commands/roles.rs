//! `echogen dispatcher | segmenter | encoder | sampler`, and `up`: all of them in one process.

use std::path::Path;

use echogen_service::{
    BundleNetworks, Exit, Failure, JobLines, RoleName, block_on,
    config::ServiceConfig,
    console::{print_error, print_line},
    embedded::{self, LineEnd},
    run, with_deep_stacks,
};
use echogen_telemetry::Telemetry;

use crate::service::arguments::RoleArguments;

/// Runs one role until it is told to stop.
pub(crate) fn one(role: RoleName, arguments: &RoleArguments, telemetry: &Telemetry) -> Result<Exit, Failure> {
    on_servers(&[role], &arguments.config(), telemetry)
}

/// Runs all roles until told to stop, or, with the broker of this process, until the jobs on standard input are done.
pub(crate) fn up(arguments: &RoleArguments, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let config = arguments.config();
    if !config.is_embedded() {
        return on_servers(&RoleName::ALL, &config, telemetry);
    }
    block_on(async {
        let networks = BundleNetworks::open(&config)?;
        let lines = JobLines::open(Path::new("-")).await.map_err(|error| Failure::usage(error.to_string()))?;
        embedded::up(&networks, &config, telemetry, lines, print).await
    })
}

fn on_servers(roles: &[RoleName], config: &ServiceConfig, telemetry: &Telemetry) -> Result<Exit, Failure> {
    with_deep_stacks();
    block_on(async {
        let networks = BundleNetworks::open(config)?;
        run(roles, &networks, config, telemetry).await
    })
}

fn print(end: LineEnd) {
    match end {
        LineEnd::Refused { line, error } => print_error(format_args!("error: line {line}: {error}")),
        LineEnd::Ended(event) => print_line(&serde_json::to_string(&event).unwrap_or_default()),
    }
}
