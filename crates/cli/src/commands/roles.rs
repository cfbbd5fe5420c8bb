//! `echogen dispatcher | segmenter | encoder | sampler`, and `up`: all of them in one process.

use std::path::Path;

use echogen_protocol::RoleName;
use echogen_service::{
    BundleNetworks, Exit, Failure, JobLines, block_on,
    config::ServiceConfig,
    console::{print_error, print_line},
    embedded::{self, LineEnd},
    run, with_deep_stacks,
};
use echogen_telemetry::Telemetry;

pub(crate) const ROLE_EXAMPLES: &str = "\
Examples:
  One role of each, in terminals of their own, against servers on this machine:
    export ECHOGEN_BROKER_URL=amqp://guest:guest@127.0.0.1:5672/%2f
    export ECHOGEN_CACHE_URL=redis://127.0.0.1:6379/0 ECHOGEN_STORE_URL=s3://echogen
    export ECHOGEN_STORE_ENDPOINT=http://127.0.0.1:9000
    echogen dispatcher        echogen segmenter        echogen encoder        echogen sampler

Any number of each role may run, on any machines. SIGTERM or Ctrl-C: it receives nothing more, finishes
what runs, requeues the rest, and ends. Settings may also stand in the environment or in echogen.toml;
secrets are safe in neither flags nor files that others read: each has a variable ending in _FILE.";

pub(crate) const UP_EXAMPLES: &str = "\
Examples:
  Everything embedded: jobs from standard input, one JSON object a line, results in a folder; pictures
  named by a path are taken from this folder and those in it, or from --fetch-subject-folder:
    echogen up --store-url out/ < jobs.jsonl
  All roles in this process, on servers of your own:
    echogen up \\
        --broker-url amqp://guest:guest@127.0.0.1/%2f --cache-url redis://127.0.0.1/0 --store-url s3://echogen";

/// Runs one role until shutdown.
pub(crate) fn one(role: RoleName, config: &ServiceConfig, telemetry: &Telemetry) -> Result<Exit, Failure> {
    on_servers(&[role], config, telemetry)
}

/// Runs all roles until shutdown or, with the in-memory broker, until the jobs on standard input are done.
pub(crate) fn up(config: &ServiceConfig, telemetry: &Telemetry) -> Result<Exit, Failure> {
    if !config.is_embedded() {
        return on_servers(&RoleName::ALL, config, telemetry);
    }
    block_on(async {
        let networks = BundleNetworks::open(config)?;
        let lines = JobLines::open(Path::new("-")).await.map_err(|error| Failure::usage(error.to_string()))?;
        embedded::up(&networks, config, telemetry, lines, print).await
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
