//! Observability of a live system: probes, metrics, traces, logs and the canary, on real servers and with the real
//! program.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_protocol::RoleName;
use echogen_testkit::{RabbitMq, Redis, S3Server};
use rustix::process::Signal;

use crate::{
    collector::{CollectedSpan, Collector},
    exposition::Exposition,
    program::{Folder, Run, Running, subject, wait_for},
};

/// Timeout of every wait, for a machine that is busy with other work.
const TIMEOUT: Duration = Duration::from_secs(180);

/// A password that must never appear in a log.
const AMQP_PASSWORD: &str = "hush-amqp-4711";
const REDIS_PASSWORD: &str = "hush-redis-4712";

/// Servers with secret passwords, and an isolated installation on them.
struct Servers {
    settings: Vec<(&'static str, String)>,
    /// The broker's address behind `role-` or `client-`, whose rights differ.
    server: String,
    redis: Redis,
    s3: S3Server,
}

impl Servers {
    async fn start() -> Self {
        let rabbitmq = RabbitMq::shared().await;
        let send = async |path: &str, body: &str| rabbitmq.management_send("PUT", path, body).await;
        let (prefix, password) =
            (RabbitMq::fresh_prefix(), format!(r#"{{"password": "{AMQP_PASSWORD}", "tags": ""}}"#));
        // The rights that the page on the protocol grants: to roles, and to a client.
        let own = prefix.replace('-', "[-]");
        let role = [format!("^{own}[.]"), format!("^({own}[.]|amq[.]default$)"), format!("^{own}[.]")];
        let client = [
            "^(shop[.].*|amq[.]gen.*)$".to_owned(),
            format!("^({own}[.]jobs|shop[.].*|amq[.]gen.*)$"),
            format!("^({own}[.]events|shop[.].*|amq[.]gen.*)$"),
        ];
        for (name, [configure, write, read]) in [("role", role), ("client", client)] {
            send(&format!("/api/users/{name}-{prefix}"), &password).await.expect("a user is made");
            let rights = serde_json::json!({ "configure": configure, "write": write, "read": read }).to_string();
            send(&format!("/api/permissions/%2f/{name}-{prefix}"), &rights).await.expect("the user may work");
        }
        let (redis, s3) = (Redis::start().expect("redis starts"), S3Server::start().expect("S3 starts"));
        let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).expect("redis is there");
        stream.write_all(format!("CONFIG SET requirepass {REDIS_PASSWORD}\r\n").as_bytes()).expect("redis listens");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).expect("redis answers");
        assert_eq!(&answer, b"+OK\r\n");
        let settings = vec![
            ("ECHOGEN_BROKER_PREFIX", prefix.clone()),
            ("ECHOGEN_CACHE_URL", format!("redis://:{REDIS_PASSWORD}@127.0.0.1:{}/0", redis.port())),
            ("ECHOGEN_STORE_URL", format!("s3://{}/watched", s3.bucket())),
            ("ECHOGEN_STORE_ENDPOINT", s3.endpoint()),
            ("ECHOGEN_STORE_ACCESS_KEY_ID", s3.access_key().to_owned()),
            ("ECHOGEN_STORE_SECRET_ACCESS_KEY", s3.secret_key().to_owned()),
        ];
        let server = format!("{prefix}:{AMQP_PASSWORD}@127.0.0.1:{}/%2f", rabbitmq.amqp_port());
        Self { settings, server, redis, s3 }
    }

    /// Returns a command of the program on these servers, with its log in JSON.
    fn command(&self, folder: &Folder, arguments: &[&str]) -> Command {
        let mut command = folder.command(arguments);
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env("ECHOGEN_TELEMETRY_LOG_FORMAT", "json");
        command.envs(self.settings.iter().map(|(name, value)| (*name, value)));
        let user = if RoleName::WORKER_NAMES.contains(&arguments[0]) { "role" } else { "client" };
        command.env("ECHOGEN_BROKER_URL", format!("amqp://{user}-{}", self.server));
        command
    }

