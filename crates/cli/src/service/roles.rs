//! `echogen dispatcher | segmenter | encoder | sampler`, and `up`: all of them in one process.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use echogen_dispatcher::Dispatcher;
use echogen_encoder::Encoder;
use echogen_notifier::Notifier;
use echogen_ports::{Broker, EventStream, MemoryBroker, Message, QueueName};
use echogen_protocol::{EventKind, Job};
use echogen_sampler::{GeneratorSampler, ImageSampler, Sampler};
use echogen_segmenter::Segmenter;
use echogen_telemetry::{Telemetry, health, metrics};
use echogen_worker::{Backoff, Clock, WorkerConfig};
use futures::future::try_join_all;
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use super::{
    Backends, Role,
    arguments::{RoleArguments, WorkOptions},
    refused, watch,
};
use crate::{
    failure::{Exit, Failure},
    job_lines::{JobLine, JobLines, without_callback},
    networks::Loader,
    report::{complain, print_line},
    session::{apart, block_on, interrupted, stop_token},
};

/// Which of the roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoleName {
    Dispatcher,
    Segmenter,
    Encoder,
    Sampler,
}

impl RoleName {
    pub(crate) const ALL: [Self; 4] = [Self::Dispatcher, Self::Segmenter, Self::Encoder, Self::Sampler];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Segmenter => "segmenter",
            Self::Encoder => "encoder",
            Self::Sampler => "sampler",
        }
    }

    /// The stages that run in the process of this name. Calls to clients' servers leave from where pictures are fetched:
    /// no other role has to reach the world.
    pub(super) fn stages(self) -> &'static [&'static str] {
        match self {
            Self::Dispatcher => &[Dispatcher::NAME, Notifier::NAME],
            Self::Segmenter => &[Segmenter::NAME],
            Self::Encoder => &[Encoder::NAME],
            Self::Sampler => &[Sampler::NAME],
        }
    }

    /// Tasks at work at once where nobody says: those that wait for servers take many, those that compute a few, so that
    /// one job's files are read and written while another's networks run.
    fn concurrency(self) -> u16 {
        match self {
            Self::Dispatcher => 32,
            Self::Segmenter | Self::Encoder => 16,
            Self::Sampler => 32,
        }
    }

    /// Loads the networks of this role's stages and of no other, and tries out those that make pictures. A signal is
    /// heard meanwhile.
    async fn load(self, loader: &Arc<Loader>, arguments: &RoleArguments) -> Result<Vec<Role>, Failure> {
        let note = |models: BTreeMap<String, String>| {
            models.iter().for_each(|(network, digest)| metrics().model(loader.bundle_name(), network, digest));
        };
        let loading = Arc::clone(loader);
        Ok(match self {
            Self::Dispatcher => vec![
                Role::Dispatcher(apart(move || loading.subjects()).await?, arguments.work.lane_weights),
                Role::Notifier(arguments.callbacks.sender(&arguments.fetch)?),
            ],
            Self::Segmenter => {
                let detector = apart(move || loading.detector()).await?;
                note(detector.models());
                vec![Role::Segmenter(detector)]
            }
            Self::Encoder => {
                let (subjects, encoder) = apart(move || Ok((loading.subjects()?, loading.encoder()?))).await?;
                note(encoder.models());
                vec![Role::Encoder(subjects, encoder)]
            }
            Self::Sampler => {
                let config = arguments.batch.config();
                let loaded_with = config.clone();
                let sampler = apart(move || loading.sampler(&loaded_with)).await?;
                warm_up(&sampler).await?;
                note(sampler.models());
                vec![Role::Sampler(sampler, config)]
            }
        })
    }
}

/// Makes one picture, so that networks or a device that do not work are known before the first job.
async fn warm_up(sampler: &GeneratorSampler) -> Result<(), Failure> {
    let began = Instant::now();
    sampler.warm_up().await.map_err(|error| {
        let exit = watch::exit();
        let exit = if exit == Exit::Success { Exit::Usage } else { exit };
        Failure { exit, message: format!("the networks make no picture: {error}") }
    })?;
    info!(seconds = began.elapsed().as_secs_f64(), "warmed up");
    Ok(())
}

impl WorkOptions {
    fn worker(&self, role: RoleName) -> WorkerConfig {
        WorkerConfig {
            concurrency: self.concurrency.unwrap_or(role.concurrency()),
            max_attempts: self.max_attempts,
            task_timeout_seconds: self.task_timeout,
            grace_seconds: self.grace,
            backoff: Backoff { first_seconds: self.retry_wait, ..Backoff::default() },
            ..WorkerConfig::default()
        }
    }
}

