//! The example clients in other languages: their messages are valid jobs, and they handle the jobs' ends.
//!
//! Their libraries are installed from the package registries, at pinned versions, into a folder below `target/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Consumer, Delivery, Event, FaultKind, Message, QueueName};
use echogen_protocol::{Failure, FailureKind, ImageLocation, Job, JobEvent, JobResult, Lane, StageName, TaskHeaders};
use echogen_testkit::RabbitMq;
use tokio::time::{Duration, timeout};

use crate::program::{Folder, repository};

/// Jobs as a client may write them: with a picture file, a lane, and no id.
const JOBS: &str = r#"
{"id": "first", "subject": {"image": "dog.png"}, "prompt": "a dog on a beach", "lane": "interactive"}

{"subject": {"image": "dog.png", "name": "dog"}, "prompt": "a dog in the snow", "seeds": [1, 2], "lane": "interactive"}
"#;

/// The shortest PNG signature is sufficient: this test decodes no picture.
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Returns a folder below `target/` with a client's files; `install` is run in it once.
fn installed(language: &str, files: &[&str], install: impl Fn(&Path) -> Vec<Command>) -> PathBuf {
    installed_from("examples/clients", language, files, install)
}

/// The same for files of another folder of the repository.
pub(crate) fn installed_from(
    source: &str,
    language: &str,
    files: &[&str],
    install: impl Fn(&Path) -> Vec<Command>,
) -> PathBuf {
    // Tests run concurrently, so the installation is serialised.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(language);
    fs::create_dir_all(&folder).expect("the target folder is writable");
    let mut wanted = String::new();
    for file in files {
        let text = fs::read_to_string(repository(source).join(file)).expect("the example is there");
        fs::write(folder.join(file), &text).expect("the target folder is writable");
        // The installed libraries depend only on the first file, which lists them.
        if wanted.is_empty() {
            wanted = text;
        }
    }
    let stamp = folder.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return folder;
    }
    for mut command in install(&folder) {
        let ended = command.stdin(Stdio::null()).output();
        let output = ended.unwrap_or_else(|error| panic!("{command:?}: {error}; run deploy/setup-debian.sh"));
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {why}; deploy/setup-debian.sh installs what is needed");
    }
    fs::write(stamp, wanted).expect("the target folder is writable");
    folder
}

/// Starts a private broker with the installation's queues, declared as the roles declare them.
async fn broker() -> (AmqpBroker, AmqpConfig) {
    let server = RabbitMq::shared().await;
    let config = AmqpConfig { prefix: RabbitMq::fresh_prefix(), ..AmqpConfig::at(server.amqp_url()) };
    (AmqpBroker::connect(config.clone()).await.expect("the broker takes connections"), config)
}

/// The same installation for a user with the rights that the page on the protocol grants a client.
async fn as_client(config: &AmqpConfig) -> AmqpConfig {
    let (server, name) = (RabbitMq::shared().await, format!("client-{}", config.prefix));
    let own = config.prefix.replace('-', "[-]");
    let rights = serde_json::json!({
        "configure": "^(shop[.].*|amq[.]gen.*)$",
        "write": format!("^({own}[.]jobs|shop[.].*|amq[.]gen.*)$"),
        "read": format!("^({own}[.]events|shop[.].*|amq[.]gen.*)$"),
    });
    let password = r#"{"password": "shop", "tags": ""}"#;
    server.management_send("PUT", &format!("/api/users/{name}"), password).await.expect("a user is made");
    let path = format!("/api/permissions/%2f/{name}");
    server.management_send("PUT", &path, &rights.to_string()).await.expect("the user may submit");
    let url = format!("amqp://{name}:shop@127.0.0.1:{}/%2f", server.amqp_port());
    AmqpConfig { url: Some(url.into()), ..config.clone() }
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    let received = timeout(Duration::from_secs(60), consumer.receive()).await.expect("the client sends a job");
    received.expect("receive works").expect("the consumer goes on")
}

