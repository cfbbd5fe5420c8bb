//! How a program ends: an exit code, and one line that says what to change.

use std::process::ExitCode;

use echogen_ports::Fault;
use echogen_telemetry::health;

/// The exit codes, as the help text lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Success,
    /// At least one job failed.
    JobFailed,
    /// The command, a file or the configuration is wrong; nothing was run.
    Usage,
    /// The compute device is broken; a new process may find it whole.
    DeviceFault,
    /// Stopped by Ctrl-C, as shells count it: 128 + SIGINT.
    Interrupted,
}

impl Exit {
    /// How a process ends whose roles have ended in good order: a broken device has an exit code of its own.
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
    /// Something the caller wrote is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// A server or a file refused; the whole chain of causes, on one line.
    pub fn refused(what: &str, error: &Fault) -> Self {
        Self::usage(on_one_line(&format!("{what}: {}", error.story())))
    }
}

impl From<anyhow::Error> for Failure {
    /// The chain of causes, on one line. What has an exit code keeps it.
    fn from(error: anyhow::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(|error| Self::usage(on_one_line(&format!("{error:#}"))))
    }
}

fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
