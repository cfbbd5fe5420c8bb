//! Scenarios in which queues and servers of clients are full, stuck or gone: no job waits for them, and every other client
//! hears of every job.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use echogen_ports::{Broker, Message};
use echogen_protocol::{Job, ReplyTo, StageTask, TaskHeaders};
use echogen_tests::{
    callback_server::CallbackServer,
    producer,
    role::{CALLBACK_SECRET, RoleEnvironment},
    system::{Servers, System},
};
use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::task::TaskTracker;

use crate::{
    scenarios::heard_jobs,
    trial::{Tally, Trial, jobs},
};

/// Timeout for the good callbacks, while others hang.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(60);

/// What is wrong with a client's queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It rejects every message.
    Full,
    /// It is a quorum queue without a leader: it neither confirms nor rejects.
    Leaderless,
}

/// A client's connection; its queues are durable.
struct Client<'a> {
    servers: &'a Servers,
    /// Keeps the channel open.
    _connection: Connection,
    channel: Channel,
}

impl<'a> Client<'a> {
    async fn connect(servers: &'a Servers) -> anyhow::Result<Self> {
        let url = servers.rabbitmq.amqp_url();
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self { servers, _connection: connection, channel })
    }

    /// Declares a queue, which is bound to the events if `exchange` is given.
    async fn declare(&self, name: &str, trouble: Trouble, exchange: Option<&str>) -> anyhow::Result<()> {
        let mut arguments = FieldTable::default();
        match trouble {
            Trouble::Full => {
                arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
                arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
            }
            Trouble::Leaderless => {
                arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            }
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await?;
        if let Some(exchange) = exchange {
            let options = QueueBindOptions::default();
            self.channel.queue_bind(name.into(), exchange.into(), "#".into(), options, FieldTable::default()).await?;
        }
        Ok(())
    }

    /// Takes the leader of a quorum queue away.
    async fn stop_leader(&self, name: &str) -> anyhow::Result<()> {
        let server = format!("{{list_to_atom(\"%2F_{name}\"), node()}}");
        self.servers.rabbitmq.eval(&format!("ra:stop_server(quorum_queues, {server}).")).await?;
        Ok(())
    }
}

/// A listener's queue goes bad while jobs run.
pub(crate) async fn listener(servers: &Servers, trouble: Trouble) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let breaking = async |_: &System| {
        let client = Client::connect(servers).await?;
        sleep(Duration::from_millis(500)).await;
        let (name, exchange) = (format!("{}-listener", environment.prefix), format!("{}.events", environment.prefix));
        client.declare(&name, trouble, Some(&exchange)).await?;
        if trouble == Trouble::Leaderless {
            client.stop_leader(&name).await?;
        }
        Ok(())
    };
    let mut tally = trial.run(jobs(400), Duration::from_secs(6), breaking).await?;
    if tally.seconds > 60.0 {
        tally.faults.push(format!("jobs waited for a listener: {} s", tally.seconds));
    }
    Ok(tally)
}

/// Every third job is to be answered in a queue that is full, one that has no leader, or one that does not exist.
pub(crate) async fn reply_queues(servers: &Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let answered: Vec<Job> = (0..150).map(|index| producer::job(&format!("asks-{index}"), index, "a dog")).collect();
    let breaking = async |system: &System| {
        let client = Client::connect(servers).await?;
        let queues = ["full", "leaderless", "gone"].map(|name| format!("{}-{name}", environment.prefix));
        client.declare(&queues[0], Trouble::Full, None).await?;
        client.declare(&queues[1], Trouble::Leaderless, None).await?;
        client.stop_leader(&queues[1]).await?;
        for (job, queue) in answered.iter().zip(queues.iter().cycle()) {
            let reply_to = Some(ReplyTo { queue: queue.clone(), correlation_id: None });
            let headers = TaskHeaders { reply_to, ..TaskHeaders::default() };
            system.broker.publish(&job.queue(), Message::of_task(job, &headers)).await?;
        }
        let all = |system: &System| answered.iter().all(|job| system.ledger.has_ended(job.id.as_str()));
        system.until(Duration::from_secs(60), all).await
    };
    trial.run(jobs(300), Duration::from_secs(4), breaking).await
}

/// Half of the jobs call a server that takes connections and never answers; the other half are called back in time.
pub(crate) async fn hanging_callbacks(servers: &Servers) -> anyhow::Result<Tally> {
    let server = CallbackServer::start(CALLBACK_SECRET)?;
    let hanging = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("https://127.0.0.1:{}/done", hanging.local_addr()?.port());
    let held = TaskTracker::new().spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = hanging.accept().await {
            held.push(connection);
        }
    });
    let environment = RoleEnvironment { certificates: server.certificate().to_owned(), ..servers.environment() };
    let called = |index: usize| if index.is_multiple_of(2) { server.url() } else { address.clone() };
    let jobs: Vec<Job> =
        jobs(300).into_iter().enumerate().map(|(index, job)| Job { callback: Some(called(index)), ..job }).collect();
    let good = jobs.iter().filter(|job| job.callback == Some(server.url()));
    let good: BTreeSet<String> = good.map(|job| job.id.to_string()).collect();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let mut unheard = BTreeSet::new();
    let waiting = async |_: &System| {
        let began = Instant::now();
        loop {
            unheard = good.difference(&heard_jobs(&server)).cloned().collect();
            if unheard.is_empty() || began.elapsed() > CALLBACK_TIMEOUT {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let mut tally = trial.run(jobs, Duration::from_secs(4), waiting).await?;
    held.abort();
    tally.lost = tally.lost.max(unheard.len());
    tally.faults.extend(unheard.iter().take(5).map(|id| format!("never called back: {id}")));
    Ok(tally)
}
