//! `echogen dispatcher | segmenter | encoder | sampler`, and `up`: all of them in one process.

use std::path::Path;

use echogen_protocol::RoleName;
use echogen_service::{
    BundleNetworks, Exit, Failure, JobLines, NoNetworks, block_on,
    config::ServiceConfig,
    console::{print_error, print_line},
    embedded::{self, Announcement, LineEnd},
    run, with_deep_stacks,
};
use echogen_telemetry::Telemetry;

pub(crate) const ROLE_EXAMPLES: &str = "\
Examples:
  All roles on this machine, each in a terminal of its own and with a port of its own:
    export ECHOGEN_BROKER_URL=amqp://guest:guest@127.0.0.1:5672/%2f
    export ECHOGEN_CACHE_URL=redis://127.0.0.1:6379/0 ECHOGEN_STORE_URL=s3://echogen
    export ECHOGEN_STORE_ENDPOINT=http://127.0.0.1:9000
    echogen dispatcher --listen 127.0.0.1:9464
    echogen segmenter --listen 127.0.0.1:9465
    echogen encoder --listen 127.0.0.1:9466
    echogen sampler --listen 127.0.0.1:9467

Any number of processes of each role may run, on any machines. On SIGTERM or Ctrl-C a role stops
receiving, finishes running tasks within the grace period, requeues the rest, and ends. All settings
can also be given in the environment or in echogen.toml. Do not give secrets as flags, which other
users of the machine can see: each can be given as a file, by a variable that ends in _FILE.";

pub(crate) const UP_EXAMPLES: &str = "\
Examples:
  Without servers: jobs from standard input, one JSON object per line, results in a folder. Paths of
  pictures are read below the working directory, or below --fetch-subject-folder:
    echogen up --store-url out/ < jobs.jsonl
  The same with the HTTP API and the console; prints their address and, at its first start, a key:
    echogen up --gateway 127.0.0.1:8080 --store out/
  All roles in this process, with servers:
    echogen up \\
        --broker-url amqp://guest:guest@127.0.0.1/%2f --cache-url redis://127.0.0.1/0 --store-url s3://echogen";

pub(crate) const GATEWAY_EXAMPLES: &str = "\
Examples:
  A key for a tenant, and a gateway for those in the file:
    echogen keys new --tenant acme --file tenants.toml
    export ECHOGEN_GATEWAY_SEALING_SECRET_FILE=/run/secrets/sealing
    echogen gateway --gateway 0.0.0.0:8080 --gateway-tenants tenants.toml
  A job:
    curl -H \"Authorization: Bearer $KEY\" http://127.0.0.1:8080/v1/jobs -H 'Prefer: wait=30' \\
        --json '{\"subject\": {\"image\": \"https://example.org/mug.png\"}, \"prompt\": \"a mug on a beach\"}'

Any number of gateways may run. They need the broker, the cache and the store of the roles; the same
tenants; and the same sealing secret. docs/http.md describes the requests.";

/// Runs the gateway until shutdown.
pub(crate) fn gateway(config: &ServiceConfig, telemetry: &Telemetry) -> Result<Exit, Failure> {
    block_on(run(&[RoleName::Gateway], &NoNetworks, config, telemetry))
}

/// Runs one role until shutdown.
pub(crate) fn one(role: RoleName, config: &ServiceConfig, telemetry: &Telemetry) -> Result<Exit, Failure> {
    on_servers(&[role], config, telemetry)
}

/// Runs all roles until shutdown or, with the in-memory broker, until the jobs on standard input are done.
pub(crate) fn up(config: &ServiceConfig, telemetry: &Telemetry) -> Result<Exit, Failure> {
    let has_gateway = config.gateway.listen.is_some();
    if !config.is_embedded() {
        let roles = if has_gateway { &RoleName::ALL[..] } else { &RoleName::WORKERS };
        return on_servers(roles, config, telemetry);
    }
    block_on(async {
        let networks = BundleNetworks::open(config)?;
        if has_gateway {
            return embedded::serve(&networks, config, telemetry, announce).await;
        }
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

fn announce(opened: &Announcement) {
    print_line(&format!("console http://{}/", opened.address));
    if let Some(key) = &opened.new_key {
        print_line(&format!("key {}", key.expose()));
    }
}

fn print(end: LineEnd) {
    match end {
        LineEnd::Refused { line, error } => print_error(format_args!("error: line {line}: {error}")),
        LineEnd::Ended(event) => print_line(&serde_json::to_string(&event).unwrap_or_default()),
    }
}
