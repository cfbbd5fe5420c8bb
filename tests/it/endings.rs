//! How commands end: at a signal, including one that arrives before there is any work; when the reader of their output
//! has gone; and when the broker refuses every operation.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Message, QueueName};
use echogen_protocol::{Lane, StageName};
use echogen_testkit::RabbitMq;
use rustix::process::Signal;
use tokio::time::timeout;

use crate::{
    program::{Folder, Run, Running, subject, wait_for},
    watched::ask,
};

/// Timeout of every wait, for a machine that is busy with other work.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time between a signal and the end of a command: less than any timeout of the program itself.
const AT_ONCE: Duration = Duration::from_secs(8);

/// Starts a command; its standard error is written to the file `said`.
fn start(folder: &Folder, command: Command) -> Running {
    Running::start(command, File::create(folder.path("said")).expect("a temporary file can be written"))
}

/// A server that accepts connections and never sends anything.
struct SilentServer(TcpListener);

impl SilentServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("it need not block");
        Self(listener)
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.0.local_addr().expect("it is bound"))
    }

    fn accept(&self) -> TcpStream {
        wait_for("the command connects", TIMEOUT, || Some(self.0.accept().ok()?.0))
    }
}

/// Starts a command on a silent server, sends one signal while it waits, and returns the exit code.
fn told_while_connecting(arguments: &[&str], signal: Signal) -> Option<i32> {
    let (folder, server) = (Folder::new(), SilentServer::start());
    let mut command = folder.command(arguments);
    command.env("ECHOGEN_BROKER_URL", server.url()).env("ECHOGEN_STORE_URL", "store");
    let mut running = start(&folder, command);
    let _silent = server.accept();
    running.signal(signal);
    running.end(AT_ONCE)
}

#[test]
fn a_client_that_waits_for_a_silent_server_ends_at_the_first_signal() {
    let picture = subject("mug.png");
    let submit = ["submit", "--subject", &picture, "--prompt", "a mug"];
    let clients: [&[&str]; 4] = [&["status", "job", "--watch"], &["dead-letters", "list"], &["canary"], &submit];
    for client in clients {
        for signal in [Signal::INT, Signal::TERM] {
            assert_eq!(told_while_connecting(client, signal), Some(130), "{client:?} at {signal:?}");
        }
    }
}

#[test]
fn a_role_that_waits_for_a_silent_server_ends_well_at_the_first_signal() {
    let roles: [&[&str]; 3] = [&["sampler"], &["up"], &["canary", "--every", "1"]];
    for role in roles {
        let role = [role, &["--listen", "none"]].concat();
        assert_eq!(told_while_connecting(&role, Signal::TERM), Some(0), "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_told_to_stop_before_it_is_ready_never_consumes() {
    let (url, prefix) = (RabbitMq::shared().await.amqp_url(), RabbitMq::fresh_prefix());
    let config = AmqpConfig { prefix: prefix.clone(), ..AmqpConfig::at(url.as_str()) };
    let broker = AmqpBroker::connect(config).await.expect("the broker takes connections");
    let task = Message { body: "to be left alone".into(), headers: BTreeMap::new() };
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    broker.publish(&queue, task).await.expect("the task is taken");

    let folder = Folder::new();
    let mut command = folder.command(&["sampler", "--listen", "127.0.0.1:0", "--log", "info", "--threads", "1"]);
    command.env("ECHOGEN_BROKER_URL", url).env("ECHOGEN_BROKER_PREFIX", prefix).env("ECHOGEN_STORE_URL", "store");
    let mut sampler = start(&folder, command);
    let said = || String::from_utf8_lossy(&folder.read("said")).into_owned();
    wait_for("it begins", TIMEOUT, || said().contains("serving health and metrics").then_some(()));
    sampler.signal(Signal::TERM);
    assert_eq!(sampler.end(TIMEOUT), Some(0), "{}", said());

    let mut consumer = broker.consume(&queue, 1).await.expect("consume works");
    let received = timeout(TIMEOUT, consumer.receive()).await.expect("the task is still there");
    let delivery = received.expect("receive works").expect("the consumer goes on");
    assert_eq!(delivery.redeliveries, 0, "{}", said());
    delivery.ack().await.expect("ack works");
}

/// A proxy to a server that records what clients send, one entry for each connection.
struct Tap {
    listener: TcpListener,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let tap = Self { listener, sent: Arc::default() };
        let (accepting, sent) = (tap.listener.try_clone().expect("a socket can be cloned"), Arc::clone(&tap.sent));
        thread::spawn(move || {
            for client in accepting.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", port)).expect("the server is there");
                let number = {
                    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                    sent.push(Vec::new());
                    sent.len() - 1
                };
                let (from, to) = (client.try_clone().expect("cloned"), server.try_clone().expect("cloned"));
                let kept = Arc::clone(&sent);
                thread::spawn(move || {
                    pass(from, to, |bytes| {
                        kept.lock().unwrap_or_else(PoisonError::into_inner)[number].extend_from_slice(bytes);
                    });
                });
                thread::spawn(move || pass(server, client, |_| ()));
            }
        });
        tap
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.listener.local_addr().expect("it is bound"))
    }

    /// Returns for each connection whether the client has closed it with AMQP's `connection.close`.
    fn closed(&self) -> Vec<bool> {
        // Class 10, method 50, at the beginning of a frame's payload; the reply code 200 follows.
        const CLOSE: [u8; 6] = [0, 10, 0, 50, 0, 200];
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.iter().map(|bytes| bytes.windows(CLOSE.len()).any(|window| window == CLOSE)).collect()
    }
}

