//! Runs the real program in a temporary folder.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// An empty folder in which the program is run.
pub(crate) struct Folder(TempDir);

/// The output and exit code of a run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Returns the path of a file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Returns the path of a subject that is part of the repository.
pub(crate) fn subject(name: &str) -> String {
    repository("examples/subjects").join(name).display().to_string()
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("the system has a folder for temporary files"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a temporary file can be written");
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Returns the program with an environment that does not influence it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_echogen-under-test"), arguments)
    }

    fn command_of(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        let settings = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ECHOGEN_"));
        for (name, _) in settings {
            command.env_remove(name);
        }
        command.env("ECHOGEN_MODEL_BUNDLES", repository("bundles")).current_dir(self.0.path()).args(arguments);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments))
    }

    /// Runs the evaluation program.
    pub(crate) fn evaluate(&self, arguments: &[&str]) -> Run {
        Run::of(self.command_of(env!("CARGO_BIN_EXE_echogen-eval-under-test"), arguments))
    }
}

impl Run {
    pub(crate) fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
        Self { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Checks the exit code, and prints all output if it is different.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Checks that the program failed with one line that contains `part`.
    #[track_caller]
    pub(crate) fn expect_error(self, code: i32, part: &str) {
        let run = self.expect(code);
        let lines: Vec<&str> = run.stderr.lines().collect();
        assert!(matches!(lines.as_slice(), [line] if line.starts_with("error: ") && line.contains(part)), "{run:#?}");
    }
}

/// A running program; it is killed when the test ends.
pub(crate) struct Running(Child);

impl Running {
    /// Starts it with empty standard input; its standard output is discarded.
    pub(crate) fn start(mut command: Command, stderr: impl Into<Stdio>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        Self(command.spawn().expect("the program starts"))
    }

    /// Starts it with empty standard input, and returns its standard output; its standard error is discarded.
    pub(crate) fn start_and_read(mut command: Command) -> (Self, BufReader<ChildStdout>) {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        let output = child.stdout.take().expect("it is a pipe");
        (Self(child), BufReader::new(output))
    }

    /// Returns its standard error if that is a pipe.
    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.0.stderr.take()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it runs");
    }

    /// Waits for its exit; returns the exit code.
    pub(crate) fn end(&mut self, limit: Duration) -> Option<i32> {
        wait_for("the program ends", limit, || self.0.try_wait().expect("it can be waited for")).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that has ended needs neither call.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
