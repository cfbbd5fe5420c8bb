//! Monitoring of a process: its endpoint, its health, and the depths of its queues.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use echogen_adapters::amqp::AmqpBroker;
use echogen_protocol::{QueueName, RoleName, StageName};
use echogen_telemetry::{Consuming, Endpoint, LogControl, health, metrics};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use crate::{
    Failure,
    config::{Listen, ServiceConfig},
    gateway,
    roles::worker_config,
};

mod depths;

pub(crate) use self::depths::watch_queues;

/// The endpoint's address if none is configured. 9464 is the usual port of OpenTelemetry's Prometheus exporters.
const DEFAULT_ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 9464);

/// Opens the endpoint, with the stages of these roles reported as loading. It is served until the process ends, so
/// that health is also visible while the roles drain.
pub(crate) async fn begin(
    roles: &[RoleName],
    config: &ServiceConfig,
    log: LogControl,
    tracker: &TaskTracker,
) -> Result<(), Failure> {
    for role in roles {
        if *role == RoleName::Gateway {
            gateway::expect();
        }
        for stage in role.stages() {
            health().starting(stage.as_str());
            let worker = worker_config(*stage, config);
            metrics().expect_stage(*stage, worker.concurrency);
            metrics().serves(*stage, &worker.lanes);
        }
    }
    serve(config, log, tracker).await
}

/// Opens the endpoint at the configured address, and serves it on `tracker` until the process ends.
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
                // Several roles on one machine are allowed. If the default port is taken and none was configured, that
                // is only a warning.
                let port = DEFAULT_ADDRESS.1;
                warn!(port, %error, "no health and metrics endpoint; set telemetry.listen to have one elsewhere");
                return Ok(());
            }
        },
    };
    tracker.spawn(bound.serve(CancellationToken::new()));
    Ok(())
}

/// Reports that a stage has loaded. From now on it is live and ready as long as it consumes.
pub(crate) fn loaded(stage: StageName, config: &ServiceConfig, broker: Option<&Arc<AmqpBroker>>) {
    let began = Instant::now();
    let Some(broker) = broker.map(Arc::clone) else {
        // The in-memory broker is always available.
        return health().loaded(stage.as_str(), move || Consuming { now: true, since: began.elapsed() });
    };
    let queues = worker_config(stage, config).queues(stage);
    health().loaded(stage.as_str(), move || consuming(&broker, &queues, began));
}

/// Returns whether every queue of a stage is being consumed, and since when, or the time since the last attempt. For a queue
/// that was never tried, the time counts from the start of the stage.
fn consuming(broker: &AmqpBroker, queues: &[QueueName], began: Instant) -> Consuming {
    let seen = broker.consumption();
    let mut state = Consuming { now: true, since: began.elapsed() };
    for queue in queues {
        let found = seen.iter().find(|seen| seen.queue == *queue);
        let (now, since) = found.map_or((false, began), |seen| (seen.consuming, seen.since));
        let since = since.elapsed();
        state = match (state.now, now) {
            (true, true) => Consuming { now: true, since: state.since.min(since) },
            (true, false) => Consuming { now: false, since },
            (false, true) => state,
            // The last attempt at any of them: they are consumed one after the other, and none if one fails.
            (false, false) => Consuming { now: false, since: state.since.min(since) },
        };
    }
    state
}