    /// Returns every secret that must not appear in a log, with its description.
    fn secrets(&self, picture: &[u8]) -> Vec<(&'static str, String)> {
        let encoded = BASE64_STANDARD.encode(picture);
        let inner = &picture[picture.len() / 2..picture.len() / 2 + 12];
        vec![
            ("the broker's password", AMQP_PASSWORD.to_owned()),
            ("the password of Redis", REDIS_PASSWORD.to_owned()),
            ("the store's secret", self.s3.secret_key().to_owned()),
            ("a picture in base64", encoded[encoded.len() / 2..encoded.len() / 2 + 40].to_owned()),
            ("the beginning of any PNG in base64", BASE64_STANDARD.encode(b"\x89PNG\r\n\x1a\n")[..10].to_owned()),
            ("the beginning of any PNG", "x89PNG".to_owned()),
            ("the beginning of any PNG as numbers", "137, 80, 78, 71".to_owned()),
            ("a picture's bytes as numbers", format!("{inner:?}").trim_matches(['[', ']']).to_owned()),
        ]
    }
}

/// One process of the program, and its log.
struct Watched {
    name: &'static str,
    running: Running,
    log: Arc<Mutex<String>>,
}

impl Watched {
    fn start(name: &'static str, command: Command) -> Self {
        let mut running = Running::start(command, Stdio::piped());
        let (log, errors) = (Arc::new(Mutex::new(String::new())), running.take_stderr().expect("it is piped"));
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let mut log = lines.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { name, running, log }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the address of its endpoint, from its log.
    fn address(&self) -> SocketAddr {
        let said = wait_for(&format!("the {} says where it listens", self.name), TIMEOUT, || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("serving health and metrics"))?;
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line.get("address")?.as_str().map(str::to_owned)
        });
        said.parse().expect("it is an address")
    }

    /// Sends SIGTERM and waits for the exit; returns the exit code.
    fn stop(&mut self) -> Option<i32> {
        self.running.signal(Signal::TERM);
        self.running.end(TIMEOUT)
    }
}

/// Sends an HTTP request; returns status and body.
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the endpoint is there");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: echogen\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("and a status"), body.to_owned())
}

fn scrape(address: SocketAddr) -> Exposition {
    let (status, text) = ask(address, "GET", "/metrics", "");
    assert_eq!(status, 200);
    Exposition::parse(&text).unwrap_or_else(|why| panic!("{why}"))
}

/// Starts all roles, with an endpoint each.
fn start_roles(servers: &Servers, folder: &Folder, more: &[&str]) -> Vec<Watched> {
    let start = |name| {
        let mut arguments = vec![name, "--listen", "127.0.0.1:0", "--threads", "1"];
        arguments.extend(more);
        Watched::start(name, servers.command(folder, &arguments))
    };
    RoleName::WORKER_NAMES.map(start).into()
}

/// Waits until all are ready; fails if one exits before.
fn wait_until_ready(roles: &[Watched]) -> Vec<SocketAddr> {
    let addresses: Vec<SocketAddr> = roles.iter().map(Watched::address).collect();
    for (role, address) in roles.iter().zip(&addresses) {
        wait_for(&format!("the {} is ready: {}", role.name, role.log()), TIMEOUT, || {
            assert_eq!(ask(*address, "GET", "/livez", "").0, 200, "the {} must live while it loads", role.name);
            (ask(*address, "GET", "/readyz", "").0 == 200).then_some(())
        });
    }
    addresses
}