/// Runs one role until it is told to stop.
pub(crate) fn one(role: RoleName, arguments: &RoleArguments, telemetry: &Telemetry) -> Result<Exit, Failure> {
    with_deep_stacks();
    block_on(async {
        let (tracker, shutdown) = (TaskTracker::new(), stop_token().child_token());
        let loader = Arc::new(Loader::open(&arguments.model)?);
        // Before anything that takes long: whoever asks shall hear that it is loading.
        begin_watch(&[role], arguments, telemetry, &tracker).await?;
        // The broker's address is required here: a role whose broker is its own has nobody to work for.
        let connecting = arguments.broker.connect();
        // Whoever is told to stop before it works has nothing to finish.
        let Some(connected) = shutdown.run_until_cancelled(Box::pin(connecting)).await else {
            return Ok(Exit::Success);
        };
        let broker = Arc::new(connected?);
        let working = async {
            let starting = async {
                let backends = backends(arguments, Arc::clone(&broker) as _, &tracker).await?;
                Ok::<_, Failure>((role.load(&loader, arguments).await?, backends))
            };
            let Some(started) = shutdown.run_until_cancelled(Box::pin(starting)).await else { return Ok(()) };
            let (loaded, backends) = started?;
            role.stages().iter().for_each(|stage| watch::loaded(stage, Some(&broker)));
            info!(role = role.as_str(), "ready");
            end_on_signal_or_fault(&tracker, &shutdown);
            tracker.spawn(watch::look_at_queues(role, Arc::clone(&broker), shutdown.clone()));
            run(role, loaded, &backends, arguments, shutdown.clone()).await
        };
        let ended: Result<(), Failure> = Box::pin(working).await;
        // Last, so that the broker has read the final acknowledgements.
        broker.close().await;
        ended.map(|()| watch::exit())
    })
}

/// Runs all roles until told to stop, or, with the broker of this process, until the jobs on standard input are done.
pub(crate) fn up(arguments: &RoleArguments, telemetry: &Telemetry) -> Result<Exit, Failure> {
    with_deep_stacks();
    block_on(async {
        let (tracker, shutdown) = (TaskTracker::new(), stop_token().child_token());
        let loader = Arc::new(Loader::open(&arguments.model)?);
        begin_watch(&RoleName::ALL, arguments, telemetry, &tracker).await?;
        let is_embedded = arguments.broker.amqp_url.is_none();
        let starting = async {
            let amqp = if is_embedded { None } else { Some(Arc::new(arguments.broker.connect().await?)) };
            let broker: Arc<dyn Broker> = match &amqp {
                Some(amqp) => Arc::clone(amqp) as _,
                None => Arc::new(MemoryBroker::new()),
            };
            Ok::<_, Failure>((amqp, backends(arguments, broker, &tracker).await?))
        };
        // With a broker of this process the jobs on standard input are left undone; with another, others do them.
        let when_told = if is_embedded { Exit::Interrupted } else { Exit::Success };
        let Some(started) = shutdown.run_until_cancelled(Box::pin(starting)).await else { return Ok(when_told) };
        let (amqp, backends) = started?;
        end_on_signal_or_fault(&tracker, &shutdown);
        if let Some(amqp) = &amqp {
            // The dispatcher's look takes in all queues.
            tracker.spawn(watch::look_at_queues(RoleName::Dispatcher, Arc::clone(amqp), shutdown.clone()));
        }
        let mut roles = JoinSet::new();
        for name in RoleName::ALL {
            let loading = name.load(&loader, arguments);
            let Some(loaded) = shutdown.run_until_cancelled(loading).await else { break };
            let loaded = loaded?;
            name.stages().iter().for_each(|stage| watch::loaded(stage, amqp.as_ref()));
            let (backends, arguments, shutdown) = (backends.clone(), arguments.clone(), shutdown.clone());
            roles.spawn(async move {
                let ended = run(name, loaded, &backends, &arguments, shutdown.clone()).await;
                // One role alone is no system: if it cannot go on, nor can the others.
                if let Err(failure) = &ended {
                    error!(role = name.as_str(), error = failure.message, "a role ended");
                    shutdown.cancel();
                }
                ended
            });
        }
        if !shutdown.is_cancelled() {
            info!("ready");
        }
        let exit = if is_embedded {
            from_standard_input(&backends, &shutdown).await
        } else {
            shutdown.cancelled().await;
            Ok(when_told)
        };
        shutdown.cancel();
        let ended = all_of(roles).await;
        if watch::exit() == Exit::DeviceFault {
            return Ok(Exit::DeviceFault);
        }
        ended.and(exit)
    })
}

/// Waits for all roles; the first failure is the one that ended the others.
async fn all_of(mut roles: JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    let mut all = Ok(());
    while let Some(joined) = roles.join_next().await {
        let ended = joined.unwrap_or_else(|error| Err(Failure::usage(format!("a role broke off: {error}"))));
        all = all.and(ended);
    }
    all
}

