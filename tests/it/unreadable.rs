//! A message that the AMQP client library cannot decode closes the connection that receives it. It must not stop other
//! messages for long, and no message delivered along with it may be parked.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Fault, MemoryObjectStore, QueueName};
use echogen_protocol::{Job, Partitions, StageName};
use echogen_testkit::RabbitMq;
use echogen_worker::{Clock, Outcome, ResultWriter, Stage, StageContext, Worker, WorkerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::clients::python_folder;

/// Publishes valid jobs into each lane, twice, and between them one with a header whose name is not UTF-8. The library
/// of the example client sends names as raw bytes.
const FLOOD: &str = r#"
import json, sys, pika
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
channel.confirm_delivery()

def send(lane, id, headers=None):
    job = {"id": id, "subject": {"image": "data:,x"}, "prompt": "a dog"}
    properties = pika.BasicProperties(delivery_mode=2, headers=headers)
    channel.basic_publish(sys.argv[2] + ".jobs", lane, json.dumps(job).encode(), properties, mandatory=True)

for half in ("a", "b"):
    for lane in ("interactive", "standard", "bulk"):
        for number in range(int(sys.argv[3])):
            send(lane, f"{lane}-{half}-{number}")
    if half == "a":
        send("standard", "unreadable", {b"\xff\xfe": "x"})
"#;

/// Creates an isolated installation, whose broker parks a message after `delivery_limit` deliveries.
async fn config(delivery_limit: u32) -> AmqpConfig {
    let url = RabbitMq::shared().await.amqp_url();
    AmqpConfig { prefix: RabbitMq::fresh_prefix(), delivery_limit, ..AmqpConfig::at(url) }
}

fn flood(config: &AmqpConfig, jobs: usize) {
    let mut python = Command::new(python_folder().join("venv/bin/python"));
    let url = config.url.as_ref().expect("it has an address").expose();
    let sent = python.args(["-c", FLOOD, url, &config.prefix, &jobs.to_string()]).output().expect("python runs");
    assert!(sent.status.success(), "{sent:?}");
}

/// Records the jobs it received.
#[derive(Debug, Default)]
struct Seen(Mutex<BTreeSet<String>>);

#[async_trait]
impl Stage for Seen {
    type Task = Job;

    async fn run(&self, job: Job, _: &StageContext) -> Result<Outcome, Fault> {
        // As long as a dispatcher takes.
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.0.lock().expect("no panic").insert(job.id.to_string());
        Ok(Outcome::Done)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_parked_alone() {
    // Fewer deliveries than by default: the message is parked sooner, and fewer redeliveries of the messages beside it
    // are tolerated.
    let config = config(8).await;
    // One connection for the worker and one for the assertions: the first is closed by the client library now and
    // then.
    let broker = AmqpBroker::connect(config.clone()).await.expect("the broker takes connections");
    let looking = AmqpBroker::connect(config.clone()).await.expect("the broker takes connections");
    flood(&config, 10);

    let (seen, shutdown, tracker) = (Arc::new(Seen::default()), CancellationToken::new(), TaskTracker::new());
    let shared = Arc::new(broker);
    let results = ResultWriter::new(Arc::new(MemoryObjectStore::new()), shared.clone(), Clock::system(), "1.2.3");
    let worker = WorkerConfig { concurrency: 16, ..WorkerConfig::default() };
    let worker = Worker::new(seen.clone(), shared, Arc::new(results), worker);
    let running = tracker.spawn(worker.run(shutdown.clone()));

    let dead: Vec<_> = StageName::Dispatcher.dead_lettered().iter().map(QueueName::dead_letters).collect();
    let parked_alone = async {
        loop {
            let depths = looking.depths(&dead).await.expect("the broker says");
            let parked: Vec<u32> = depths.into_iter().map(|(_, depth)| depth).collect();
            let done = seen.0.lock().expect("no panic").len();
            if parked == [0, 1, 0] && done == 60 {
                return;
            }
            assert!(parked.iter().sum::<u32>() <= 1, "neighbours were parked: {parked:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let soon = tokio::time::timeout(Duration::from_secs(60), parked_alone).await;
    assert!(soon.is_ok(), "done: {:?}, parked: {:?}", seen.0.lock(), looking.depths(&dead).await);
    assert!(!seen.0.lock().expect("no panic").contains("unreadable"));
    shutdown.cancel();
    running.await.expect("no panic").expect("the worker ends in good order");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_begins_to_consume_while_the_connection_ends_is_answered() {
    let config = config(1_000).await;
    AmqpBroker::connect(config.clone()).await.expect("the broker takes connections");
    flood(&config, 0);
    // The message arrives a few hundred microseconds after the first consumer starts. The rounds start the second
    // consumer at different moments around that time.
    let [_, standard, bulk] = &StageName::Dispatcher.queues(Partitions::ONE)[..] else { panic!("three lanes") };
    for round in 0..30 {
        let broker = AmqpBroker::connect(config.clone()).await.expect("the broker takes connections");
        let first = broker.consume(standard, 1).await;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_micros(50 * round) {
            tokio::task::yield_now().await;
        }
        let second = broker.consume(bulk, 1);
        let answer = tokio::time::timeout(Duration::from_secs(10), second).await;
        assert!(answer.is_ok(), "round {round}: no answer; the first was {:?}", first.map(drop));
    }
}
