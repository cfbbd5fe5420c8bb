//! How a program ends: an exit code, and one line that says what to change.

use std::process::ExitCode;

use echogen_ports::Fault;
use echogen_telemetry::health;

/// The exit codes, as the help text lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// No error.
    Success,
    /// At least one job failed, or what was asked about does not fit.
    JobFailed,
    /// The command, a file or the configuration is wrong; nothing was run.
    Usage,
    /// The compute device is broken; a restarted process may recover.
    DeviceFault,
    /// A job has not ended within the time that was given, as the command `timeout` counts it.
    TimedOut,
    /// Stopped by Ctrl-C, as shells count it: 128 + SIGINT.
    Interrupted,
}

impl Exit {
    /// Returns the exit code of a process whose roles have ended without error: a broken device has a code of its own.
    pub fn of_process() -> Self {
        if health().fault().is_some() { Self::DeviceFault } else { Self::Success }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Success => Self::SUCCESS,
            Exit::JobFailed => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::DeviceFault => Self::from(3),
            Exit::TimedOut => Self::from(124),
            Exit::Interrupted => Self::from(130),
        }
    }
}

/// Why a program ends before its work is done.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What to change, on one line.
    pub message: String,
}

impl Failure {
    /// Creates the failure for an error in the caller's input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// Creates the failure for an error of a server or a file, with the whole chain of causes on one line.
    pub fn refused(what: &str, error: &Fault) -> Self {
        Self::usage(on_one_line(&format!("{what}: {}", error.story())))
    }
}

impl From<anyhow::Error> for Failure {
    /// Formats the chain of causes on one line. If the error is a [`Failure`], its exit code is kept.
    fn from(error: anyhow::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(|error| Self::usage(on_one_line(&format!("{error:#}"))))
    }
}

/// Every run of white space as one space.
pub(crate) fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
