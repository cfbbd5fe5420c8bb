//! The scenarios: which fault each injects, and how.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use echogen_ports::{Broker, Message, QueueName};
use echogen_protocol::{EventKind, Job, Lane, RoleName, StageName};
use echogen_testkit::{CutProxy, RabbitMqCluster};
use echogen_tests::{
    callback_server::CallbackServer,
    constant::POISON,
    process::{RoleProcess, status_kib},
    producer,
    role::CALLBACK_SECRET,
    system::{Servers, System},
    troubled_client::Trouble,
};
use tokio::time::{sleep, timeout};

use crate::{
    clients_queues::{hanging_callbacks, listener, reply_queues},
    gateway_killed::gateway_killed,
    noisy_neighbour::noisy_neighbour,
    trial::{Tally, Trial, jobs},
};

type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Tally>> + 'a>>;

/// A scenario on shared servers.
type Scenario = for<'a> fn(&'a mut Servers) -> Running<'a>;

/// All scenarios, by name.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("no-fault", |servers| Box::pin(no_fault(servers))),
    ("one-new-subject", |servers| Box::pin(one_new_subject(servers))),
    ("kill-dispatcher", |servers| Box::pin(kill(servers, RoleName::Dispatcher))),
    ("kill-segmenter", |servers| Box::pin(kill(servers, RoleName::Segmenter))),
    ("kill-encoder", |servers| Box::pin(kill(servers, RoleName::Encoder))),
    ("kill-sampler", |servers| Box::pin(kill(servers, RoleName::Sampler))),
    ("terminate-every-role", |servers| Box::pin(terminate(servers))),
    ("rabbitmq-restarted", |servers| Box::pin(rabbitmq_restarted(servers))),
    ("cluster-node-killed", |servers| Box::pin(cluster_node_killed(servers))),
    ("redis-flushed-and-restarted", |servers| Box::pin(redis_flushed_and_restarted(servers))),
    ("redis-away-20-s", |servers| Box::pin(redis_away(servers))),
    ("s3-every-third-call-fails", |servers| Box::pin(s3_fails(servers))),
    ("s3-away-20-s", |servers| Box::pin(s3_away(servers))),
    ("network-cut", |servers| Box::pin(network_cut(servers))),
    ("poison", |servers| Box::pin(poison(servers))),
    ("callbacks", |servers| Box::pin(callbacks(servers))),
    ("listener-queue-full", |servers| Box::pin(listener(servers, Trouble::Full))),
    ("listener-queue-without-leader", |servers| Box::pin(listener(servers, Trouble::Leaderless))),
    ("reply-queues-full-stuck-and-gone", |servers| Box::pin(reply_queues(servers))),
    ("callback-server-hangs", |servers| Box::pin(hanging_callbacks(servers))),
    ("noisy-neighbour", |servers| Box::pin(noisy_neighbour(servers))),
    ("gateway-killed", |servers| Box::pin(gateway_killed(servers))),
    ("malformed-100000", |servers| Box::pin(malformed(servers))),
];

/// How long an outage lasts.
const OUTAGE: Duration = Duration::from_secs(20);

/// Timeout for the last callbacks, which may be waiting for a retry.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of malformed messages in the `malformed` scenario.
const MALFORMED: usize = 100_000;

async fn no_fault(servers: &Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    Trial::start(&environment, &environment.amqp_url)
        .await?
        .run(jobs(300), Duration::ZERO, async |_: &System| Ok(()))
        .await
}

/// Many concurrent jobs for one new subject, on two segmenters and two encoders: the subject is cut out once and
/// encoded once.
async fn one_new_subject(servers: &Servers) -> anyhow::Result<Tally> {
    let mut environment = servers.environment();
    environment.delay_ms = 50;
    let mut trial = Trial::start(&environment, &environment.amqp_url).await?;
    for role in [RoleName::Segmenter, RoleName::Encoder] {
        trial.system.roles.push(RoleProcess::start(role, &environment)?);
    }
    let jobs: Vec<Job> =
        (0..200).map(|index| producer::job(&format!("prompt-{index}"), 1, &format!("a dog, {index}"))).collect();
    let ids: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    let mut tally = trial.run(jobs, Duration::ZERO, async |_: &System| Ok(())).await?;
    let mut made = BTreeMap::<String, usize>::new();
    for id in &ids {
        for (stage, cached) in environment.result(id).await?.cached {
            *made.entry(stage).or_default() += usize::from(!cached);
        }
    }
    for stage in ["segmenter", "encoder"] {
        let times = made.get(stage).copied().unwrap_or(0);
        if times != 1 {
            tally.faults.push(format!("the {stage} worked {times} times for one subject"));
        }
    }
    Ok(tally)
}

/// Irregular pauses in milliseconds, from a fixed sequence, so that a run can be repeated.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> {
    let mut state = 12_345_u64;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(Duration::from_millis(200 + (state >> 33) % 900))
    })
}

