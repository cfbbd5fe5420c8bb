//! A private Redis, or what takes its place.

use std::{
    ffi::OsString,
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a start may take on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Names the program to start instead of `redis-server`, such as a newer Redis or a Valkey.
const PROGRAM_VARIABLE: &str = "ECHOGEN_TEST_REDIS_SERVER";

/// A private Redis: nothing is stored on disk, and it ends when this value is dropped.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts a server on a free port and waits until it answers.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[])
    }

    /// The same, with arguments of its own, such as `--cluster-enabled yes`.
    pub fn start_with(arguments: &[&str]) -> io::Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let folder = tempfile::tempdir()?;
        // Another process may take the port meanwhile; then another port is tried.
        let mut tries = 0;
        loop {
            tries += 1;
            let port = free_port()?;
            match launch(port, &folder, &arguments) {
                Ok(child) => return Ok(Self { child, port, folder, arguments }),
                Err(error) if tries == 3 || error.kind() == ErrorKind::NotFound => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Its port, for a proxy.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server with SIGKILL; all data is lost.
    pub fn kill_9(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Starts the server again on its port, empty.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill_9();
        self.child = launch(self.port, &self.folder, &self.arguments)?;
        Ok(())
    }

    /// Deletes all data of the server.
    pub fn flush(&self) -> io::Result<()> {
        let answer = ask(self.port, "FLUSHALL\r\n")?;
        if answer.starts_with("+OK") { Ok(()) } else { Err(io::Error::other(format!("redis answered {answer:?}"))) }
    }

    /// Stops the server with SIGSTOP: connections stay open and nothing is answered.
    pub fn pause(&self) -> io::Result<()> {
        self.signal("STOP")
    }

    /// Ends a [`Redis::pause`].
    pub fn resume(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill -s {name} failed"))) }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill_9();
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn launch(port: u16, folder: &TempDir, arguments: &[String]) -> io::Result<Child> {
    let named = std::env::var_os(PROGRAM_VARIABLE).filter(|name| !name.is_empty());
    let program = named.unwrap_or_else(|| OsString::from("redis-server"));
    let mut command = Command::new(&program);
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    command.arg("--dir").arg(folder.path()).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let advice = "on Debian: apt-get install redis-server; or name another one in";
            let message = format!("{} is not installed; {advice} {PROGRAM_VARIABLE}", program.display());
            io::Error::new(ErrorKind::NotFound, message)
        }
        _ => error,
    })?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("redis-server ended at once: {status}")));
        }
        // One that wants a password answers too.
        let is_up = |answer: String| answer.starts_with("+PONG") || answer.starts_with("-NOAUTH");
        if ask(port, "PING\r\n").is_ok_and(is_up) {
            return Ok(child);
        }
        if started.elapsed() > START_LIMIT {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(ErrorKind::TimedOut, "redis-server did not answer in time"));
        }
        sleep(Duration::from_millis(10));
    }
}

fn ask(port: u16, line: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(line.as_bytes())?;
    let mut answer = [0; 64];
    let size = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..size]).into_owned())
}
