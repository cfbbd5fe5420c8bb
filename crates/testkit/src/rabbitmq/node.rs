//! One RabbitMQ node as a process group in a temporary folder.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Environment, Management, ServerError, server_script, tail};

/// A shell script that reads process groups line by line. When its input ends, because the test process has ended, it
/// kills the last one and removes the folder.
const WATCH: &str = r#"
while read -r line; do group=$line; done
[ -n "$group" ] && kill -s KILL -- "-$group" 2>/dev/null
for try in 1 2 3 4 5; do rm -rf "$1" 2>/dev/null && break; sleep 0.2; done
"#;

/// Names a file whose lines are added to a node's `rabbitmq.conf`, for entries that only some versions know.
const CONF_VARIABLE: &str = "ECHOGEN_TEST_RABBITMQ_CONF";

/// The ports of a node.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) management: u16,
    pub(super) distribution: u16,
    pub(super) epmd: u16,
}

/// What is needed to start a node.
#[derive(Debug)]
pub(super) struct NodePlan {
    pub(super) name: String,
    pub(super) ports: Ports,
    /// Whether this node starts the name server, or another node of its cluster does.
    pub(super) own_epmd: bool,
    /// The nodes of its cluster.
    pub(super) cluster: Vec<String>,
    /// More entries of RabbitMQ's application environment.
    pub(super) environment: String,
}

/// A node, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) ports: Ports,
    plan: NodePlan,
    folder: TempDir,
    watch: Mutex<Child>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    server: Child,
    epmd: Option<Child>,
}

fn io(what: &str, error: &std::io::Error) -> ServerError {
    ServerError(format!("private RabbitMQ: {what}: {error}"))
}

impl Ports {
    /// Ports that are free at the moment.
    pub(super) fn free() -> Result<Self, ServerError> {
        let listen = || TcpListener::bind("127.0.0.1:0").map_err(|error| io("no free port", &error));
        let listeners = [listen()?, listen()?, listen()?, listen()?];
        let mut ports = [0; 4];
        for (port, listener) in ports.iter_mut().zip(&listeners) {
            *port = listener.local_addr().map_err(|error| io("no free port", &error))?.port();
        }
        let [amqp, management, distribution, epmd] = ports;
        Ok(Self { amqp, management, distribution, epmd })
    }
}

impl NodePlan {
    /// A node on its own.
    pub(super) fn single(environment: &str) -> Result<Self, ServerError> {
        Ok(Self {
            name: "n1@localhost".to_owned(),
            ports: Ports::free()?,
            own_epmd: true,
            cluster: Vec::new(),
            environment: environment.to_owned(),
        })
    }
}

impl Node {
    /// Starts the processes; see [`Node::ready`].
    pub(super) fn start(plan: NodePlan) -> Result<Self, ServerError> {
        let folder = tempfile::Builder::new().prefix("rabbitmq-").tempdir();
        let folder = folder.map_err(|error| io("no scratch folder", &error))?;
        write_files(folder.path(), &plan).map_err(|error| io("its files", &error))?;
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(folder.path()).process_group(0);
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let watch = watch.spawn().map_err(|error| io("sh", &error))?;
        let ports = plan.ports.clone();
        let node = Self { ports, plan, folder, watch: Mutex::new(watch), running: Mutex::new(None) };
        node.start_again()?;
        Ok(node)
    }

    /// Starts a node that was stopped or killed, with the data it had.
    pub(super) fn start_again(&self) -> Result<(), ServerError> {
        let mut server = Command::new(server_script()?);
        server.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        server.envs(self.environment()).current_dir(self.folder()).process_group(0).stdin(Stdio::null());
        let console = |name: &str| fs::File::create(self.folder().join(name)).map_err(|error| io(name, &error));
        server.stdout(console("console.log")?).stderr(console("errors.log")?);
        let server = server.spawn().map_err(|error| io("its start script", &error))?;
        let group = server.id();
        // From here on the group dies with this process, whatever happens next.
        if let Some(input) = &mut lock(&self.watch).stdin {
            writeln!(input, "{group}").map_err(|error| io("its watch", &error))?;
        }
        let mut running = Running { server, epmd: None };
        if self.plan.own_epmd {
            running.epmd = Some(self.start_epmd(group)?);
        }
        *lock(&self.running) = Some(running);
        Ok(())
    }

    /// The name server, in the node's process group, so that it ends with it. The node itself finds it running.
    fn start_epmd(&self, group: u32) -> Result<Child, ServerError> {
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port"]).arg(self.ports.epmd.to_string());
        epmd.process_group(i32::try_from(group).unwrap_or(0)).stdin(Stdio::null());
        epmd.stdout(Stdio::null()).stderr(Stdio::null());
        epmd.spawn().map_err(|error| io("epmd (Debian's package erlang-base)", &error))
    }

