//! Evaluation of a bundle: the `echogen-eval` program and its metrics.
//!
//! | part | what it does |
//! |---|---|
//! | `drawn` | evaluates on held-out subjects and scenes of the drawn world |
//! | `dreambench` | evaluates on photographs and sentences of the DreamBooth paper |
//! | [`judge`] | classifies pictures of the drawn world |
//! | [`markings`] | recognises emblems and patterns of drawn subjects |
//! | [`similarity`] | compares pictures and sentences (CLIP and DINO, the only networks taken from
//! candle-transformers) |
//! | [`round_trip`] | measures the reconstruction loss of the visual tokenizer |
//!
//! The judges take no part in generation and no service loads them: this crate is in no production image.

mod arguments;
mod command_line;
mod drawn;
mod dreambench;
pub mod judge;
pub mod markings;
mod measures;
mod pipeline;
pub mod round_trip;
pub mod similarity;
mod strided;

use std::{ffi::OsString, io::IsTerminal, process::ExitCode};

use echogen_service::{
    Exit, Failure,
    console::{answer_of, exit_code, print_error},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use command_line::Line;

/// The definition of the whole command line, for checks of what pages say about it.
pub fn command() -> clap::Command {
    command_line::definition()
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    exit_code(run(&std::env::args_os().collect::<Vec<_>>()))
}

fn run(arguments: &[OsString]) -> Result<Exit, Failure> {
    let line = match Line::parse(arguments) {
        Ok(line) => line,
        Err(error) => return answer_of(&error, &command_line::definition(), arguments),
    };
    let loaded = line.load()?;
    loaded.warnings.iter().for_each(|warning| print_error(format_args!("warning: {warning}")));
    let telemetry = echogen_telemetry::init(&loaded.config.telemetry.options("echogen-eval"));
    let _telemetry = telemetry.map_err(|error| Failure::usage(loaded.as_written(&error.to_string())))?;
    let (arguments, config) = (&line.arguments, &loaded.config);
    let ended = match &arguments.dreambench.dreambench {
        Some(folder) => dreambench::run(folder, arguments, config),
        None => drawn::run(arguments, config),
    };
    // The service names settings as `section.name`; the message must name them as the user wrote them.
    ended.map_err(|failure| Failure { message: loaded.as_written(&failure.message), ..failure })
}

/// Creates a progress bar on stderr. It is hidden if stderr is no terminal or the output is JSON.
fn progress_bar(total: usize, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
