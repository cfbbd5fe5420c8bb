//! Measures the overhead of queues, stores and stages: `cargo run --release -p echogen-tests --bin bench-pipeline [--
//! --help]`.
//!
//! It uses real servers, a process for each role, and constant networks, under two loads: jobs with a new subject
//! each, which go through all stages; and jobs of a few known subjects, which the segmenter and the encoder never see.
//! Each load is compared with two floors, measured in turn on the same servers: a minimal client that moves as many
//! messages through as many durable queues and makes the same S3 calls; and the same client that leaves only what users
//! see, the picture and `result.json`. Two more floors are shown beside the new subjects: one only moves messages; the
//! other reads 64 KB from Redis for each message and writes 100 KB into a file, so it depends on the disk.
//!
//! The last lines compare the medians with the recorded ones; `--record` records those of this run. `--hops` prints
//! instead where the time of a single job goes, `--listeners` what a client's stuck queue costs the others.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

mod floor;
mod hops;
mod listeners;
mod speeds;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::ensure;
use clap::Parser;
use echogen_protocol::Job;
use echogen_tests::{
    baseline::{self, Figure},
    producer,
    role::{self, RoleEnvironment},
    system::{Servers, System},
};

use floor::{Payload, Subjects};
use speeds::Speeds;

/// Number of subjects of the load with known subjects.
const KNOWN: u64 = 50;

/// Number of durable queues that a job of a known subject goes through: those of the dispatcher, the sampler and the
/// notifier.
const KNOWN_HOPS: usize = 3;

/// Number of single jobs on the idle system.
const SINGLE: usize = 200;

/// This benchmark's table in the file of recorded results.
const BENCHMARK: &str = "bench-pipeline";

/// Timeout of one measurement.
const LIMIT: Duration = Duration::from_secs(300);

/// Measures the overhead of queues, stores and stages, on private servers.
#[derive(Clone, Debug, Parser)]
struct Settings {
    /// Number of jobs of one measurement.
    #[arg(default_value_t = 5_000)]
    jobs: usize,
    /// Number of measurements of the system and of each floor, in turn; the medians are compared.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Replace the recorded results with those of this run.
    #[arg(long)]
    record: bool,
    /// Print where the time of a single job goes, and measure nothing else.
    #[arg(long)]
    hops: bool,
    /// Measure what clients' queues and servers that are full, stuck or gone cost other clients, and nothing else.
    #[arg(long)]
    listeners: bool,
    /// Measure the CPU seconds of the roles alone, without the floors.
    #[arg(long)]
    cpu: bool,
}

fn main() -> ExitCode {
    role::main(|_| measure(&Settings::parse()))
}

fn measure(settings: &Settings) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let servers = Servers::start_for_measuring().await?;
        if settings.hops {
            hops::report(&servers).await?;
            return Ok(ExitCode::SUCCESS);
        }
        if settings.listeners {
            listeners::report(&servers, settings.jobs).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut speeds = Speeds::default();
        for _ in 0..settings.rounds {
            match settings.cpu {
                true => both_loads(&servers, settings.jobs, &mut speeds).await?,
                false => one_round(&servers, settings.jobs, &mut speeds).await?,
            }
        }
        if settings.cpu {
            println!("{}", speeds.cpu());
            return Ok(ExitCode::SUCCESS);
        }
        let figures = speeds.report(idle_latency(&servers).await?);
        compare(&figures, settings.record)
    })
}

