//! Measures what partitions of tenants cost RabbitMQ: `cargo run --release -p echogen-tests --bin bench-partitions`.
//!
//! For each number of partitions a fresh node is started, and on it an installation is declared. Reported are the number of
//! queues, the time to declare them and to find them declared, the memory that they take, the time from
//! a restart after `kill -9` until every queue can be consumed, and messages a second (published, confirmed, received and
//! acknowledged) while one partition of one lane is busy and while all are.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Message, QueueName};
use echogen_protocol::{Lane, Partitions, StageName};
use echogen_testkit::RabbitMq;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::{task::JoinSet, time::sleep};

/// The numbers of partitions that are compared.
const COUNTS: [u16; 4] = [1, 4, 8, 16];

/// Messages of one measurement.
const MESSAGES: usize = 20_000;

/// Unconfirmed messages at a time.
const IN_FLIGHT: usize = 256;

/// Prefetch of the consumers, in all.
const PREFETCH: usize = 64;

/// The node reports its memory every five seconds.
const MEMORY_SETTLES: Duration = Duration::from_secs(11);

/// Timeout for a restarted node to serve every queue.
const RECOVERY: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        println!("| partitions | queues | declare, s | find declared, s | memory, MiB | recovery, s | one busy, messages/s | all busy |");
        println!("|---|---|---|---|---|---|---|---|");
        for count in COUNTS {
            println!("{}", row(Partitions::clamped(count)).await?);
        }
        Ok(())
    })
}

/// One line of the table.
async fn row(partitions: Partitions) -> anyhow::Result<String> {
    let server = RabbitMq::start().await?;
    sleep(MEMORY_SETTLES).await;
    let empty = memory_mib(&server).await?;
    let config = AmqpConfig { partitions: partitions.count(), ..AmqpConfig::at(server.amqp_url()) };
    let broker = AmqpBroker::new(config.clone())?;
    // The first call connects and declares; the second does so on another connection.
    let began = Instant::now();
    broker.publish(&QueueName::of(StageName::Sampler, Lane::Bulk), Message::default()).await?;
    let declared = began.elapsed();
    let again = Instant::now();
    let queues = broker.topology().queues.len();
    broker.depths(&[QueueName::of(StageName::Sampler, Lane::Bulk)]).await?;
    let found = again.elapsed();
    sleep(MEMORY_SETTLES).await;
    let memory = memory_mib(&server).await? - empty;
    let all = StageName::Sampler.queues(partitions);
    let busy: Vec<QueueName> =
        all.into_iter().filter(|queue| queue.place().is_some_and(|(_, lane, _)| lane == Lane::Standard)).collect();
    let one = messages_per_second(&broker, &busy[..1]).await?;
    let every = messages_per_second(&broker, &busy).await?;
    broker.close().await;
    server.kill_9();
    let restarted = Instant::now();
    server.restart().await?;
    serves_every_queue(&config, partitions).await?;
    let recovery = restarted.elapsed();
    Ok(format!(
        "| {partitions} | {queues} | {:.2} | {:.2} | {memory:.0} | {:.1} | {one:.0} | {every:.0} |",
        declared.as_secs_f64(),
        found.as_secs_f64(),
        recovery.as_secs_f64(),
        partitions = partitions.count(),
    ))
}

/// The memory that the node's quorum queues take; the rest of the node's memory varies by more than that.
async fn memory_mib(server: &RabbitMq) -> anyhow::Result<f64> {
    let nodes: serde_json::Value = serde_json::from_str(&server.management_get("/api/nodes").await?)?;
    let name = nodes.pointer("/0/name").and_then(serde_json::Value::as_str).context("the node has a name")?;
    let path = format!("/api/nodes/{name}/memory");
    let memory: serde_json::Value = serde_json::from_str(&server.management_get(&path).await?)?;
    let parts = memory.pointer("/memory").and_then(serde_json::Value::as_object).context("it reports its memory")?;
    let of_queues = parts.iter().filter(|(part, _)| part.starts_with("quorum"));
    Ok(of_queues.filter_map(|(_, bytes)| bytes.as_f64()).sum::<f64>() / 1024.0 / 1024.0)
}

/// Moves messages through these queues, each with a consumer.
async fn messages_per_second(broker: &AmqpBroker, queues: &[QueueName]) -> anyhow::Result<f64> {
    let (mut consuming, body) = (JoinSet::new(), bytes::Bytes::from(vec![b'x'; 1_000]));
    let prefetch = u16::try_from(PREFETCH / queues.len())?.max(1);
    for (index, queue) in queues.iter().enumerate() {
        let mut consumer = broker.consume(queue, prefetch).await?;
        let mut left = (0..MESSAGES).filter(|number| number % queues.len() == index).count();
        consuming.spawn(async move {
            while left > 0 {
                let delivery = consumer.receive().await?.context("the consumer goes on")?;
                delivery.ack().await?;
                left -= 1;
            }
            anyhow::Ok(())
        });
    }
    let began = Instant::now();
    let broker = Arc::new(broker.clone());
    let publishing = stream::iter(0..MESSAGES).map(|number| {
        let (broker, queue) = (Arc::clone(&broker), queues[number % queues.len()].clone());
        let message = Message { body: body.clone(), ..Message::default() };
        async move { broker.publish(&queue, message).await }
    });
    publishing.buffer_unordered(IN_FLIGHT).try_for_each(|()| async { Ok(()) }).await?;
    while let Some(ended) = consuming.join_next().await {
        ended??;
    }
    Ok(MESSAGES as f64 / began.elapsed().as_secs_f64())
}

/// Waits until each queue of every stage can be consumed.
async fn serves_every_queue(config: &AmqpConfig, partitions: Partitions) -> anyhow::Result<()> {
    let began = Instant::now();
    let queues: Vec<QueueName> = StageName::ALL.iter().flat_map(|stage| stage.queues(partitions)).collect();
    let broker = AmqpBroker::new(config.clone())?;
    for queue in &queues {
        while let Err(fault) = broker.consume(queue, 1).await {
            if began.elapsed() > RECOVERY {
                bail!("{queue} is not served after {RECOVERY:?}: {fault}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    broker.close().await;
    Ok(())
}