/// Publishes the answers that the last stage would publish.
async fn conclude(broker: &AmqpBroker, job: &Job, message: &Message, failure: Option<Failure>) {
    let result = match failure {
        None => JobResult::completed(job, Vec::new(), "1.2.3", jiff::Timestamp::UNIX_EPOCH),
        Some(failure) => JobResult::failed(&job.outline(), failure, "1.2.3", jiff::Timestamp::UNIX_EPOCH),
    };
    let reply = TaskHeaders::from_map(&message.headers).reply_to;
    let event = Event::of_job(&JobEvent::of_result(&result)).replying_to(reply.expect("the client wants an answer"));
    broker.publish_event(event.clone()).await.expect("the event is taken");
    // A real system may repeat an event. A client that has all its answers is gone by then, and its queue with it.
    let again = broker.publish_event(event).await;
    assert!(again.as_ref().is_err_and(|fault| fault.kind() == FaultKind::NotFound) || again.is_ok(), "{again:?}");
}

/// Runs a client against a fake dispatcher. The second job ends as `failure` says.
async fn check(client: impl FnOnce(&AmqpConfig, &Path) -> Command, failure: Option<Failure>) {
    let (broker, config) = broker().await;
    let folder = Folder::new();
    let jobs = folder.write("jobs.jsonl", JOBS);
    folder.write("dog.png", PICTURE);
    let good = failure.is_none();
    let queue = QueueName::of(StageName::Dispatcher, Lane::Interactive);
    let mut consumer = broker.consume(&queue, 10).await.expect("consume works");
    let mut command = client(&as_client(&config).await, &jobs);
    let client = std::thread::spawn(move || command.stdin(Stdio::null()).output());
    let mut failures = [None, failure].into_iter();
    for prompt in ["a dog on a beach", "a dog in the snow"] {
        let delivery = next(&mut consumer).await;
        let job = Job::parse(&delivery.message.body).expect("this is a job");
        assert_eq!(job.prompt, prompt);
        let picture = job.subject.image.location().expect("the picture's address is good");
        assert!(matches!(picture, ImageLocation::Data { .. }), "the picture comes along: {picture:?}");
        conclude(&broker, &job, &delivery.message, failures.next().flatten()).await;
        delivery.ack().await.expect("ack works");
    }
    let output = client.join().expect("no panic").expect("the client runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(if good { 0 } else { 1 }), "{output:?}");
    let mut lines = told.lines();
    assert_eq!(lines.next(), Some("2 jobs submitted"), "{output:?}");
    assert_eq!(lines.next().map(str::trim), Some("first completed"), "{output:?}");
    let second = lines.next().unwrap_or_default();
    assert!(second.contains(if good { "completed" } else { "failed no subject found" }), "{output:?}");
    assert_eq!(lines.next(), None, "what came twice is told once: {output:?}");
}

fn no_subject() -> Failure {
    Failure { kind: FailureKind::InvalidJob, message: "no subject found".to_owned() }
}

/// Returns the folder with the Python client and its interpreter with the libraries.
pub(crate) fn python_folder() -> PathBuf {
    installed("python", &["requirements.txt", "submit.py"], |folder| {
        let mut environment = Command::new("python3");
        environment.args(["-m", "venv"]).arg(folder.join("venv"));
        let mut install = Command::new(folder.join("venv/bin/pip"));
        install.args(["install", "--quiet", "-r"]).arg(folder.join("requirements.txt"));
        vec![environment, install]
    })
}

fn url(config: &AmqpConfig) -> &str {
    config.url.as_ref().map_or("", |url| url.expose())
}

fn python(config: &AmqpConfig, jobs: &Path) -> Command {
    let folder = python_folder();
    let mut command = Command::new(folder.join("venv/bin/python"));
    command.arg(folder.join("submit.py")).arg(jobs).args(["--timeout", "60"]);
    command.args(["--url", url(config), "--prefix", &config.prefix]);
    command
}

fn javascript(config: &AmqpConfig, jobs: &Path) -> Command {
    let folder = installed("javascript", &["package.json", "submit.mjs"], |folder| {
        let mut install = Command::new("npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(folder);
        vec![install]
    });
    let mut command = Command::new("node");
    command.arg(folder.join("submit.mjs")).arg(jobs).args([url(config), &config.prefix]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_submits_jobs_and_waits_for_their_end() {
    check(python, None).await;
    check(python, Some(no_subject())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_example_submits_jobs_and_waits_for_their_end() {
    check(javascript, None).await;
    check(javascript, Some(no_subject())).await;
}