    fn environment(&self) -> Environment {
        let folder = |name: &str| self.folder().join(name).display().to_string();
        Environment::from([
            ("HOME", folder("home")),
            ("LANG", "C.UTF-8".to_owned()),
            ("ERL_EPMD_PORT", self.ports.epmd.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODENAME", self.plan.name.clone()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", self.ports.amqp.to_string()),
            ("RABBITMQ_DIST_PORT", self.ports.distribution.to_string()),
            ("RABBITMQ_MNESIA_BASE", folder("mnesia")),
            ("RABBITMQ_LOG_BASE", folder("log")),
            ("RABBITMQ_CONFIG_FILE", folder("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", folder("advanced.config")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_PID_FILE", folder("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", folder("enabled_plugins")),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
        ])
    }

    /// Evaluates an Erlang expression in the node.
    pub(super) async fn eval(&self, expression: &str) -> Result<String, ServerError> {
        let mut command = Command::new(server_script()?.with_file_name("rabbitmqctl"));
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(self.environment()).arg("eval").arg(expression).stdin(Stdio::null());
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        let ran = ran.map_err(|error| ServerError(format!("rabbitmqctl: {error}")))?;
        let output = ran.map_err(|error| io("rabbitmqctl", &error))?;
        let (answer, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.success() {
            true => Ok(answer.into_owned()),
            false => Err(ServerError(format!("rabbitmqctl eval {expression}: {answer}{errors}"))),
        }
    }

    /// The node's temporary folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn management(&self) -> Management {
        Management { port: self.ports.management }
    }

    /// Waits until AMQP and the management API answer.
    pub(super) async fn ready(&self, limit: Duration) -> Result<(), ServerError> {
        let begin = Instant::now();
        loop {
            if speaks_amqp(self.ports.amqp).await && self.management().call("GET", "/api/overview", "").await.is_ok() {
                return Ok(());
            }
            let ended = lock(&self.running).as_mut().and_then(|running| running.server.try_wait().ok().flatten());
            if ended.is_some() || begin.elapsed() > limit {
                let why = ended.map_or(format!("was not ready after {limit:?}"), |status| format!("ended: {status}"));
                return Err(ServerError(format!("the private RabbitMQ {why}; the ends of its logs:\n{}", self.logs())));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn logs(&self) -> String {
        let log = format!("log/{}.log", self.plan.name);
        ["console.log", "errors.log", &log].map(|name| tail(&self.folder().join(name))).join("\n")
    }

    /// SIGKILL to the whole group.
    pub(super) fn kill(&self) {
        let Some(running) = lock(&self.running).take() else { return };
        running.signal(Signal::KILL);
        running.reap();
        // The kernel closes a killed process's sockets a moment later.
        let begin = Instant::now();
        while std::net::TcpStream::connect(self.amqp()).is_ok() && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and SIGKILL if the node still runs after half a minute.
    pub(super) async fn stop(&self) {
        let Some(mut running) = lock(&self.running).take() else { return };
        // To the start script alone, which passes the signal on and waits for the node. One for the whole group would reach
        // the node twice, and end its name server before it.
        running.terminate();
        for _ in 0..300 {
            if !matches!(running.server.try_wait(), Ok(None)) && TcpStream::connect(self.amqp()).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        running.signal(Signal::KILL);
        running.reap();
    }

    fn amqp(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.ports.amqp)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        // The end of its input ends the watch, which then removes the folder too.
        let watch = self.watch.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(watch.stdin.take());
        if let Err(error) = watch.wait() {
            eprintln!("private RabbitMQ: its watch did not end: {error}");
        }
    }
}

impl Running {
    /// Signals the group; returns whether there still was one.
    fn signal(&self, signal: Signal) -> bool {
        let group = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw);
        group.is_some_and(|group| kill_process_group(group, signal).is_ok())
    }

    /// SIGTERM to the start script.
    fn terminate(&self) {
        // It fails only if the script has ended already.
        kill_process(Pid::from_child(&self.server), Signal::TERM).ok();
    }

    /// Reaps the ended processes.
    fn reap(mut self) {
        drop(self.server.wait());
        drop(self.epmd.map(|mut epmd| epmd.wait()));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_files(folder: &Path, plan: &NodePlan) -> std::io::Result<()> {
    for name in ["home", "mnesia", "log"] {
        fs::create_dir(folder.join(name))?;
    }
    let cookie = folder.join("home/.erlang.cookie");
    fs::write(&cookie, "ECHOGENTESTS")?;
    fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
    fs::write(folder.join("enabled_plugins"), "[rabbitmq_management].\n")?;
    // Channels are checked once a second, so that tests of `consumer_timeout` do not wait for a minute.
    let environment = [r"{channel_tick_interval, 1000}", &plan.environment].join(", ");
    let environment = environment.trim_end_matches([',', ' ']);
    fs::write(folder.join("advanced.config"), format!("[{{rabbit, [{environment}]}}].\n"))?;
    let added = std::env::var_os(CONF_VARIABLE).filter(|path| !path.is_empty());
    let added = added.map(fs::read_to_string).transpose()?.unwrap_or_default();
    fs::write(folder.join("rabbitmq.conf"), configuration(plan) + &added)
}

fn configuration(plan: &NodePlan) -> String {
    let Ports { amqp, management, .. } = plan.ports;
    let mut text = format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp}\nmanagement.tcp.port = {management}\nmanagement.tcp.ip = 127.0.0.1\n\
         loopback_users = none\ndisk_free_limit.absolute = 50MB\nraft.wal_max_size_bytes = 67108864\n"
    );
    if !plan.cluster.is_empty() {
        text.push_str("cluster_formation.peer_discovery_backend = classic_config\n");
        for (number, name) in plan.cluster.iter().enumerate() {
            text.push_str(&format!("cluster_formation.classic_config.nodes.{} = {name}\n", number + 1));
        }
    }
    text
}

/// Whether a broker answers on the port. It opens its listeners only after its queues are loaded.
async fn speaks_amqp(port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        stream.read_u8().await
    };
    // The first byte of the first frame must be that of a method frame.
    matches!(timeout(Duration::from_secs(5), greeting).await, Ok(Ok(1)))
}
