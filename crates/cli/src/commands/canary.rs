//! `echogen canary`: one tiny job through the whole system, and how long it took.

use std::time::Duration;

use echogen_service::{
    Exit, Failure, block_on,
    console::{print_json, print_line},
    operations::canary::{Canary, CanaryReport},
};
use echogen_telemetry::Telemetry;
use serde_json::json;

use crate::service::watch_arguments::CanaryArguments;

/// Runs `echogen canary`.
pub(crate) fn run(arguments: &CanaryArguments, telemetry: &Telemetry, as_json: bool) -> Result<Exit, Failure> {
    let seconds = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let canary = Canary { limit: seconds(arguments.limit), lane: arguments.lane, pixels: arguments.pixels };
    let config = arguments.config();
    block_on(async {
        if let Some(every) = arguments.every {
            return canary.repeat(seconds(every), &config, telemetry, |report| print(report, as_json)).await;
        }
        let report = canary.once(&config).await?;
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
