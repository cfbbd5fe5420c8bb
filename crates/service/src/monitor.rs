//! How a process is watched: its endpoint, its health, and the depths of its queues.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use echogen_adapters::amqp::AmqpBroker;
use echogen_protocol::{QueueName, RoleName, StageName};
use echogen_telemetry::{Consuming, Endpoint, LogControl, health, metrics};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};

use crate::{
    Failure,
    config::{Listen, ServiceConfig},
    roles::{queues_of_roles, worker_config},
};

/// Where the endpoint is by default: 9464 is the port by which exporters of this format are known.
const DEFAULT_ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 9464);

/// Pause between two checks of the queues: below what a scraper's usual interval is.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Opens the endpoint, with the stages of these roles shown as loading. It is served until the process ends, so that it
/// can be seen how the roles end.
pub(crate) async fn begin(
    roles: &[RoleName],
    config: &ServiceConfig,
    log: LogControl,
    tracker: &TaskTracker,
) -> Result<(), Failure> {
    for role in roles {
        for stage in role.stages() {
            health().starting(stage.as_str());
            metrics().expect_stage(*stage, worker_config(*role, config).concurrency);
        }
    }
    serve(config, log, tracker).await
}

/// Opens the endpoint where the settings say, and serves it on `tracker` until the process ends.
pub(crate) async fn serve(config: &ServiceConfig, log: LogControl, tracker: &TaskTracker) -> Result<(), Failure> {
    let bound = match config.telemetry.listen {
        Some(Listen::Nowhere) => return Ok(()),
        Some(Listen::At(address)) => Endpoint::bind(address, log).await.map_err(|error| {
            Failure::usage(format!(
                "cannot listen at {address}: {error}; set telemetry.listen to another one, or to none"
            ))
        })?,
        None => match Endpoint::bind(SocketAddr::from(DEFAULT_ADDRESS), log).await {
            Ok(endpoint) => endpoint,
            Err(error) => {
                // Several roles on one machine are no mistake, and this port was not asked for.
                let port = DEFAULT_ADDRESS.1;
                warn!(port, %error, "no health and metrics endpoint; set telemetry.listen to have one elsewhere");
                return Ok(());
            }
        },
    };
    tracker.spawn(bound.serve(CancellationToken::new()));
    Ok(())
}

/// Reports that a stage has all it needs; from here on it is alive and ready as long as it consumes.
pub(crate) fn loaded(stage: StageName, broker: Option<&Arc<AmqpBroker>>) {
    let began = Instant::now();
    let Some(broker) = broker.map(Arc::clone) else {
        // The broker of this process is there as long as the process is.
        return health().loaded(stage.as_str(), move || Consuming { now: true, since: began.elapsed() });
    };
    let queues = stage.queues();
    health().loaded(stage.as_str(), move || consuming(&broker, &queues, began));
}

/// Whether every queue of a stage is consumed, and since when this is so. A queue whose consumption has not begun counts
/// from the stage's beginning.
fn consuming(broker: &AmqpBroker, queues: &[QueueName], began: Instant) -> Consuming {
    let seen = broker.consuming();
    let mut state = Consuming { now: true, since: began.elapsed() };
    for queue in queues {
        let found = seen.iter().find(|seen| seen.queue == *queue);
        let (now, since) = found.map_or((false, began), |seen| (seen.consuming, seen.since));
        let since = since.elapsed();
        state = match (state.now, now) {
            (true, true) => Consuming { now: true, since: state.since.min(since) },
            (true, false) => Consuming { now: false, since },
            (false, true) => state,
            (false, false) => Consuming { now: false, since: state.since.max(since) },
        };
    }
    state
}

/// Asks for the depths of the queues from time to time and puts them into the metrics. A process with the dispatcher asks
/// for all queues: of a role that is scaled to nothing, no other process would report that work waits for it.
pub(crate) async fn watch_queues(roles: Vec<RoleName>, broker: Arc<AmqpBroker>, end: CancellationToken) {
    let all = roles.contains(&RoleName::Dispatcher);
    let watched = queues_of_roles(if all { &RoleName::ALL } else { &roles });
    let both = watched.iter().flat_map(|(_, _, queue)| [queue.clone(), queue.dead_letters()]);
    let both: Vec<QueueName> = both.collect();
    while !end.is_cancelled() {
        match broker.depths(&both).await {
            Ok(depths) => {
                let depth = |queue: &QueueName| depths.iter().find(|(name, _)| name == queue).map(|(_, depth)| *depth);
                for (stage, lane, queue) in &watched {
                    let dead_letters = depth(&queue.dead_letters()).unwrap_or(0);
                    metrics().queue_seen(*stage, *lane, depth(queue).unwrap_or(0), dead_letters);
                }
            }
            Err(error) => debug!(%error, "the depths of the queues are not known"),
        }
        tokio::select! {
            // The next check is due.
            () = tokio::time::sleep(CHECK_EVERY) => {}
            // The loop ends with its condition.
            () = end.cancelled() => {}
        }
    }
}

/// Waits for a fault of the compute device, and then for nothing more: the process is to end.
pub(crate) async fn end_on_fault(shutdown: CancellationToken) {
    let fault = health().faulted().await;
    error!(fault, "the compute device is broken, ending");
    shutdown.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;

    #[tokio::test]
    async fn a_device_fault_ends_the_roles_with_an_exit_code_of_its_own() {
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        loaded(StageName::Sampler, None);
        assert_eq!((health().ready(), Exit::of_process()), (Ok(()), Exit::Success));
        tracker.spawn(end_on_fault(shutdown.clone()));
        health().device_fault("an illegal memory access was encountered");
        shutdown.cancelled().await;
        assert_eq!(Exit::of_process(), Exit::DeviceFault);
        assert!(health().ready().is_err());
    }
}
