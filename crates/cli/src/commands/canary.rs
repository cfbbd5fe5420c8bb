//! `echogen canary`: one tiny job through the whole system, and how long it took.

use std::time::Duration;

use clap::Args;
use echogen_protocol::Lane;
use echogen_service::{
    Exit, Failure, block_on,
    config::ServiceConfig,
    console::{print_json, print_line},
    operations::canary::{Canary, CanaryReport},
};
use echogen_telemetry::Telemetry;
use serde_json::json;

use crate::values;

pub(crate) const CANARY_EXAMPLES: &str = "\
Examples:
  Does the whole system work? Exit code 0 if a job completes within a minute:
    echogen canary --limit 60
  Send one every five minutes; its latency is a metric at http://…:9464/metrics:
    echogen canary --every 300

Each canary has a new picture, so that no stage is skipped. Its results are stored below canary/.
The default lane is interactive.";

/// `echogen canary`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CanaryArguments {
    /// Seconds from submitting the job to its final event, at most
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = values::seconds)]
    pub(crate) limit: f64,

    /// Send one every so many seconds; by default one only
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub(crate) every: Option<f64>,
}

/// Runs `echogen canary`.
pub(crate) fn run(
    arguments: &CanaryArguments,
    config: &ServiceConfig,
    telemetry: &Telemetry,
    as_json: bool,
) -> Result<Exit, Failure> {
    let seconds = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let lane = config.job.lane.unwrap_or(Lane::Interactive);
    let canary = Canary { limit: seconds(arguments.limit), lane, pixels: config.job.pixels };
    block_on(async {
        if let Some(every) = arguments.every {
            return canary.repeat(seconds(every), config, telemetry, |report| print(report, as_json)).await;
        }
        let report = canary.once(config).await?;
        print(&report, as_json);
        Ok(if report.outcome == "completed" { Exit::Success } else { Exit::JobFailed })
    })
}

fn print(report: &CanaryReport, as_json: bool) {
    let CanaryReport { id, outcome, seconds, why } = report;
    if as_json {
        print_json("canary", &json!({ "id": id, "outcome": outcome, "seconds": seconds, "why": why }));
    } else {
        let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        print_line(&format!("{outcome} after {seconds:.3} s{why}"));
    }
}