fn compare(figures: &[Figure], is_recorded: bool) -> anyhow::Result<ExitCode> {
    for line in baseline::compare(BENCHMARK, figures)? {
        println!("{line}");
    }
    if is_recorded {
        baseline::record(BENCHMARK, figures)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn one_round(servers: &Servers, jobs: usize, speeds: &mut Speeds) -> anyhow::Result<()> {
    let redis = servers.redis.url();
    // A folder of its own for each floor.
    let s3 = || servers.environment().s3("floor/");
    let plan = floor::Plan { jobs, ..floor::Plan::default() };
    let with = |payload| floor::Plan { payload: Some(payload), ..plan.clone() };
    speeds.messages.push(one_floor("messages", servers, plan.clone()).await?);
    speeds.files.push(one_floor("files", servers, with(Payload::files(&redis).await?)).await?);
    let objects = Payload::objects(&redis, s3(), Subjects::New).await?;
    speeds.new.floor.push(one_floor("floor", servers, with(objects)).await?);
    speeds.new.products.push(one_floor("products", servers, with(Payload::products(s3()).await?)).await?);
    let with = |payload| floor::Plan { hops: KNOWN_HOPS, payload: Some(payload), ..plan.clone() };
    let objects = Payload::objects(&redis, s3(), Subjects::Known).await?;
    speeds.known.floor.push(one_floor("floor, known subjects", servers, with(objects)).await?);
    let products = Payload::products(s3()).await?;
    speeds.known.products.push(one_floor("products, known subjects", servers, with(products)).await?);
    both_loads(servers, jobs, speeds).await
}

async fn both_loads(servers: &Servers, jobs: usize, speeds: &mut Speeds) -> anyhow::Result<()> {
    let own: Vec<Job> = (0..jobs as u64).map(|index| load(index, 1_000 + index)).collect();
    speeds.new.push(one_load("echogen", servers, Vec::new(), own).await?);
    let first = (0..KNOWN).map(|subject| load(jobs as u64 + subject, subject)).collect();
    let shared = (0..jobs as u64).map(|index| load(index, index % KNOWN)).collect();
    speeds.known.push(one_load("echogen, known subjects", servers, first, shared).await?);
    Ok(())
}

async fn one_floor(name: &str, servers: &Servers, plan: floor::Plan) -> anyhow::Result<f64> {
    let report = floor::run(&servers.rabbitmq.amqp_url(), &plan).await?;
    println!("{name:8} {report}");
    Ok(report.jobs_per_second)
}

/// Creates a job of a load.
fn load(index: u64, subject: u64) -> Job {
    producer::job(&format!("load-{index}"), subject, "a dog on a beach")
}

/// Completes the jobs of `first`, then sends all of `batch`. Returns jobs per second from the first publish to the
/// last completion event, and CPU seconds per 1,000 jobs.
async fn one_load(name: &str, servers: &Servers, first: Vec<Job>, batch: Vec<Job>) -> anyhow::Result<(f64, f64)> {
    let system = ready(&servers.environment()).await?;
    finish(&system, first).await?;
    let jobs = batch.len();
    let before: Vec<f64> = system.roles.iter().map(|role| role.cpu_seconds()).collect();
    let began = Instant::now();
    finish(&system, batch).await?;
    let seconds = began.elapsed().as_secs_f64();
    let spent: Vec<f64> = system.roles.iter().zip(before).map(|(role, before)| role.cpu_seconds() - before).collect();
    let thousands = jobs as f64 / 1_000.0;
    let (speed, whole) = (jobs as f64 / seconds, spent.iter().sum::<f64>() / thousands);
    println!("{name:8} {speed:.0} jobs/s, {whole:.2} CPU s per 1,000 in {seconds:.1} s");
    for (role, spent) in system.roles.iter().zip(&spent) {
        println!(
            "  {:12} {:.2} CPU s per 1,000, peak {:.0} MiB",
            role.name().as_str(),
            spent / thousands,
            role.peak_mib()
        );
        ensure!(role.starts() == 1, "the {} died under load", role.name().as_str());
    }
    system.stop()?;
    Ok((speed, whole))
}

/// Sends the jobs and waits for the last completion event.
async fn finish(system: &System, jobs: Vec<Job>) -> anyhow::Result<()> {
    let due = system.ledger.ended() + jobs.len();
    producer::send_all(&system.broker, jobs, Duration::ZERO).await?;
    system.until(LIMIT, |system| system.ledger.ended() >= due).await
}

/// Returns a system in which every role has completed a job.
async fn ready(environment: &RoleEnvironment) -> anyhow::Result<System> {
    let system = System::start_for_measuring(environment).await?;
    for index in 0..8 {
        producer::send(&system.broker, &producer::job(&format!("warm-{index}"), index, "a dog")).await?;
    }
    system.until(LIMIT, |system| system.ledger.ended() == 8).await?;
    Ok(system)
}

/// Measures the milliseconds from publish to completion event of single jobs, one after the other: p50, p95, p99.
async fn idle_latency(servers: &Servers) -> anyhow::Result<[f64; 3]> {
    let system = ready(&servers.environment()).await?;
    let latency = singles(&system).await?;
    system.stop()?;
    Ok(latency)
}

/// The same on a system that runs.
async fn singles(system: &System) -> anyhow::Result<[f64; 3]> {
    let mut times = Vec::with_capacity(SINGLE);
    for index in 0..SINGLE {
        let id = format!("single-{index}");
        let job = producer::job(&id, index as u64 + 100, "a dog on a beach");
        let began = Instant::now();
        producer::send(&system.broker, &job).await?;
        let heard = loop {
            if let Some(heard) = system.ledger.heard(&id) {
                break heard;
            }
            ensure!(began.elapsed() < LIMIT, "the job {id} does not end");
            tokio::time::sleep(Duration::from_micros(500)).await;
        };
        times.push(heard.duration_since(began).as_secs_f64() * 1_000.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok([at(0.5), at(0.95), at(0.99)])
}