fn submit(servers: &Servers, folder: &Folder, arguments: &[&str]) -> Run {
    let mut all = vec!["submit", "--wait", "--subject"];
    let picture = subject("mug.png");
    all.push(&picture);
    all.extend(arguments);
    Run::of(servers.command(folder, &all))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_system_shows_every_metric_of_the_list_and_no_other() {
    let (servers, folder) = (Servers::start().await, Folder::new());
    let mut roles = start_roles(&servers, &folder, &["--log", "info"]);
    let addresses = wait_until_ready(&roles);
    submit(&servers, &folder, &["--prompt", "a mug on a table", "--id", "first"]).expect(0);
    submit(&servers, &folder, &["--prompt", "a mug in the snow", "--id", "second"]).expect(0);
    Run::of(servers.command(&folder, &["canary", "--limit", "150"])).expect(0);
    for (role, address) in RoleName::WORKER_NAMES.into_iter().zip(&addresses) {
        let shown = scrape(*address);
        assert_eq!(shown.faults(role), Vec::<String>::new(), "{role}");
        let labels = [("stage", role), ("outcome", "done")];
        assert!(shown.sum("echogen_tasks_total", &labels) >= 2.0, "{role}: {shown:?}");
        assert!(shown.sum("echogen_task_seconds_count", &[("stage", role)]) >= 2.0, "{role}");
        assert_eq!(shown.sum("echogen_tasks_in_progress", &[]), 0.0, "{role}");
        assert_eq!(shown.sum("echogen_ready", &[("stage", role)]), 1.0, "{role}");
        assert!(shown.sum("echogen_object_store_requests_total", &[("outcome", "ok")]) > 0.0, "{role}");
        let waits =
            if role == "dispatcher" { "echogen_queue_wait_seconds_count" } else { "echogen_queue_wait_seconds_sum" };
        assert!(shown.sum(waits, &[]) > 0.0, "{role}: time passes between publish and receipt");
    }
    let sampler = scrape(addresses[3]);
    assert_eq!(sampler.sum("echogen_jobs_total", &[("outcome", "completed")]), 3.0);
    assert_eq!(sampler.sum("echogen_batch_size_sum", &[]), 4.0, "three jobs and the warm-up");
    let batches = sampler.sum("echogen_batches_total", &[]);
    assert!(sampler.sum("echogen_scale_seconds_count", &[("scale", "1")]) == batches && batches >= 3.0);
    assert!(sampler.sum("echogen_cache_requests_total", &[("kind", "subject")]) >= 3.0);
    check_changing_the_log(addresses[0], &roles[0]);
    check_canary_again_and_again(&servers, &folder);
    for role in &mut roles {
        assert_eq!(role.stop(), Some(0), "{}", role.name);
    }
}

fn check_changing_the_log(address: SocketAddr, role: &Watched) {
    assert_eq!(ask(address, "GET", "/log", "").1, "info\n");
    assert_eq!(ask(address, "PUT", "/log", "off").0, 200);
    let before = role.log().len();
    assert_eq!(ask(address, "PUT", "/log", "nonsense=x=y").0, 400);
    assert_eq!(role.log().len(), before, "it is off");
    assert_eq!(ask(address, "PUT", "/log", "debug").0, 200);
    wait_for("the change is logged", TIMEOUT, || role.log()[before..].contains("log filter changed").then_some(()));
}

fn check_canary_again_and_again(servers: &Servers, folder: &Folder) {
    let arguments = ["canary", "--every", "0.5", "--listen", "127.0.0.1:0", "--log", "info"];
    let mut canary = Watched::start("canary", servers.command(folder, &arguments));
    let address = canary.address();
    let shown = wait_for("two canaries come back", TIMEOUT, || {
        let shown = scrape(address);
        (shown.sum("echogen_canary_runs_total", &[("outcome", "completed")]) >= 2.0).then_some(shown)
    });
    assert_eq!(shown.faults("canary"), Vec::<String>::new());
    assert!(shown.sum("echogen_canary_seconds", &[]) > 0.0);
    assert_eq!(ask(address, "GET", "/readyz", "").0, 200);
    assert_eq!(canary.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_is_one_trace_and_no_log_holds_a_secret() {
    let (servers, folder, collector) = (Servers::start().await, Folder::new(), Collector::start().await);
    let endpoint = collector.endpoint();
    let watched = ["--log", "trace", "--otlp-endpoint", &endpoint];
    let mut roles = start_roles(&servers, &folder, &watched);
    wait_until_ready(&roles);
    let mut more = vec!["--prompt", "a mug on a table", "--id", "traced"];
    more.extend(watched);
    let client = submit(&servers, &folder, &more).expect(0);
    let bad = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(b"\x89PNG\r\n\x1a\n and nothing else"));
    let bad = ["submit", "--wait", "--subject", &bad, "--prompt", "a mug", "--id", "broken"];
    let failed = Run::of(servers.command(&folder, &[&bad[..], &watched[..]].concat())).expect(1);
    for role in &mut roles {
        assert_eq!(role.stop(), Some(0), "{}: {}", role.name, role.log());
    }
    let spans = collector.spans();
    check_trace(&spans);
    let picture = std::fs::read(subject("mug.png")).expect("the picture ships");
    let secrets = servers.secrets(&picture);
    let mut logs: Vec<(&str, String)> = roles.iter().map(|role| (role.name, role.log())).collect();
    logs.extend([("client", client.stderr), ("client of a bad job", failed.stderr)]);
    for (name, log) in &logs {
        assert!(log.contains("\"level\":\"") && log.lines().all(|line| line.starts_with('{')), "{name}: {log}");
        assert_eq!(leaks(log, &secrets), Vec::<&str>::new(), "{name}: {log}");
    }
    let trace = spans.iter().find(|span| span.job == "traced").map(|span| span.trace.clone());
    check_lines(&logs, &trace.expect("there is one"));
    assert!(logs[3].1.lines().count() > 5, "there is something to look at: {}", logs[3].1);
    drop(servers.redis);
}

/// Returns the descriptions of the secrets that appear in the log.
fn leaks<'a>(log: &str, secrets: &[(&'a str, String)]) -> Vec<&'a str> {
    secrets.iter().filter(|(_, secret)| log.contains(secret.as_str())).map(|(what, _)| *what).collect()
}

/// The kinds of spans as numbers of OTLP.
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

/// The name of a queue without the installation's prefix, which roles do not know.
fn queue_of(role: &str) -> String {
    let stem = match role {
        "dispatcher" => "dispatch",
        "segmenter" => "segment",
        "encoder" => "encode",
        _ => "sample",
    };
    format!("echogen.{stem}.standard")
}