async fn kill(servers: &Servers, role: RoleName) -> anyhow::Result<Tally> {
    let mut environment = servers.environment();
    environment.delay_ms = 5;
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let killing = async |system: &System| {
        let victim = system.roles.iter().find(|process| process.name() == role).context("the role exists")?;
        for pause in pauses().take(6) {
            sleep(pause).await;
            victim.kill_9();
        }
        Ok(())
    };
    trial.run(jobs(400), Duration::from_secs(4), killing).await
}

async fn terminate(servers: &Servers) -> anyhow::Result<Tally> {
    let mut environment = servers.environment();
    environment.delay_ms = 20;
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let stopping = async |system: &System| {
        for pause in pauses().take(2) {
            for role in &system.roles {
                sleep(pause / 2).await;
                role.terminate();
            }
        }
        Ok(())
    };
    trial.run(jobs(400), Duration::from_secs(4), stopping).await
}

async fn rabbitmq_restarted(servers: &Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let restarting = async |_: &System| {
        sleep(Duration::from_secs(1)).await;
        servers.rabbitmq.kill_9();
        sleep(Duration::from_secs(1)).await;
        Ok(servers.rabbitmq.restart().await?)
    };
    trial.run(jobs(400), Duration::from_secs(4), restarting).await
}

async fn cluster_node_killed(servers: &Servers) -> anyhow::Result<Tally> {
    let cluster = RabbitMqCluster::start().await?;
    let mut environment = servers.environment();
    // The roles are connected to the node that is killed. The proxy then routes them to a live node, as a load
    // balancer would.
    let nodes = (0..3).map(|node| format!("127.0.0.1:{}", cluster.amqp_port(node))).collect();
    let proxy = CutProxy::among(nodes).await?;
    environment.amqp_url = servers.rabbitmq.amqp_url_at(proxy.port());
    let survivor = cluster.amqp_urls().pop().context("a cluster has nodes")?;
    let trial = Trial::start(&environment, &survivor).await?;
    let killing = async |_: &System| {
        sleep(Duration::from_secs(1)).await;
        cluster.kill_9(0);
        Ok(())
    };
    trial.run(jobs(300), Duration::from_secs(3), killing).await
}

async fn redis_flushed_and_restarted(servers: &mut Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let redis = &mut servers.redis;
    let breaking = async |_: &System| {
        sleep(Duration::from_millis(700)).await;
        redis.flush()?;
        sleep(Duration::from_millis(700)).await;
        redis.kill_9();
        sleep(Duration::from_millis(700)).await;
        Ok(redis.restart()?)
    };
    trial.run(jobs(400), Duration::from_secs(3), breaking).await
}

async fn redis_away(servers: &mut Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let redis = &mut servers.redis;
    let breaking = async |_: &System| {
        sleep(Duration::from_millis(500)).await;
        redis.kill_9();
        sleep(OUTAGE).await;
        Ok(redis.restart()?)
    };
    trial.run(jobs(400), Duration::from_secs(4), breaking).await
}

async fn s3_fails(servers: &Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    servers.s3.fail_every(3);
    let healing = async |_: &System| {
        sleep(Duration::from_secs(8)).await;
        servers.s3.fail_every(0);
        Ok(())
    };
    trial.run(jobs(300), Duration::from_secs(4), healing).await
}

async fn s3_away(servers: &mut Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let s3 = &mut servers.s3;
    let breaking = async |_: &System| {
        sleep(Duration::from_millis(500)).await;
        s3.go_away();
        sleep(OUTAGE).await;
        Ok(s3.come_back()?)
    };
    trial.run(jobs(300), Duration::from_secs(3), breaking).await
}

async fn network_cut(servers: &Servers) -> anyhow::Result<Tally> {
    let proxy = CutProxy::start(format!("127.0.0.1:{}", servers.rabbitmq.amqp_port())).await?;
    let mut environment = servers.environment();
    environment.amqp_url = servers.rabbitmq.amqp_url_at(proxy.port());
    let trial = Trial::start(&environment, &servers.rabbitmq.amqp_url()).await?;
    let cutting = async |_: &System| {
        for pause in pauses().take(4) {
            sleep(pause).await;
            proxy.cut();
            sleep(pause).await;
            proxy.restore();
        }
        sleep(Duration::from_millis(300)).await;
        proxy.stall();
        sleep(Duration::from_secs(2)).await;
        proxy.restore();
        Ok(())
    };
    trial.run(jobs(400), Duration::from_secs(6), cutting).await
}

/// A job that kills its sampler in every attempt is parked as a dead letter, and no other job is parked with it.
async fn poison(servers: &Servers) -> anyhow::Result<Tally> {
    let mut environment = servers.environment();
    environment.delay_ms = 20;
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let poisoning = async |system: &System| {
        sleep(Duration::from_millis(500)).await;
        let job = producer::job("poisoned", 1, POISON);
        producer::send(&system.broker, &job).await?;
        system.until(Duration::from_secs(90), |system| system.ledger.is_parked("poisoned")).await
    };
    let tally = trial.run(jobs(200), Duration::from_secs(2), poisoning).await?;
    ensure!(tally.events == 200, "{} good jobs completed beside the poisoned one", tally.events);
    Ok(tally)
}