/// Forwards bytes until either side closes.
fn pass(mut from: TcpStream, mut to: TcpStream, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        each(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The other side may have closed already.
    to.shutdown(Shutdown::Write).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_closes_its_connections_to_the_broker() {
    let tap = Tap::to(RabbitMq::shared().await.amqp_port());
    for name in ["dispatcher", "up"] {
        let folder = Folder::new();
        let mut command = folder.command(&[name, "--listen", "127.0.0.1:0", "--log", "info", "--threads", "1"]);
        command.env("ECHOGEN_BROKER_URL", tap.url()).env("ECHOGEN_BROKER_PREFIX", RabbitMq::fresh_prefix());
        command.env("ECHOGEN_STORE_URL", "store");
        let mut role = start(&folder, command);
        let said = || String::from_utf8_lossy(&folder.read("said")).into_owned();
        wait_for("it is ready", TIMEOUT, || said().contains("ready").then_some(()));
        role.signal(Signal::TERM);
        assert_eq!(role.end(TIMEOUT), Some(0), "{}", said());
        let closed = wait_for("both ends know", TIMEOUT, || Some(tap.closed()).filter(|closed| !closed.is_empty()));
        assert!(closed.iter().all(|closed| *closed), "{name}: {closed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_in_one_process_names_the_right_that_it_lacks_and_works_when_it_has_it() {
    let rabbitmq = RabbitMq::shared().await;
    let send = async |path: &str, body: &str| rabbitmq.management_send("PUT", path, body).await;
    send("/api/users/barred", r#"{"password": "barred", "tags": ""}"#).await.expect("a user is made");
    // A user without read permission on a queue may not declare it with a dead-letter exchange either; it exists
    // already.
    let prefix = RabbitMq::fresh_prefix();
    let folder = Folder::new();
    let mut declare = folder.command(&["topology", "--declare"]);
    declare.env("ECHOGEN_BROKER_URL", rabbitmq.amqp_url()).env("ECHOGEN_BROKER_PREFIX", &prefix);
    Run::of(declare).expect(0);
    let all_but_one = r#"{"configure": ".*", "write": ".*", "read": "^(?!.*sample).*$"}"#;
    send("/api/permissions/%2f/barred", all_but_one).await.expect("the user may do almost everything");
    let mut command = folder.command(&["up", "--listen", "127.0.0.1:0", "--log", "info", "--threads", "1"]);
    command.env("ECHOGEN_BROKER_URL", format!("amqp://barred:barred@127.0.0.1:{}/%2f", rabbitmq.amqp_port()));
    command.env("ECHOGEN_BROKER_PREFIX", &prefix).env("ECHOGEN_STORE_URL", "store");
    command.env("ECHOGEN_TELEMETRY_LOG_FORMAT", "json");
    let mut up = start(&folder, command);
    let said = || String::from_utf8_lossy(&folder.read("said")).into_owned();
    let address = wait_for("it listens", TIMEOUT, || {
        let line = said().lines().find(|line| line.contains("serving health and metrics"))?.to_owned();
        let line: serde_json::Value = serde_json::from_str(&line).ok()?;
        line.get("address")?.as_str()?.parse().ok()
    });
    let right = format!("read on {prefix}.sample");
    wait_for("the right is named", TIMEOUT, || {
        let (status, text) = ask(address, "GET", "/readyz", "");
        (status == 503 && text.contains(&right)).then_some(())
    });
    assert!(said().contains(&right) && ask(address, "GET", "/livez", "").0 == 200, "{}", said());
    send("/api/permissions/%2f/barred", r#"{"configure": ".*", "write": ".*", "read": ".*"}"#)
        .await
        .expect("all is allowed");
    wait_for("it works", TIMEOUT, || (ask(address, "GET", "/readyz", "").0 == 200).then_some(()));
    up.signal(Signal::TERM);
    assert_eq!(up.end(TIMEOUT), Some(0), "{}", said());
}

#[test]
fn errors_that_nobody_reads_keep_no_job_from_running() {
    let folder = Folder::new();
    let picture = serde_json::json!(subject("mug.png"));
    let line = |id: &str| format!("{{\"id\": {id:?}, \"subject\": {{\"image\": {picture}}}, \"prompt\": \"a mug\"}}\n");
    folder.write("jobs.jsonl", line("one") + &line("two"));
    let (reader, writer) = std::io::pipe().expect("there are pipes");
    drop(reader);
    let mut command = folder.command(&["batch", "jobs.jsonl"]);
    command.stderr(writer);
    Run::of(command).expect(0);
    assert!(folder.path("out/one/image-0.png").is_file() && folder.path("out/two/image-0.png").is_file());
}

#[test]
fn a_reader_of_the_answer_that_has_gone_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("there are pipes");
    drop(reader);
    let folder = Folder::new();
    let mut command = folder.command(&["schema", "job"]);
    command.stdout(writer);
    assert_eq!(Run::of(command).expect(0).stderr, "");
}

#[cfg(target_os = "linux")]
#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let folder = Folder::new();
    for arguments in [&["schema", "job"][..], &["topology", "--json"], &["--help"]] {
        let mut command = folder.command(arguments);
        command.stdout(OpenOptions::new().write(true).open("/dev/full").expect("Linux has it"));
        Run::of(command).expect_error(2, "standard output cannot be written");
    }
}

#[test]
fn the_topology_for_programs_is_one_line() {
    let run = Folder::new().run(&["topology", "--json"]).expect(0);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    let topology: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert!(topology["queues"].is_array(), "{topology}");
}
