//! One load: offers jobs at an even rate to an installation of its own, and counts what comes of them.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::Parser;
use echogen_adapters::amqp::AmqpBroker;
use echogen_protocol::{EventKind, Job, Lane, RoleName, Seeds};
use echogen_tests::{
    metrics, producer,
    role::RoleEnvironment,
    system::{Servers, System},
};
use tokio::{task::JoinSet, time::sleep_until};

use crate::report::{Report, Waits};

/// Sizes of the jobs in pictures. A block of jobs has each of these once in each lane.
const SIZES: [u32; 12] = [1, 1, 1, 1, 2, 2, 4, 4, 8, 16, 32, 64];

/// Number of jobs in a block.
const BLOCK: usize = SIZES.len() * Lane::ALL.len();

/// Number of subjects that the jobs share.
const SUBJECTS: u64 = 50;

/// The share of a load's time after which goodput is counted: by then the pipeline is filled.
const WARM_UP: f64 = 0.2;

/// Timeout of the first jobs.
const LIMIT: Duration = Duration::from_secs(120);

/// Measures the goodput under overload, on private servers.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Settings {
    /// Offered loads, as multiples of the capacity.
    #[arg(long, value_delimiter = ',', default_values_t = [0.5, 1.0, 2.0, 5.0, 10.0])]
    pub(crate) loads: Vec<f64>,
    /// Seconds for which each load lasts; goodput is counted in the last four fifths.
    #[arg(long, default_value_t = 40.0)]
    pub(crate) seconds: f64,
    /// Milliseconds that the simulated device takes for a picture.
    #[arg(long, default_value_t = 10)]
    pub(crate) picture_ms: u64,
    /// Time limit of an attempt in seconds: by default about twenty full batches, as in a real installation.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) task_timeout: f64,
    /// Messages in the queue of a stage at most; the backlog beyond stays in the lanes.
    #[arg(long, default_value_t = 64)]
    pub(crate) stage_limit: u32,
    /// Tasks that a role has in hand at most.
    #[arg(long, default_value_t = 32)]
    pub(crate) concurrency: u16,
    /// Deadline of each job, in seconds from when it is sent; by default it has none.
    #[arg(long)]
    pub(crate) deadline: Option<f64>,
}

impl Settings {
    /// Checks what the options say together.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let is_positive = |number: &f64| number.is_finite() && *number > 0.0;
        ensure!(!self.loads.is_empty() && self.loads.iter().all(is_positive), "--loads takes numbers above 0");
        ensure!(is_positive(&self.seconds), "--seconds takes a number above 0");
        ensure!(self.picture_ms > 0, "--picture-ms takes a number above 0");
        Ok(())
    }

    /// Pictures that the device can make in a second.
    fn capacity(&self) -> f64 {
        1_000.0 / self.picture_ms as f64
    }

    fn jobs_per_second(&self, load: f64) -> f64 {
        let pictures: u32 = SIZES.iter().sum();
        load * self.capacity() * SIZES.len() as f64 / f64::from(pictures)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "capacity {:.0} pictures/s; {:.0} s for each load; jobs of {SIZES:?} pictures in three lanes; task timeout {} s",
            self.capacity(),
            self.seconds,
            self.task_timeout
        )
    }
}

/// A job that was offered.
struct Offered {
    id: String,
    lane: Lane,
    pictures: u32,
    at: Instant,
}

/// Runs one load.
pub(crate) async fn run(servers: &Servers, settings: &Settings, load: f64) -> anyhow::Result<Report> {
    let environment = environment(servers, settings)?;
    let system = ready(&environment).await?;
    let begun = Instant::now();
    let offered = offer(&system, settings, load, begun).await;
    let end = Instant::now();
    let report = count(&system, &environment, settings, load, &offered, begun, end)?;
    system.stop()?;
    Ok(report)
}

fn environment(servers: &Servers, settings: &Settings) -> anyhow::Result<RoleEnvironment> {
    let mut ports = BTreeMap::new();
    for role in RoleName::WORKERS {
        ports.insert(role.to_string(), metrics::free_port()?);
    }
    Ok(RoleEnvironment {
        picture_ms: Some(settings.picture_ms),
        task_timeout_seconds: settings.task_timeout,
        stage_limit: settings.stage_limit,
        concurrency: settings.concurrency,
        ports,
        ..servers.environment()
    })
}