/// The dispatcher's process, which sends the callbacks, is killed, and so is the client's server: the server still
/// receives every end.
async fn callbacks(servers: &Servers) -> anyhow::Result<Tally> {
    let mut server = CallbackServer::start(CALLBACK_SECRET)?;
    let mut environment = servers.environment();
    environment.certificates = server.certificate().to_owned();
    let jobs: Vec<Job> = jobs(300).into_iter().map(|job| Job { callback: Some(server.url()), ..job }).collect();
    let ids: BTreeSet<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let (mut unheard, mut reasons) = (BTreeSet::new(), Vec::new());
    let killing = async |system: &System| {
        let dispatcher = system.roles.first().context("there is a dispatcher")?;
        for pause in pauses().take(4) {
            sleep(pause).await;
            dispatcher.kill_9();
            server.kill();
            sleep(pause).await;
            server.run()?;
        }
        let began = Instant::now();
        loop {
            unheard = ids.difference(&heard_jobs(&server)).cloned().collect();
            if unheard.is_empty() {
                return Ok(());
            }
            if began.elapsed() > CALLBACK_TIMEOUT {
                reasons = dead_letters(system, &QueueName::of(StageName::Notifier, Lane::Standard)).await?;
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let mut tally = trial.run(jobs, Duration::from_secs(4), killing).await?;
    tally.lost = tally.lost.max(unheard.len());
    tally.faults.extend(unheard.iter().take(5).map(|id| format!("never called back: {id}")));
    tally.faults.extend(reasons);
    Ok(tally)
}

/// Describes the dead letters of a queue for the report.
async fn dead_letters(system: &System, queue: &QueueName) -> anyhow::Result<Vec<String>> {
    let mut consumer = system.broker.consume(&queue.dead_letters(), 10).await?;
    let mut stories = Vec::new();
    while let Ok(delivery) = timeout(Duration::from_secs(1), consumer.receive()).await {
        let delivery = delivery?.context("the broker goes on")?;
        stories.push(format!("parked: {:?}", delivery.message.headers));
        delivery.ack().await?;
    }
    Ok(stories)
}

/// The jobs whose ends the callback server has received.
pub(crate) fn heard_jobs(server: &CallbackServer) -> BTreeSet<String> {
    server.heard().iter().filter_map(|line| job_of(line)).collect()
}

/// Returns the job that a line of the callback server's output is about.
fn job_of(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(line.get("job")?.as_str()?.to_owned())
}

/// Malformed messages of every kind among valid jobs: each ends as a failed job or a dead letter, and memory does not
/// grow.
async fn malformed(servers: &Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let flooding = async |system: &System| {
        let queue = QueueName::of(StageName::Dispatcher, Lane::Standard);
        let dispatcher = system.roles.first().context("there is a dispatcher")?;
        let before = dispatcher.peak_mib();
        for chunk in (0..MALFORMED).collect::<Vec<_>>().chunks(512) {
            let sent = chunk.iter().map(|index| system.broker.publish(&queue, garbage(*index)));
            futures::future::try_join_all(sent).await?;
        }
        let refused = |system: &System| {
            let parked = usize::try_from(system.ledger.told()).unwrap_or(0);
            parked >= MALFORMED / 5 && system.ledger.of_kind(EventKind::Failed) as usize >= MALFORMED / 5
        };
        system.until(Duration::from_secs(200), refused).await?;
        let grown = dispatcher.peak_mib() - before;
        ensure!(grown < 256.0, "the dispatcher grew by {grown:.0} MiB");
        Ok(())
    };
    let tally = trial.run(jobs(300), Duration::from_secs(10), flooding).await?;
    let own = i32::try_from(std::process::id())?;
    tracing::debug!(peak_kib = status_kib(own, "VmHWM:"), "memory of this process");
    Ok(tally)
}

/// Returns malformed message number `index`: random bytes, truncated JSON, wrong types, oversized fields, or a job in
/// which only the id is valid (that job fails under its own id).
fn garbage(index: usize) -> Message {
    let noise = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let body = match index % 5 {
        0 => noise.repeat(8),
        1 => format!(r#"{{"id":"cut-{index}","prompt":"a dog"#).into_bytes(),
        2 => format!(r#"{{"id":{index},"subject":[],"prompt":7}}"#).into_bytes(),
        3 if index % 1_000 == 3 => format!(r#"{{"prompt":"{}"}}"#, "x".repeat(200_000)).into_bytes(),
        3 => format!(r#"{{"prompt":"{}"}}"#, "x".repeat(3_000)).into_bytes(),
        _ => format!(r#"{{"id":"bad-{index}","subject":{{"image":"data:,x"}},"promt":"a dog"}}"#).into_bytes(),
    };
    Message { body: body.into(), ..Message::default() }
}