/// Waits for a fault of the compute device and then shuts the process down.
pub(crate) async fn end_on_fault(shutdown: CancellationToken) {
    let fault = health().faulted().await;
    error!(fault, "the compute device is broken, ending");
    shutdown.cancel();
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use async_trait::async_trait;
    use echogen_adapters::amqp::AmqpConfig;
    use echogen_ports::{Broker, Fault, MemoryObjectStore, Message};
    use echogen_protocol::{Job, Lane, Partitions};
    use echogen_testkit::RabbitMq;
    use echogen_worker::{Clock, Outcome, ResultWriter, Stage, StageContext, Worker};
    use jiff::Timestamp;

    use super::*;
    use crate::Exit;

    #[tokio::test]
    async fn a_role_that_tries_to_consume_lives_however_long_the_broker_is_away() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let broker = AmqpBroker::new(AmqpConfig::at(format!("amqp://guest:guest@{nobody}/%2f"))).unwrap();
        let hour = Duration::from_secs(3_600);
        let long_ago = Instant::now().checked_sub(hour).unwrap();
        let queues = worker_config(StageName::Dispatcher, &ServiceConfig::default()).queues(StageName::Dispatcher);
        let state = consuming(&broker, &queues, long_ago);
        assert!(!state.now && state.since >= hour, "it has never tried, so it is stuck: {state:?}");
        broker.consume(&queues[0], 1).await.map(drop).unwrap_err();
        let state = consuming(&broker, &queues, long_ago);
        assert!(!state.now && state.since < hour / 2, "{state:?}");
    }

    /// Counts the tasks of each lane that it was given.
    #[derive(Debug, Default)]
    struct Begun(Mutex<Vec<Lane>>);

    #[async_trait]
    impl Stage for Begun {
        type Task = Job;

        async fn run(&self, job: Job, _: &StageContext) -> Result<Outcome, Fault> {
            self.0.lock().unwrap().push(job.lane);
            Ok(Outcome::Done)
        }
    }

    #[tokio::test]
    async fn a_worker_of_some_lanes_is_ready_and_leaves_the_queues_of_the_others_alone() {
        let url = RabbitMq::shared().await.amqp_url();
        let config = AmqpConfig { prefix: RabbitMq::fresh_prefix(), partitions: 2, ..AmqpConfig::at(url) };
        let broker = Arc::new(AmqpBroker::connect(config.clone()).await.unwrap());
        let now = Timestamp::UNIX_EPOCH;
        for (number, lane) in [Lane::Interactive, Lane::Bulk, Lane::Standard, Lane::Bulk].into_iter().enumerate() {
            let job = Job { lane, ..Job::new("subject.png".into(), format!("mug {number}")).with_id() };
            broker.publish(&job.intake(Partitions::ONE), Message::of_job(&job, now)).await.unwrap();
        }
        let mut settings = ServiceConfig { broker: config, ..ServiceConfig::default() };
        settings.worker.common.lanes = vec![Lane::Bulk];
        let stage = StageName::Dispatcher;
        let queues = worker_config(stage, &settings).queues(stage);
        let begun = Arc::new(Begun::default());
        let results = ResultWriter::new(Arc::new(MemoryObjectStore::new()), broker.clone(), Clock::system(), "1.2.3");
        let worker = Worker::new(begun.clone(), broker.clone(), Arc::new(results), worker_config(stage, &settings));
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        let running = tracker.spawn(worker.run(shutdown.clone()));
        let is_done = || begun.0.lock().unwrap().len() >= 2 && consuming(&broker, &queues, Instant::now()).now;
        while !is_done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        shutdown.cancel();
        running.await.unwrap().unwrap();
        assert_eq!(*begun.0.lock().unwrap(), [Lane::Bulk; 2]);
        let left = broker.depths(&stage.queues(settings.partitions())).await.unwrap();
        let left: Vec<_> = left.iter().filter(|(_, depth)| *depth > 0).map(|(queue, _)| queue.as_str()).collect();
        assert_eq!(left, ["echogen.dispatch.interactive", "echogen.dispatch.standard"]);
        broker.close().await;
    }

    #[tokio::test]
    async fn a_device_fault_ends_the_roles_with_an_exit_code_of_its_own() {
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        loaded(StageName::Sampler, &ServiceConfig::default(), None);
        assert_eq!((health().ready(), Exit::of_process()), (Ok(()), Exit::Success));
        tracker.spawn(end_on_fault(shutdown.clone()));
        health().device_fault("an illegal memory access was encountered");
        shutdown.cancelled().await;
        assert_eq!(Exit::of_process(), Exit::DeviceFault);
        assert!(health().ready().is_err());
    }
}
