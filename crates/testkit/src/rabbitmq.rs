//! A private RabbitMQ server for tests: free ports, a temporary folder, its own name server (epmd).
//!
//! It is killed when the handle is dropped, and also when the test process ends in any other way: a shell process
//! beside it waits for the end of its input. A machine without RabbitMQ is an error that says what to install, never a
//! skip.

mod cluster;
mod management;
mod node;

use std::{collections::BTreeMap, path::Path, time::Duration};

pub use cluster::RabbitMqCluster;
use node::{Node, NodePlan};
use tokio::sync::OnceCell;

use self::management::Management;

/// How long a server may take to start: a loaded machine needs 20 seconds.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Names the start script of another RabbitMQ than the installed one; its `rabbitmqctl` is beside it.
const SCRIPT_VARIABLE: &str = "ECHOGEN_TEST_RABBITMQ_SERVER";

/// Why a private server did not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(pub(crate) String);

/// A running RabbitMQ server of one node.
#[derive(Debug)]
pub struct RabbitMq {
    node: Node,
}

static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();

impl RabbitMq {
    /// Starts a server and waits until it takes connections.
    pub async fn start() -> Result<Self, ServerError> {
        Self::start_with("").await
    }

    /// The same, with entries of its own for RabbitMQ's application environment, as Erlang terms such as
    /// `{consumer_timeout, 2000}`.
    pub async fn start_with(environment: &str) -> Result<Self, ServerError> {
        let mut last = ServerError("no start was tried".to_owned());
        // Another process may take a port after it was found free and before it is used.
        for _ in 0..3 {
            let node = Node::start(NodePlan::single(environment)?)?;
            match node.ready(START_LIMIT).await {
                Ok(()) => return Ok(Self { node }),
                Err(error) => last = error,
            }
            if !last.0.contains("eaddrinuse") {
                break;
            }
        }
        Err(last)
    }

    /// The server that the tests of one process share; each test takes a prefix of its own.
    ///
    /// # Panics
    ///
    /// Panics if it does not start, with the reason.
    pub async fn shared() -> &'static Self {
        let start = || async { Self::start().await.unwrap_or_else(|error| panic!("{error}")) };
        SHARED.get_or_init(start).await
    }

    /// A prefix that no other test uses.
    pub fn fresh_prefix() -> String {
        use std::sync::atomic::{AtomicU32, Ordering};
        static LAST: AtomicU32 = AtomicU32::new(0);
        format!("test{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
    }

    /// Where AMQP clients connect.
    pub fn amqp_url(&self) -> String {
        self.amqp_url_at(self.amqp_port())
    }

    /// The same by another port, such as a [`CutProxy`](crate::CutProxy)'s.
    pub fn amqp_url_at(&self, port: u16) -> String {
        format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
    }

    /// The port of [`RabbitMq::amqp_url`].
    pub fn amqp_port(&self) -> u16 {
        self.node.ports.amqp
    }

    /// Where the management pages and their HTTP API are; user and password are `guest`.
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.node.ports.management)
    }

    /// Asks the management API for the page `path`, such as `/api/overview`; returns its JSON text.
    pub async fn management_get(&self, path: &str) -> Result<String, ServerError> {
        self.node.management().call("GET", path, "").await
    }

    /// Sends `method` with a JSON body to `path` of the management API.
    pub async fn management_send(&self, method: &str, path: &str, body: &str) -> Result<String, ServerError> {
        self.node.management().call(method, path, body).await
    }

    /// Evaluates an Erlang expression in the server, for faults that nothing else can cause; returns its value as text.
    pub async fn eval(&self, expression: &str) -> Result<String, ServerError> {
        self.node.eval(expression).await
    }

    /// The folder with the server's log.
    pub fn log_folder(&self) -> std::path::PathBuf {
        self.node.folder().join("log")
    }

    /// Kills the server with SIGKILL.
    pub fn kill_9(&self) {
        self.node.kill();
    }

    /// Stops the server gracefully, if it runs.
    pub async fn stop(&self) {
        self.node.stop().await;
    }

    /// Starts the server again with the data it had; stops it first if it runs.
    pub async fn restart(&self) -> Result<(), ServerError> {
        self.node.stop().await;
        self.node.start_again()?;
        self.node.ready(START_LIMIT).await
    }
}

/// The server's start script: Debian's packaged wrapper switches users, the script behind it does not.
fn server_script() -> Result<std::path::PathBuf, ServerError> {
    if let Some(path) = std::env::var_os(SCRIPT_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let found = std::fs::read_dir("/usr/lib/rabbitmq/lib").ok().into_iter().flatten().flatten();
    let mut scripts: Vec<_> = found.map(|entry| entry.path().join("sbin/rabbitmq-server")).collect();
    scripts.retain(|path| path.is_file());
    scripts.sort();
    scripts.pop().ok_or_else(|| {
        let advice = "install it (`apt-get install rabbitmq-server`, or run deploy/setup-debian.sh)";
        let other = format!("or name another one's start script in {SCRIPT_VARIABLE}");
        ServerError(format!("this test needs RabbitMQ, and there is none in /usr/lib/rabbitmq/lib; {advice}, {other}"))
    })
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

/// A server's environment on top of the few variables it keeps.
type Environment = BTreeMap<&'static str, String>;
