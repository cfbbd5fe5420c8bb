//! The example server for callbacks (`examples/clients/callbacks.py`), as a process that tests can kill and restart.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::Context;
use echogen_adapters::CallbackConfig;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle as TaskHandle};
use tokio_util::task::TaskTracker;

/// The server process; it is stopped when this value is dropped.
#[derive(Debug)]
pub struct CallbackServer {
    folder: TempDir,
    certificate: String,
    secret: String,
    /// The port, 0 until the first start.
    port: u16,
    process: Option<(Child, JoinHandle<()>)>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl CallbackServer {
    /// Starts the server on a free port. It accepts callbacks that are signed with `secret`.
    pub fn start(secret: &str) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("server.pem"), made.cert.pem())?;
        std::fs::write(folder.path().join("server.key"), made.signing_key.serialize_pem())?;
        let (certificate, secret) = (made.cert.pem(), secret.to_owned());
        let mut server = Self { folder, certificate, secret, port: 0, process: None, heard: Arc::default() };
        server.run()?;
        Ok(server)
    }

    /// Starts it again on the same port, with another secret.
    pub fn run_with(&mut self, secret: &str) -> anyhow::Result<()> {
        secret.clone_into(&mut self.secret);
        self.run()
    }

    /// Starts it again on the same port.
    pub fn run(&mut self) -> anyhow::Result<()> {
        self.kill();
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/clients/callbacks.py"));
        command.args(["--certificate", "server.pem", "--key", "server.key", "--port", &self.port.to_string()]);
        command.current_dir(self.folder.path()).env("CALLBACK_SECRET", &self.secret);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().context("python3 is there; deploy/setup-debian.sh installs it")?;
        let (stdout, stderr) = (process.stdout.take().context("piped")?, process.stderr.take().context("piped")?);
        let heard = Arc::clone(&self.heard);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        self.process = Some((process, reader));
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line)?;
        let port = line.trim().rsplit(' ').next().unwrap_or_default();
        self.port = port.parse().with_context(|| format!("the server says: {line}"))?;
        Ok(())
    }

    /// Kills it, as a crash would. The lines it printed before remain available in [`heard`](Self::heard).
    pub fn kill(&mut self) {
        if let Some((mut process, reader)) = self.process.take() {
            // The process may have ended already.
            process.kill().ok();
            process.wait().ok();
            reader.join().ok();
        }
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/done", self.port)
    }

    /// Returns the certificate that callers must trust, as PEM text; see [`trusting`].
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns the lines it has printed since the first start, restarts included.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns callback settings that trust `certificates` (PEM text) and allow addresses of this machine.
pub fn trusting(certificates: &str) -> CallbackConfig {
    CallbackConfig {
        allowed_networks: vec!["127.0.0.1".parse().expect("an address")],
        certificates: Some(certificates.to_owned()),
        ..CallbackConfig::default()
    }
}

impl Drop for CallbackServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server that takes connections and never answers. Returns the address of a callback there, and the task that
/// keeps the connections open.
pub async fn hanging_server() -> anyhow::Result<(String, TaskHandle<()>)> {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("https://127.0.0.1:{}/done", server.local_addr()?.port());
    let held = TaskTracker::new().spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = server.accept().await {
            held.push(connection);
        }
    });
    Ok((address, held))
}
