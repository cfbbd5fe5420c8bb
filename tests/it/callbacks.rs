//! Whoever gives a callback is told how the job ended, by a server of their own.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use echogen_adapters::{HttpCallbackSender, HttpConfig};
use echogen_ports::{Broker, CallbackSender, DEAD_LETTER_REASON, PortError, QueueName, memory::CallbackAnswer};
use echogen_protocol::{EventKind, ImageSource, Job, JobEvent, JobResult, Subject};
use echogen_tests::producer;
use jiff::Timestamp;
use tokio::time::timeout;

use crate::{
    installation::{Installation, LIMIT},
    program::{Folder, repository},
};

const CALLBACK: &str = "https://client.example/done";

fn job(id: &str) -> Job {
    Job { callback: Some(CALLBACK.to_owned()), ..producer::job(id, 1, "a dog") }
}

/// Waits until so many events were heard.
async fn heard(installation: &Installation, count: usize) -> Vec<JobEvent> {
    let all_heard = async {
        while installation.callbacks.heard().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, all_heard).await.expect("the server hears");
    installation.callbacks.heard().into_iter().map(|(_, event)| event).collect()
}

#[tokio::test]
async fn the_server_hears_what_listeners_hear() {
    let mut installation = Installation::start().await;
    installation.callbacks.let_answer(CALLBACK, CallbackAnswer::Heard);
    installation.run(&producer::job("unasked", 1, "a dog")).await;
    let completed = installation.run(&job("good")).await;
    assert_eq!(completed.kind, EventKind::Completed);
    let no_picture = ImageSource("data:image/png;base64,AAAA".to_owned());
    let bad = Job { subject: Subject::new(no_picture), ..job("bad") };
    let failed = installation.run(&bad).await;
    assert_eq!(failed.kind, EventKind::Failed);
    assert_eq!(heard(&installation, 2).await, [completed, failed]);
}

#[tokio::test]
async fn a_server_that_refuses_costs_no_job_and_leaves_a_dead_letter() {
    let mut installation = Installation::start().await;
    installation.callbacks.let_answer(CALLBACK, CallbackAnswer::Refused);
    assert_eq!(installation.run(&job("good")).await.kind, EventKind::Completed);
    let mut dead = installation.broker.consume(&QueueName::notify().dead_letters(), 1).await.expect("the twin takes it");
    let delivery = timeout(LIMIT, dead.receive()).await.expect("it is parked").expect("it can be read");
    let delivery = delivery.expect("the twin lives");
    assert!(delivery.message.headers[DEAD_LETTER_REASON].contains("refuses"), "{:?}", delivery.message.headers);
    delivery.ack().await.expect("the twin takes it");
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The example server; it ends with this value.
struct Example {
    process: Child,
    port: String,
    certificates: String,
}

impl Example {
    fn start(folder: &Folder) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate can be made");
        let certificate = folder.write("server.pem", made.cert.pem());
        let key = folder.write("server.key", made.signing_key.serialize_pem());
        let mut command = Command::new("python3");
        command.arg(repository("examples/clients/callbacks.py")).args(["--port", "0", "--certificate"]);
        command.arg(certificate).arg("--key").arg(key).env("CALLBACK_SECRET", SECRET);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("python3 runs; deploy/setup-debian.sh installs it");
        let stderr = process.stderr.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line).expect("it says where it listens");
        let port = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        Self { process, port, certificates: made.cert.pem() }
    }

    async fn tell(&self, secrets: &[&str], event: &JobEvent) -> Result<(), PortError> {
        let config = HttpConfig {
            allowed_networks: vec!["127.0.0.1".parse().expect("an address")],
            certificates: self.certificates.clone(),
            ..HttpConfig::default()
        };
        let secrets = secrets.iter().map(|secret| secret.parse().expect("a secret")).collect();
        let sender = HttpCallbackSender::new(config, secrets).expect("the certificate is good");
        sender.send(&format!("https://localhost:{}/done", self.port), event).await
    }

    /// Ends it; returns what it printed.
    fn end(mut self) -> String {
        self.process.kill().expect("it runs");
        let mut told = String::new();
        let stdout = self.process.stdout.take().expect("it is piped");
        BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| told.push_str(&(line + "\n")));
        told
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test]
async fn the_example_server_believes_signed_calls_only_and_counts_each_event_once() {
    let folder = Folder::new();
    let example = Example::start(&folder);
    let event = |id: &str| {
        JobEvent::of_result(&JobResult::completed(&job(id), Vec::new(), "1.2.3", Timestamp::UNIX_EPOCH))
    };
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    for secrets in [&[][..], &[other]] {
        let refused = example.tell(secrets, &event("forged")).await.expect_err("it is not signed with the secret");
        assert!(refused.is_permanent() && refused.to_string().contains("401"), "{refused}");
    }
    for (id, secrets) in [("one", &[SECRET][..]), ("one", &[SECRET]), ("two", &[other, SECRET])] {
        example.tell(secrets, &event(id)).await.expect("the server hears");
    }
    let lines = ["one", "two"].map(|id| format!("{{\"job\": \"{id}\", \"status\": \"completed\"}}\n"));
    assert_eq!(example.end(), lines.concat());
}
