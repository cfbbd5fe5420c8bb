//! Output of the programs: answers on standard output, messages for people on standard error.
//!
//! If a line of the answer cannot be written, as on a full disk, that is recorded, so that the program exits with an
//! error.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{ErrorKind, Write},
    process::ExitCode,
    sync::OnceLock,
};

use clap::error::ErrorKind as Mistake;
use serde::Serialize;

use crate::{Exit, Failure, config::one_line, credentials::hide_credentials};

/// The first error of writing to standard output.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Prints one JSON object on one line of standard output; its field `type` is `kind`.
pub fn print_json<T: Serialize>(kind: &str, value: &T) {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.insert("type".to_owned(), kind.into());
    }
    print_line(&value.to_string());
}

/// Prints a line to standard output.
pub fn print_line(text: &str) {
    note_printed(writeln!(std::io::stdout(), "{text}"));
}

/// Records the first error of writing, which [`exit_code`] reports. A reader that has closed the pipe, such as `head`, is not
/// an error.
pub fn note_printed(result: std::io::Result<()>) {
    if let Err(error) = result
        && error.kind() != ErrorKind::BrokenPipe
    {
        // Only the first error is kept.
        drop(LOST.set(error));
    }
}

/// Returns how a program exits after its run, and prints the error of a run that failed.
pub fn exit_code(ended: Result<Exit, Failure>) -> ExitCode {
    match ended.and_then(all_printed) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            print_error(format_args!("error: {}", failure.message));
            failure.exit.into()
        }
    }
}

/// Returns an error in place of success if a part of the answer could not be written.
fn all_printed(exit: Exit) -> Result<Exit, Failure> {
    let Some(error) = LOST.get() else { return Ok(exit) };
    let exit = if exit == Exit::Success { Exit::Usage } else { exit };
    Err(Failure { exit, message: format!("standard output cannot be written: {error}; lines of it are missing") })
}

/// Prints a line to standard error with one write, without users and passwords of addresses. If that fails there is nowhere to
/// report it, and the work goes on.
pub fn print_error(text: impl Display) {
    let text = hide_credentials(&text.to_string());
    drop(std::io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// Responds to a command line that could not be parsed. Help and version are answers; everything else that clap
/// reports is an error in the command line, which is printed on one line.
pub fn answer_of(error: &clap::Error, definition: &clap::Command, arguments: &[OsString]) -> Result<Exit, Failure> {
    match error.kind() {
        Mistake::DisplayHelp | Mistake::DisplayVersion => {
            note_printed(error.print());
            Ok(Exit::Success)
        }
        Mistake::DisplayHelpOnMissingArgumentOrSubcommand => {
            // If standard error cannot be written there is nowhere to report it.
            drop(error.print());
            Ok(Exit::Usage)
        }
        _ => Err(Failure::usage(one_line(error, definition, arguments))),
    }
}