/// Fails unless a span describes what it does with a message by OpenTelemetry's conventions.
fn check_messaging(span: &CollectedSpan, operation: &str, kind: i32, role: &str) {
    let queue = queue_of(role);
    assert_eq!((&span.name, span.kind), (&format!("{operation} {queue}"), kind), "{span:#?}");
    let expected = [
        ("messaging.system", "rabbitmq"),
        ("messaging.operation.type", operation),
        ("messaging.operation.name", operation),
        ("messaging.destination.name", &queue),
        ("messaging.message.id", "traced"),
        ("messaging.message.conversation_id", "traced"),
    ];
    for (name, value) in expected {
        assert_eq!(span.attributes.get(name).map(String::as_str), Some(value), "{name} of {span:#?}");
    }
}

fn check_trace(spans: &[CollectedSpan]) {
    let with = |name: String| {
        let is_its = |span: &&CollectedSpan| {
            span.name == name && span.attributes.get("messaging.message.id").is_some_and(|id| id == "traced")
        };
        let mut found = spans.iter().filter(is_its);
        let span = found.next().unwrap_or_else(|| panic!("no span {name} in {spans:#?}"));
        assert!(found.next().is_none(), "one span {name}: {spans:#?}");
        span
    };
    let mut before = with(format!("send {}", queue_of("dispatcher")));
    assert!(before.parent.is_empty() && before.job == "traced", "the client begins the trace: {before:?}");
    let mut sampler = before;
    for (role, next) in RoleName::WORKER_NAMES.iter().zip(RoleName::WORKER_NAMES.iter().skip(1).map(Some).chain([None]))
    {
        check_messaging(before, "send", PRODUCER, role);
        let span = with(format!("process {}", queue_of(role)));
        check_messaging(span, "process", CONSUMER, role);
        assert_eq!((&span.trace, &span.parent), (&before.trace, &before.id), "{role}: {spans:#?}");
        assert_eq!(span.service, format!("echogen-{role}"));
        assert!(!span.has_failed);
        let calls = spans.iter().filter(|call| call.kind == CLIENT && call.parent == span.id);
        let calls: Vec<&str> = calls.map(|call| call.name.as_str()).collect();
        assert!(calls.contains(&"object store") && calls.contains(&"EVALSHA"), "{role} calls its servers: {calls:?}");
        if let Some(next) = next {
            before = with(format!("send {}", queue_of(next)));
            assert_eq!((&before.trace, &before.parent), (&span.trace, &span.id), "{role}: {spans:#?}");
        }
        sampler = span;
    }
    let batch = spans.iter().find(|span| span.name == "batch" && span.links.contains(&sampler.id));
    let batch = batch.unwrap_or_else(|| panic!("no batch is linked to the sampler's task: {spans:#?}"));
    assert_eq!(batch.attributes.get("messaging.batch.message_count").map(String::as_str), Some("1"));
    assert!(sampler.links.contains(&batch.id) && batch.parent.is_empty() && batch.trace != sampler.trace);
    let broken: Vec<&CollectedSpan> = spans.iter().filter(|span| span.job == "broken").collect();
    assert!(broken.len() > 1 && broken.iter().all(|span| span.trace != before.trace), "{broken:#?}");
    let failed = broken.iter().filter(|span| span.has_failed).count();
    assert_eq!(failed, 1, "the stage that could not read the picture: {broken:#?}");
    let clientless = spans.iter().filter(|span| span.kind == CLIENT && span.parent.is_empty());
    assert_eq!(clientless.count(), 0, "calls of no task are no traces");
}

/// Fails unless every line about the job, of every role, says which trace it belongs to.
fn check_lines(logs: &[(&str, String)], trace: &[u8]) {
    let id: String = trace.iter().map(|byte| format!("{byte:02x}")).collect();
    for (role, log) in logs.iter().filter(|(name, _)| RoleName::WORKER_NAMES.contains(name)) {
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line is JSON"));
        let of_job: Vec<_> = lines.filter(|line| line["span"]["job"] == "traced").collect();
        assert!(!of_job.is_empty(), "{role}: {log}");
        for line in &of_job {
            assert_eq!(line["span"]["trace_id"], id.as_str(), "{role}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_not_repeated() {
    let (servers, folder) = (Servers::start().await, Folder::new());
    let mut command = servers.command(&folder, &["dispatcher", "--log", "trace", "--listen", "none"]);
    let url = format!("amqp://watched:hush-wrong-4713@127.0.0.1:{}/%2f", RabbitMq::shared().await.amqp_port());
    let run = Run::of({
        command.env("ECHOGEN_BROKER_URL", url);
        command
    });
    assert!(run.code == Some(2) && run.stderr.contains("RabbitMQ"), "{run:?}");
    assert!(!format!("{run:?}").contains("hush-"), "{run:?}");
}

#[test]
fn the_search_for_secrets_finds_them() {
    let secrets = [("a password", "hush".to_owned()), ("another", "quiet".to_owned())];
    assert_eq!(leaks("all is hushed", &secrets), ["a password"]);
    assert_eq!(leaks("all is well", &secrets), Vec::<&str>::new());
}
