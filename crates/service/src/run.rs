//! The one entry of every role: connect, serve health, load networks, work until a signal, drain, close.
//!
//! A process runs one role, or all of them; the way is the same. The order in which it ends must hold: first the stages
//! drain, all of them, whatever the reason; last the broker is closed, so that it has read the final acknowledgements.

use std::sync::Arc;

use echogen_adapters::amqp::AmqpBroker;
use echogen_protocol::RoleName;
use echogen_telemetry::Telemetry;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use crate::{
    Backends, Exit, Failure, NetworkSource, backends,
    config::ServiceConfig,
    monitor,
    roles::{self, LoadedStage},
    signals::{interrupted, stop_token},
};

/// Runs roles on the servers that the settings name, until the first signal, a broken device, or an error that none of
/// them can go on after.
///
/// Returns how the process should end: with an error, successfully, or with a device fault.
pub async fn run(
    roles: &[RoleName],
    networks: &dyn NetworkSource,
    config: &ServiceConfig,
    telemetry: &Telemetry,
) -> Result<Exit, Failure> {
    let process = Process::begin(roles, config, telemetry).await?;
    // The broker's address is required here: a role with a broker of its own would receive no jobs.
    let connecting = Box::pin(backends::connect(config));
    // A process that is stopped before it works has nothing to finish.
    let Some(connected) = process.shutdown.run_until_cancelled(connecting).await else { return Ok(Exit::Success) };
    let broker = Arc::new(connected?);
    let ended = Box::pin(process.on_broker(&broker, networks)).await;
    // Last, so that the broker has read the final acknowledgements.
    broker.close().await;
    exit_of(ended.map(|()| Exit::Success))
}

/// A process from its first moment on.
pub(crate) struct Process<'a> {
    pub(crate) roles: &'a [RoleName],
    pub(crate) config: &'a ServiceConfig,
    /// What runs beside the stages, until the process ends.
    pub(crate) tracker: TaskTracker,
    /// Cancelled by a signal, a broken device, and a stage that cannot go on.
    pub(crate) shutdown: CancellationToken,
}

impl<'a> Process<'a> {
    /// Serves health and metrics before anything that takes long: a probe is answered that it is loading.
    pub(crate) async fn begin(
        roles: &'a [RoleName],
        config: &'a ServiceConfig,
        telemetry: &Telemetry,
    ) -> Result<Self, Failure> {
        let (tracker, shutdown) = (TaskTracker::new(), stop_token().child_token());
        monitor::begin(roles, config, telemetry.log(), &tracker).await?;
        // The signal itself cancels `shutdown`; this only says so.
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
        let (roles, end) = (self.roles.to_vec(), self.shutdown.clone());
        self.tracker.spawn(monitor::watch_queues(roles, Arc::clone(broker), end));
        work(self.roles, networks, &backends?, self.config, &self.shutdown).await
    }
}

/// A broken device counts before everything else: only a new process may find it whole.
pub(crate) fn exit_of(ended: Result<Exit, Failure>) -> Result<Exit, Failure> {
    match (Exit::of_process(), ended) {
        (Exit::Success, ended) => ended,
        (fault, Ok(_)) => Ok(fault),
        (fault, Err(failure)) => Err(Failure { exit: fault, ..failure }),
    }
}

/// Loads the networks of roles, and runs each as soon as it has its own, until `shutdown`; then all drain. A role that
/// cannot be loaded, or cannot go on, shuts the others down: one role alone is no system.
pub async fn work(
    roles: &[RoleName],
    networks: &dyn NetworkSource,
    backends: &Backends,
    config: &ServiceConfig,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let mut running = JoinSet::new();
    let started = start(roles, networks, backends, config, shutdown, &mut running).await;
    match &started {
        Ok(()) if !shutdown.is_cancelled() => info!("ready"),
        Ok(()) => {}
        Err(_) => shutdown.cancel(),
    }
    // Every stage that runs drains before this returns, also after one could not be started: what it has taken is
    // finished or requeued while the broker is still there.
    let ended = all_of(running, shutdown).await;
    started.and(ended)
}

/// Starts the stages of one role after the other; a shutdown meanwhile leaves the others out.
async fn start(
    roles: &[RoleName],
    networks: &dyn NetworkSource,
    backends: &Backends,
    config: &ServiceConfig,
    shutdown: &CancellationToken,
    running: &mut JoinSet<Result<(), Failure>>,
) -> Result<(), Failure> {
    for role in roles {
        let loading = roles::load(*role, networks, backends, config);
        let Some(loaded) = shutdown.run_until_cancelled(loading).await else { return Ok(()) };
        for stage in loaded? {
            monitor::loaded(stage.name(), backends.amqp.as_ref());
            running.spawn(run_stage(stage, *role, backends.clone(), config.clone(), shutdown.clone()));
        }
    }
    Ok(())
}

async fn run_stage(
    stage: LoadedStage,
    role: RoleName,
    backends: Backends,
    config: ServiceConfig,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let (name, worker) = (stage.name(), roles::worker_config(role, &config));
    let ended = stage.run(&backends, worker, &config, shutdown.clone()).await;
    ended.map_err(|error| {
        error!(stage = %name, %error, "a stage cannot go on");
        shutdown.cancel();
        Failure::refused(&format!("the {name} cannot go on"), &error)
    })
}

/// Waits for all stages; the first failure is the one that shut the others down.
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
