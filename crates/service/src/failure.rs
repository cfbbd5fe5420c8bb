//! How the program ends: an exit code, and one line for whoever has to change something.

use std::process::ExitCode;

/// The exit codes, as the help text lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
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

/// Why the program ends before its work is done.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What to change, on one line.
    pub(crate) message: String,
}

impl Failure {
    /// Something the caller wrote is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }
}

impl From<anyhow::Error> for Failure {
    /// The chain of causes, on one line.
    fn from(error: anyhow::Error) -> Self {
        Self::usage(format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" "))
    }
}