/// Returns a system that has made the encoded subjects.
async fn ready(environment: &RoleEnvironment) -> anyhow::Result<System> {
    let system = System::start_with_steps(environment).await?;
    for subject in 0..SUBJECTS {
        producer::send(&system.broker, &producer::job(&format!("warm-{subject}"), subject, "a dog")).await?;
    }
    system.until(LIMIT, |system| system.ledger.ended() as u64 == SUBJECTS).await?;
    Ok(system)
}

/// Sends jobs at an even rate until the time is over, and waits for none of them.
async fn offer(system: &System, settings: &Settings, load: f64, begun: Instant) -> Vec<Offered> {
    let interval = Duration::from_secs_f64(1.0 / settings.jobs_per_second(load));
    let until = begun + Duration::from_secs_f64(settings.seconds);
    let (mut offered, mut sending) = (Vec::new(), JoinSet::new());
    let mut at = begun;
    while at < until {
        sleep_until(at.into()).await;
        let (job, pictures) = job(offered.len(), settings.deadline);
        offered.push(Offered { id: job.id.to_string(), lane: job.lane, pictures, at: Instant::now() });
        let broker = system.broker.clone();
        sending.spawn(send(broker, job));
        while sending.try_join_next().is_some() {}
        at += interval;
    }
    sleep_until(until.into()).await;
    offered
}

async fn send(broker: std::sync::Arc<AmqpBroker>, job: Job) {
    if let Err(error) = producer::send(&broker, &job).await {
        eprintln!("the job {} was not sent: {error}", job.id);
    }
}

/// The job of this number: each block has every size in every lane once, in an order of its own.
fn job(number: usize, deadline: Option<f64>) -> (Job, u32) {
    let (block, place) = (number / BLOCK, number % BLOCK);
    // A step that has no divisor in common with the block's length visits each of its places.
    let step = [5, 7, 11, 13, 17][block % 5];
    let place = (place * step + block) % BLOCK;
    let (pictures, lane) = (SIZES[place % SIZES.len()], Lane::ALL[place / SIZES.len()]);
    let job = producer::job(&format!("load-{number}"), number as u64 % SUBJECTS, "a dog on a beach");
    let deadline = deadline.map(|seconds| jiff::Timestamp::now() + Duration::from_secs_f64(seconds));
    (Job { seeds: Seeds::count(pictures), lane, deadline, ..job }, pictures)
}

fn count(
    system: &System,
    environment: &RoleEnvironment,
    settings: &Settings,
    load: f64,
    offered: &[Offered],
    begun: Instant,
    end: Instant,
) -> anyhow::Result<Report> {
    let ledger = &system.ledger;
    let from = begun + Duration::from_secs_f64(settings.seconds * WARM_UP);
    let in_time = |job: &&Offered| ledger.heard(&job.id).is_some_and(|heard| heard > from && heard <= end);
    let good: u32 =
        offered.iter().filter(in_time).filter(|job| ledger.is_completed(&job.id)).map(|job| job.pictures).sum();
    let pictures: u32 = offered.iter().map(|job| job.pictures).sum();
    let mut requeued = 0.0;
    for port in environment.ports.values() {
        requeued += metrics::sum(&metrics::read(*port)?, "echogen_tasks_total", "outcome", "requeued");
    }
    let waits = Lane::ALL.map(|lane| {
        let of_lane = offered.iter().filter(|job| job.lane == lane);
        let waits = of_lane.map(|job| match ledger.begun(&job.id) {
            Some(begun) => (begun.saturating_duration_since(job.at).as_secs_f64(), true),
            None => (end.saturating_duration_since(job.at).as_secs_f64(), false),
        });
        (lane, Waits::new(waits.collect()))
    });
    Ok(Report {
        load,
        offered: f64::from(pictures) / settings.seconds,
        goodput: f64::from(good) / (end - from).as_secs_f64(),
        parked: ledger.parked(),
        failed: ledger.of_kind(EventKind::Failed),
        expired: ledger.of_kind(EventKind::Expired),
        retried: ledger.retries(),
        requeued: requeued as u64,
        waits,
    })
}
