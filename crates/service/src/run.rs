//! The entry point of every role: serves health, waits until its servers let it work, loads networks, works until shutdown,
//! drains, closes.
//!
//! A process runs one role or all of them, by the same code. The order of shutdown must hold: first all stages drain,
//! whatever the reason; then the broker's connection is closed, which waits until the broker has processed the final
//! acknowledgements.

use std::sync::Arc;

use echogen_adapters::amqp::AmqpBroker;
use echogen_ports::Backoff;
use echogen_protocol::RoleName;
use echogen_telemetry::{Telemetry, health};
use echogen_worker::Heartbeat;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::{
    Backends, Exit, Failure, NetworkSource, backends,
    config::ServiceConfig,
    gateway::OpenGateway,
    monitor,
    readiness::Readiness,
    roles::{self, LoadedStage},
    signals::{interrupted, stop_token},
};

/// The pauses before a stage is started again that lacks a right.
const RIGHTS_PAUSE: Backoff = Backoff::doubling(5.0, 60.0);

/// Runs roles on the servers that the settings name, until the first signal, a broken device, or an error from which a
/// role cannot recover.
///
/// Returns how the process should end: with an error, successfully, or with a device fault.
pub async fn run(
    roles: &[RoleName],
    networks: &dyn NetworkSource,
    config: &ServiceConfig,
    telemetry: &Telemetry,
) -> Result<Exit, Failure> {
    let process = Process::begin(roles, config, telemetry).await?;
    // An address is required: a role with an in-memory broker of its own would never receive a job. It is connected to when
    // its rights are checked.
    let broker = Arc::new(backends::broker(config)?);
    let ended = Box::pin(process.on_broker(&broker, networks)).await;
    // This must be last: closing waits until the broker has processed the final acknowledgements.
    broker.close().await;
    exit_of(ended.map(|()| Exit::Success))
}

/// The state of a process, from its start on.
pub(crate) struct Process<'a> {
    pub(crate) roles: &'a [RoleName],
    pub(crate) config: &'a ServiceConfig,
    /// The background tasks beside the stages, which run until the process ends.
    pub(crate) tracker: TaskTracker,
    /// Cancelled by a signal, by a broken device, and by a stage that fails.
    pub(crate) shutdown: CancellationToken,
}

impl<'a> Process<'a> {
    /// Serves health and metrics before anything that takes long, so that probes are answered while networks load.
    pub(crate) async fn begin(
        roles: &'a [RoleName],
        config: &'a ServiceConfig,
        telemetry: &Telemetry,
    ) -> Result<Self, Failure> {
        let (tracker, shutdown) = (TaskTracker::new(), stop_token().child_token());
        monitor::begin(roles, config, telemetry.log(), &tracker).await?;
        // The signal itself cancels `shutdown`; this task only logs it.
        tracker.spawn(async {
            interrupted().await;
            info!("a signal came: finishing what runs");
        });
        tracker.spawn(monitor::end_on_fault(shutdown.clone()));
        Ok(Self { roles, config, tracker, shutdown })
    }

    async fn on_broker(&self, broker: &Arc<AmqpBroker>, networks: &dyn NetworkSource) -> Result<(), Failure> {
        let opening = Box::pin(Backends::on_broker(broker, self.config, &self.tracker));
        let Some(backends) = self.shutdown.run_until_cancelled(opening).await else { return Ok(()) };
        let backends = backends?;
        let readiness = Readiness::new(health(), self.roles, &backends, broker, self.config)?;
        // A role that cannot do its work takes none. A process that is stopped before it consumes has nothing to drain.
        let waiting = Box::pin(readiness.until_able());
        let Some(able) = self.shutdown.run_until_cancelled(waiting).await else { return Ok(()) };
        able?;
        let (roles, end) = (self.roles.to_vec(), self.shutdown.clone());
        self.tracker.spawn(monitor::watch_queues(roles, self.config.partitions(), Arc::clone(broker), end));
        self.tracker.spawn(readiness.watch(self.shutdown.clone()));
        work(self.roles, networks, &backends, self.config, &self.shutdown).await
    }
}

/// A broken device takes precedence over every other outcome, because only a restarted process may recover from it.
pub(crate) fn exit_of(ended: Result<Exit, Failure>) -> Result<Exit, Failure> {
    match (Exit::of_process(), ended) {
        (Exit::Success, ended) => ended,
        (fault, Ok(_)) => Ok(fault),
        (fault, Err(failure)) => Err(Failure { exit: fault, ..failure }),
    }
}