/// The stack of every thread. The AMQP client reads nested header tables by recursion on a thread of its own; with the
/// usual 2 MiB some 8 kB of a stranger's headers would end the process.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";
const STACK_BYTES: &str = "134217728";

/// Starts this program anew with deep stacks, unless somebody has set their size: the environment of a running process
/// is not to be changed, and the client offers no other way.
#[cfg(unix)]
fn with_deep_stacks() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(STACK_VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let error =
        std::process::Command::new(program).args(std::env::args_os().skip(1)).env(STACK_VARIABLE, STACK_BYTES).exec();
    tracing::warn!(%error, "running with shallow stacks; set {STACK_VARIABLE}={STACK_BYTES}");
}

#[cfg(not(unix))]
fn with_deep_stacks() {}

async fn backends(
    arguments: &RoleArguments,
    broker: Arc<dyn Broker>,
    tracker: &TaskTracker,
) -> Result<Backends, Failure> {
    let stores = arguments.stores.stores().await?;
    let cache = arguments.stores.cache(&arguments.broker.amqp_prefix)?;
    let fetcher = arguments.fetcher().await?;
    Ok(Backends::new(broker, cache, stores.work, stores.results, fetcher, tracker))
}

async fn run(
    name: RoleName,
    roles: Vec<Role>,
    backends: &Backends,
    arguments: &RoleArguments,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let (config, max_image_bytes) = (arguments.work.worker(name), arguments.fetch.max_image_bytes);
    let running = roles.into_iter().map(|role| role.run(backends, config.clone(), max_image_bytes, shutdown.clone()));
    let ended = try_join_all(running).await;
    ended.map(drop).map_err(|error| refused(&format!("the {} cannot go on", name.as_str()), &error))
}

/// Opens the endpoint, with the roles shown as loading. It is there until the process ends, so that it can be seen how
/// the roles end.
async fn begin_watch(
    roles: &[RoleName],
    arguments: &RoleArguments,
    telemetry: &Telemetry,
    tracker: &TaskTracker,
) -> Result<(), Failure> {
    for role in roles {
        for stage in role.stages() {
            health().starting(stage);
            metrics().expect_stage(stage, arguments.work.worker(*role).concurrency);
        }
    }
    watch::serve(&arguments.watch, telemetry.log(), tracker, &CancellationToken::new()).await
}

/// Ctrl-C, SIGTERM and a broken device cancel `shutdown`.
fn end_on_signal_or_fault(tracker: &TaskTracker, shutdown: &CancellationToken) {
    // The signal itself has cancelled `shutdown` already.
    tracker.spawn(async {
        interrupted().await;
        info!("told to stop: finishing what runs");
    });
    tracker.spawn(watch::end_on_fault(shutdown.clone()));
}

/// Sends each line to the broker of this process and prints every event that ends a job, until all have ended.
async fn from_standard_input(backends: &Backends, shutdown: &CancellationToken) -> Result<Exit, Failure> {
    let fault = |error| refused("the jobs cannot be sent", &error);
    let mut events = backends.broker.subscribe("job").await.map_err(fault)?;
    let mut lines = JobLines::open(Path::new("-")).await.map_err(|error| Failure::usage(error.to_string()))?;
    let (mut waiting, mut exit, mut at_end) = (HashSet::new(), Exit::Success, false);
    while !(at_end && waiting.is_empty()) {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(Exit::Interrupted),
            Some(ended) = next_end(&mut *events) => {
                waiting.remove(&ended.0);
                if !ended.1 {
                    exit = Exit::JobFailed;
                }
            }
            line = lines.next(), if !at_end => match line.map_err(|error| Failure::usage(error.to_string()))? {
                None => at_end = true,
                Some(line) => match job_of(&line) {
                    Ok(job) => {
                        waiting.insert(job.id.0.clone());
                        let message = Message::of_job(&job, Clock::system().now());
                        backends.broker.publish(&QueueName::dispatch(job.lane), message).await.map_err(fault)?;
                    }
                    Err(error) => {
                        complain(format_args!("error: line {}: {error}", line.number));
                        exit = Exit::JobFailed;
                    }
                },
            },
        }
    }
    Ok(exit)
}

fn job_of(line: &JobLine) -> Result<Job, String> {
    let Some(text) = &line.text else { return Err("the line is longer than a job may be; shorten it".to_owned()) };
    Job::parse(text).map_err(|error| error.to_string()).and_then(|job| without_callback(job.with_id()))
}

/// The next event that ends a job, printed; its id, and whether the job completed.
async fn next_end(events: &mut dyn EventStream) -> Option<(String, bool)> {
    loop {
        let Some(event) = events.next().await?.to_job() else { continue };
        if event.kind.ends_job() || event.kind == EventKind::Parked {
            print_line(&serde_json::to_string(&event).unwrap_or_default());
            return Some((event.subject.0, event.kind == EventKind::Completed));
        }
    }
}
