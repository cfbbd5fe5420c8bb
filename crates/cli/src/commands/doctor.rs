//! `echogen doctor`: examines this machine and prints one report.

use std::path::{Path, PathBuf};

use clap::Args;
use echogen_checkpoint::{bundle::Bundle, replace_file};
use echogen_doctor::{Options, Report, Size, examine};
use echogen_service::{
    Exit, Failure, bundle_folders,
    config::ServiceConfig,
    console::{print_error, print_line},
};

/// The bundle whose numbers are known.
const MINI: &str = "mini";

pub(crate) const DOCTOR_EXAMPLES: &str = "\
Examples:
  Is this machine fit, in seconds:
    echogen doctor
  The second GPU, with pictures at the size of the published 2B model, into a file:
    echogen doctor --device cuda:1 --size 2b --report report.md

The report says what failed and what to do; the exit code is then 1. Speed is reported and is no failure.
Nothing is fetched, and no server is asked.";

/// `echogen doctor`.
#[derive(Args, Debug, Clone)]
pub(crate) struct DoctorArguments {
    /// Size of the networks with drawn weights: tiny (128 x 128), 125m (512 x 512), 2b (1024 x 1024)
    #[arg(long, value_name = "SIZE", default_value_t)]
    size: Size,

    /// File for the report, in Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Folder with reference values: tests/fixtures of the source
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
}

/// Examines the machine; the exit code is 1 if a check failed.
pub(crate) fn run(arguments: &DoctorArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    let folders = bundle_folders(config.model.bundles.as_deref());
    let named = if config.model.bundle == MINI { None } else { Some(config.model.open()?) };
    let options = Options {
        device: config.model.device,
        compute: config.model.compute().map_err(|failure| failure.message),
        size: arguments.size,
        mini: Bundle::find(MINI, &folders).ok(),
        bundle: named,
        fixtures: arguments.fixtures.clone(),
    };
    let report = examine(&options, |part| print_error(format_args!("examining {part}")));
    if let Some(path) = &arguments.report {
        write(path, &report)?;
    }
    match as_json {
        true => print_line(&serde_json::to_string(&report).map_err(anyhow::Error::from)?),
        false => print_line(report.markdown().trim_end()),
    }
    Ok(if report.passed { Exit::Success } else { Exit::JobFailed })
}

fn write(path: &Path, report: &Report) -> Result<(), Failure> {
    let written = replace_file(path, report.markdown().as_bytes());
    written.map_err(|error| Failure::usage(format!("cannot write {}: {error}; name another file", path.display())))
}