/// Loads the networks of the roles, and starts each role as soon as its networks are loaded. At `shutdown` all drain.
/// If a role cannot be loaded or fails, the others are shut down, because the process cannot do its work without it.
pub async fn work(
    roles: &[RoleName],
    networks: &dyn NetworkSource,
    backends: &Backends,
    config: &ServiceConfig,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let over = CancellationToken::new();
    let working = async {
        let mut running = JoinSet::new();
        let started = start(roles, networks, backends, config, shutdown, &mut running).await;
        match &started {
            Ok(()) if !shutdown.is_cancelled() => info!("ready"),
            Ok(()) => {}
            Err(_) => shutdown.cancel(),
        }
        // Every running stage drains before this returns, even if another one could not be started: its tasks must be
        // finished or requeued while the broker is still connected.
        let ended = all_of(running, shutdown).await;
        over.cancel();
        started.and(ended)
    };
    let (worked, ()) = tokio::join!(working, beat(roles, backends, &over));
    worked
}

/// Shows to operators that the roles of this process live, until the token is cancelled.
pub(crate) async fn beat(roles: &[RoleName], backends: &Backends, over: &CancellationToken) {
    let beats = roles.iter().map(|role| {
        let heartbeat = Heartbeat::of_process(*role, env!("CARGO_PKG_VERSION"));
        heartbeat.beat(&*backends.quota, &*backends.cache, over)
    });
    futures::future::join_all(beats).await;
}

/// Starts the stages of one role after the other; after a shutdown the remaining ones are not started.
async fn start(
    roles: &[RoleName],
    networks: &dyn NetworkSource,
    backends: &Backends,
    config: &ServiceConfig,
    shutdown: &CancellationToken,
    running: &mut JoinSet<Result<(), Failure>>,
) -> Result<(), Failure> {
    for role in roles {
        if *role == RoleName::Gateway {
            let opening = Box::pin(OpenGateway::open(backends, config, shutdown));
            let Some(opened) = shutdown.run_until_cancelled(opening).await else { return Ok(()) };
            let (opened, end) = (opened?, shutdown.clone());
            running.spawn(async move {
                opened.serve(end).await;
                Ok(())
            });
            continue;
        }
        let loading = roles::load(*role, networks, backends, config);
        let Some(loaded) = shutdown.run_until_cancelled(loading).await else { return Ok(()) };
        for stage in loaded? {
            monitor::loaded(stage.name(), config, backends.amqp.as_ref());
            running.spawn(run_stage(stage, backends.clone(), config.clone(), shutdown.clone()));
        }
    }
    Ok(())
}

async fn run_stage(
    stage: LoadedStage,
    backends: Backends,
    config: ServiceConfig,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let (name, mut failures) = (stage.name(), 0);
    let ended = loop {
        let ended = stage.clone().run(&backends, &config, shutdown.clone()).await;
        let Err(fault) = &ended else { break ended };
        let missing = backends.amqp.as_ref().map(|broker| broker.missing_rights()).unwrap_or_default();
        if !fault.is_permanent() || missing.is_empty() || shutdown.is_cancelled() {
            break ended;
        }
        // A restart would cost the networks and grant no right.
        error!(stage = %name, error = %fault, missing = missing.join(", "), "a right is missing, will try again");
        failures += 1;
        shutdown.run_until_cancelled(tokio::time::sleep(RIGHTS_PAUSE.wait(failures))).await;
    };
    ended.map_err(|error| {
        error!(stage = %name, %error, "a stage cannot go on");
        shutdown.cancel();
        Failure::refused(&format!("the {name} cannot go on"), &error)
    })
}

/// Waits for all stages. The first failure is returned, because it caused the shutdown of the others.
async fn all_of(mut running: JoinSet<Result<(), Failure>>, shutdown: &CancellationToken) -> Result<(), Failure> {
    let mut all = Ok(());
    while let Some(joined) = running.join_next().await {
        let ended = joined.unwrap_or_else(|error| Err(Failure::usage(format!("a stage panicked: {error}"))));
        if ended.is_err() {
            shutdown.cancel();
        }
        all = all.and(ended);
    }
    all
}

#[cfg(test)]
mod tests;
