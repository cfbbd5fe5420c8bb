//! How a role is watched: its endpoint, its health, and the depths of its queues.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use echogen_adapters::amqp::AmqpBroker;
use echogen_dispatcher::Dispatcher;
use echogen_encoder::Encoder;
use echogen_notifier::Notifier;
use echogen_ports::QueueName;
use echogen_protocol::Lane;
use echogen_sampler::Sampler;
use echogen_segmenter::Segmenter;
use echogen_telemetry::{Consuming, Endpoint, LogControl, health, metrics};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, warn};

use super::{
    roles::RoleName,
    watch_arguments::{Listen, WatchOptions},
};
use crate::failure::{Exit, Failure};

/// Where the endpoint is if nobody says: 9464 is the port by which exporters of this format are known.
const DEFAULT_ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 9464);

/// Pause between two looks at the queues: below what a scraper's usual interval is.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The lane of queues that all lanes share.
const ALL_LANES: &str = "all";

/// Opens the endpoint where the options say, and serves it on `tracker` until `end`.
pub(super) async fn serve(
    options: &WatchOptions,
    log: LogControl,
    tracker: &TaskTracker,
    end: &CancellationToken,
) -> Result<(), Failure> {
    let bound = match options.listen {
        Some(Listen::Nowhere) => return Ok(()),
        Some(Listen::At(address)) => Endpoint::bind(address, log).await.map_err(|error| {
            Failure::usage(format!("cannot listen at {address}: {error}; give another --listen, or \"\" for none"))
        })?,
        None => match Endpoint::bind(SocketAddr::from(DEFAULT_ADDRESS), log).await {
            Ok(endpoint) => endpoint,
            Err(error) => {
                // Several roles on one machine are no mistake, and nobody asked for this port.
                let port = DEFAULT_ADDRESS.1;
                warn!(port, %error, "no health and metrics endpoint; give --listen to have one elsewhere");
                return Ok(());
            }
        },
    };
    tracker.spawn(bound.serve(end.clone()));
    Ok(())
}

/// The queues of a stage, with the lanes they are for.
fn queues_of(stage: &str) -> Vec<(&'static str, QueueName)> {
    match stage {
        Dispatcher::NAME => [Lane::Interactive, Lane::Standard, Lane::Bulk]
            .map(|lane| (lane.as_str(), QueueName::dispatch(lane)))
            .into(),
        Segmenter::NAME => vec![(ALL_LANES, QueueName::segment())],
        Encoder::NAME => vec![(ALL_LANES, QueueName::encode())],
        Sampler::NAME => vec![(ALL_LANES, QueueName::sample())],
        Notifier::NAME => vec![(ALL_LANES, QueueName::notify())],
        _ => Vec::new(),
    }
}

/// The queues of all stages of some roles: the stage, its lane, and the queue.
pub(super) fn queues_of_roles(roles: &[RoleName]) -> Vec<(&'static str, &'static str, QueueName)> {
    let stages = roles.iter().flat_map(|role| role.stages());
    stages.flat_map(|stage| queues_of(stage).into_iter().map(move |(lane, queue)| (*stage, lane, queue))).collect()
}

/// Says that a stage has all it needs; from here on it is alive and ready as long as it consumes.
pub(super) fn loaded(stage: &'static str, broker: Option<&Arc<AmqpBroker>>) {
    let began = Instant::now();
    let Some(broker) = broker.map(Arc::clone) else {
        // The broker of this process is there as long as the process is.
        return health().loaded(stage, move || Consuming { now: true, since: began.elapsed() });
    };
    let queues: Vec<QueueName> = queues_of(stage).into_iter().map(|(_, queue)| queue).collect();
    health().loaded(stage, move || consuming(&broker, &queues, began));
}

/// Whether every queue of a stage is consumed, and since when this is so. A queue that nobody has begun to consume counts
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

/// Looks at the queues from time to time and tells the metrics. The dispatcher looks at all queues: of a role that is
/// scaled to nothing, nobody else would tell that work waits for it.
pub(super) async fn look_at_queues(role: RoleName, broker: Arc<AmqpBroker>, end: CancellationToken) {
    let watched =
        queues_of_roles(if role == RoleName::Dispatcher { &RoleName::ALL } else { std::slice::from_ref(&role) });
    let both = watched.iter().flat_map(|(_, _, queue)| [queue.clone(), queue.dead_letters()]);
    let both: Vec<QueueName> = both.collect();
    while !end.is_cancelled() {
        match broker.depths(&both).await {
            Ok(depths) => {
                let depth = |queue: &QueueName| depths.iter().find(|(name, _)| name == queue).map(|(_, depth)| *depth);
                for (stage, lane, queue) in &watched {
                    let dead_letters = depth(&queue.dead_letters()).unwrap_or(0);
                    metrics().queue_seen(stage, lane, depth(queue).unwrap_or(0), dead_letters);
                }
            }
            Err(error) => debug!(%error, "the queues were not seen"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = end.cancelled() => {}
        }
    }
}

/// Waits for a fault of the compute device, and then for nothing more: the process is to end.
pub(super) async fn end_on_fault(shutdown: CancellationToken) {
    let fault = health().faulted().await;
    error!(fault, "the compute device is broken, ending");
    shutdown.cancel();
}

/// How a process ends whose roles have ended in good order.
pub(super) fn exit() -> Exit {
    if health().fault().is_some() { Exit::DeviceFault } else { Exit::Success }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_device_fault_ends_the_roles_with_an_exit_code_of_its_own() {
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        loaded(Sampler::NAME, None);
        assert_eq!((health().ready(), exit()), (Ok(()), Exit::Success));
        tracker.spawn(end_on_fault(shutdown.clone()));
        health().device_fault("an illegal memory access was encountered");
        shutdown.cancelled().await;
        assert_eq!(exit(), Exit::DeviceFault);
        assert!(health().ready().is_err());
    }

    #[test]
    fn every_stage_of_every_role_has_queues_that_are_watched() {
        let count = |role: RoleName| role.stages().iter().map(|stage| queues_of(stage).len()).collect::<Vec<_>>();
        assert_eq!(RoleName::ALL.map(count), [vec![3, 1], vec![1], vec![1], vec![1]]);
        assert_eq!(queues_of(Sampler::NAME), [(ALL_LANES, QueueName::sample())]);
    }
}
