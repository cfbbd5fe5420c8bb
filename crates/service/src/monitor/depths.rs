//! The watch over the depths of the queues: metrics by stage and lane, and a warning about queues that nobody consumes.
//!
//! Partitions have no label of their own: their number is a setting, and a label's values are a closed list. A lane's depth is
//! the sum of its partitions'.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use echogen_adapters::amqp::AmqpBroker;
use echogen_ports::Fault;
use echogen_protocol::{Lane, Partitions, QueueName, RoleName, StageName};
use echogen_telemetry::metrics;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Pause between two reads of the queue depths: shorter than a scraper's usual interval.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// The depth of each queue that exists.
type Depths = BTreeMap<QueueName, u32>;

/// Reads the depths of the queues at intervals and sets the metrics. A process with the dispatcher reads all queues,
/// because a role that is scaled to zero cannot report that tasks wait for it.
pub(crate) async fn watch_queues(
    roles: Vec<RoleName>,
    partitions: Partitions,
    broker: Arc<AmqpBroker>,
    end: CancellationToken,
) {
    let all = roles.contains(&RoleName::Dispatcher);
    let roles = if all { &RoleName::WORKERS[..] } else { &roles };
    let stages: Vec<StageName> = roles.iter().flat_map(|role| role.stages()).copied().collect();
    while !end.is_cancelled() {
        match read(&stages, partitions, &broker).await {
            Ok(depths) => stages.iter().for_each(|stage| report(*stage, partitions, &depths)),
            Err(error) => debug!(%error, "the depths of the queues are not known"),
        }
        tokio::select! {
            // The next check is due.
            () = tokio::time::sleep(CHECK_EVERY) => {}
            // The process ends; the loop's condition ends the loop.
            () = end.cancelled() => {}
        }
    }
}

async fn read(stages: &[StageName], partitions: Partitions, broker: &AmqpBroker) -> Result<Depths, Fault> {
    let own = stages.iter().flat_map(|stage| {
        let dead = stage.dead_lettered().into_iter().map(|queue| queue.dead_letters());
        stage.queues(partitions).into_iter().chain(stage.unsplit()).chain(dead)
    });
    let mut depths: Depths = broker.depths(&own.collect::<Vec<_>>()).await?.into_iter().collect();
    for stage in stages {
        for lane in stage.lanes() {
            // Partitions were declared in order, so the first that is missing is the end.
            for partition in partitions.beyond() {
                let queue = QueueName::in_partition(*stage, *lane, partition);
                let Some((queue, depth)) = broker.depths(&[queue]).await?.pop() else { break };
                depths.insert(queue, depth);
            }
        }
    }
    Ok(depths)
}

/// Sets a stage's metrics. What lies in partitions that are not consumed any more waits too, and is named.
fn report(stage: StageName, partitions: Partitions, depths: &Depths) {
    let sum = |is_counted: &dyn Fn(&QueueName) -> bool| -> u32 {
        depths.iter().filter(|(queue, _)| is_counted(queue)).fold(0, |sum, (_, depth)| sum.saturating_add(*depth))
    };
    let whole = |queue: &QueueName| Some(queue) == stage.unsplit().as_ref();
    for lane in stage.lanes() {
        let is_lanes = |queue: &QueueName| queue.place().is_some_and(|(of, its, _)| (of, its) == (stage, *lane));
        metrics().queue_seen(stage, Some(*lane), sum(&is_lanes));
    }
    match stage.lanes() {
        [] => metrics().queue_seen(stage, None, sum(&|queue| *queue == QueueName::of(stage, Lane::default()))),
        _ if stage.unsplit().is_some() => metrics().queue_seen(stage, None, sum(&whole)),
        _ => {}
    }
    for parked in stage.dead_lettered() {
        let (lane, dead) = (parked.place().map(|(_, lane, _)| lane), parked.dead_letters());
        metrics().dead_letters_seen(stage, lane, sum(&|queue| *queue == dead));
    }
    for (queue, messages) in unconsumed(stage, partitions, depths) {
        let enough = queue.place().map_or(0, |(_, _, partition)| partition.number() + 1);
        warn!(%queue, messages, "no role consumes this queue; set broker.partitions to {enough} or more until it is empty");
    }
}

/// The queues of a stage that hold messages and belong to no partition of this installation.
fn unconsumed(stage: StageName, partitions: Partitions, depths: &Depths) -> impl Iterator<Item = (&QueueName, u32)> {
    let is_beyond = move |queue: &QueueName| {
        queue.place().is_some_and(|(of, _, partition)| of == stage && partition.number() >= partitions.count())
    };
    depths.iter().filter(move |(queue, depth)| **depth > 0 && is_beyond(queue)).map(|(queue, depth)| (queue, *depth))
}

#[cfg(test)]
mod tests {
    use echogen_adapters::amqp::AmqpConfig;
    use echogen_ports::{Broker, Message};
    use echogen_testkit::RabbitMq;

    use super::*;

    #[tokio::test]
    async fn what_lies_in_partitions_that_are_not_consumed_any_more_is_named_and_counted() {
        let url = RabbitMq::shared().await.amqp_url();
        let config = AmqpConfig { prefix: RabbitMq::fresh_prefix(), partitions: 3, ..AmqpConfig::at(url) };
        let before = AmqpBroker::connect(config.clone()).await.unwrap();
        let stage = StageName::Sampler;
        let queues = stage.queues(Partitions::clamped(3));
        let (kept, stranded) = (&queues[0], &queues[2]);
        before.publish(kept, Message::default()).await.unwrap();
        before.publish(stranded, Message::default()).await.unwrap();
        before.close().await;

        let broker = AmqpBroker::connect(AmqpConfig { partitions: 1, ..config }).await.unwrap();
        let mut depths = Depths::new();
        for _ in 0..600 {
            depths = read(&[stage], Partitions::ONE, &broker).await.unwrap();
            if depths.values().sum::<u32>() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let found: Vec<_> = unconsumed(stage, Partitions::ONE, &depths).collect();
        assert_eq!(found, [(stranded, 1)]);
        report(stage, Partitions::ONE, &depths);
        let line = "echogen_queue_messages{lane=\"interactive\",stage=\"sampler\"} 2";
        let page = metrics().render(echogen_telemetry::health());
        assert!(page.contains(line), "{page}");
        broker.close().await;
    }
}
