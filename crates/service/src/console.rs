//! What a program prints: its answer on standard output, a line for people on standard error.
//!
//! A line of the answer that is lost, as on a full disk, is remembered, so that the program does not end as if all had
//! gone well.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{ErrorKind, Write},
    sync::OnceLock,
};

use clap::error::ErrorKind as Mistake;
use serde::Serialize;

use crate::{Exit, Failure, config::one_line};

/// Why a line of standard output was lost, the first time.
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

/// Remembers whether something was printed, for [`all_printed`]. A reader that has gone away, such as `head`, is no
/// error of ours.
pub fn note_printed(result: std::io::Result<()>) {
    if let Err(error) = result
        && error.kind() != ErrorKind::BrokenPipe
    {
        // Only the first is reported.
        drop(LOST.set(error));
    }
}

/// A command that went well has failed all the same if its answer was lost.
pub fn all_printed(exit: Exit) -> Result<Exit, Failure> {
    let Some(error) = LOST.get() else { return Ok(exit) };
    let exit = if exit == Exit::Success { Exit::Usage } else { exit };
    Err(Failure { exit, message: format!("standard output cannot be written: {error}; lines of it are missing") })
}

/// Prints a line to standard error, in one piece. If that is not possible there is no other place to report it, and the work goes on.
pub fn print_error(text: impl Display) {
    drop(std::io::stderr().write_all(format!("{text}\n").as_bytes()));
}

/// Answers a command line that was not parsed. Help and version are answers; anything else that clap says is a mistake in
/// the command line, reported on one line.
pub fn answer_of(error: &clap::Error, definition: &clap::Command, arguments: &[OsString]) -> Result<Exit, Failure> {
    match error.kind() {
        Mistake::DisplayHelp | Mistake::DisplayVersion => {
            note_printed(error.print());
            Ok(Exit::Success)
        }
        Mistake::DisplayHelpOnMissingArgumentOrSubcommand => {
            // It goes to standard error: if it cannot be printed there is no other place to report it.
            drop(error.print());
            Ok(Exit::Usage)
        }
        _ => Err(Failure::usage(one_line(error, definition, arguments))),
    }
}
