//! Measures the overhead of queues, stores and stages: `cargo run --release -p echogen-tests --bin bench-pipeline [--
//! JOBS]`.
//!
//! It uses real servers, a process for each role, and constant networks, under two loads: jobs with a new subject
//! each, which go through all four stages; and jobs of a few known subjects, which go through two. Each load is
//! compared with its floor, measured in turn on the same servers: a minimal client that moves as many messages through
//! as many durable queues and stores the same products with the same S3 calls. Two more floors are shown beside the
//! four stages: one only moves messages; the other reads 64 KB from Redis for each message and writes 100 KB into a
//! file, so it depends on the disk.
//!
//! The last lines compare the medians with the recorded ones; `--record` records those of this run.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

mod floor;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use echogen_protocol::Job;
use echogen_tests::{
    baseline::{self, Figure, RECORD},
    producer,
    role::{self, ROLE_ARGUMENT, RoleEnvironment},
    system::{Servers, System},
};

use floor::{Payload, Subjects};

/// Number of jobs of one measurement.
const JOBS: usize = 5_000;

/// Number of subjects of the load with known subjects.
const KNOWN: u64 = 50;

/// Number of durable queues that a job of a known subject goes through: the dispatcher's and the sampler's.
const KNOWN_HOPS: usize = 2;

/// Number of single jobs on the idle system.
const SINGLE: usize = 200;

/// Number of measurements of the system and of each floor, in turn; the medians are compared.
const ROUNDS: usize = 3;

/// This benchmark's table in the file of recorded results.
const BENCHMARK: &str = "bench-pipeline";

/// Timeout of one measurement.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.split_first() {
        Some((first, rest)) if first == ROLE_ARGUMENT => role::run(rest),
        _ => measure_as_asked(&arguments),
    };
    match ended {
        Ok(exit) => exit,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Jobs per second of every round; for EchoGen also CPU seconds per 1,000 jobs, of the four roles together.
#[derive(Default)]
struct Speeds {
    messages: Vec<f64>,
    files: Vec<f64>,
    floor: Vec<f64>,
    new: Vec<f64>,
    new_cpu: Vec<f64>,
    known_floor: Vec<f64>,
    known: Vec<f64>,
    known_cpu: Vec<f64>,
}

/// Parses `[JOBS] [--record]` and measures.
fn measure_as_asked(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let (flags, numbers): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|argument| *argument == RECORD);
    let jobs = numbers.first().map_or(Ok(JOBS), |jobs| jobs.parse()).context("the number of jobs")?;
    let figures = measure(jobs)?;
    for line in baseline::compare(BENCHMARK, &figures)? {
        println!("{line}");
    }
    if !flags.is_empty() {
        baseline::record(BENCHMARK, &figures)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(jobs: usize) -> anyhow::Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let servers = Servers::start_for_measuring().await?;
        let mut speeds = Speeds::default();
        for _ in 0..ROUNDS {
            one_round(&servers, jobs, &mut speeds).await?;
        }
        Ok(report(speeds, idle_latency(&servers).await?))
    })
}

async fn one_round(servers: &Servers, jobs: usize, speeds: &mut Speeds) -> anyhow::Result<()> {
    let redis = servers.redis.url();
    let plan = floor::Plan { jobs, ..floor::Plan::default() };
    speeds.messages.push(one_floor("messages", servers, plan.clone()).await?);
    let files = Some(Payload::files(&redis).await?);
    speeds.files.push(one_floor("files", servers, floor::Plan { payload: files, ..plan.clone() }).await?);
    let products = Some(Payload::objects(&redis, servers.environment().s3("floor/"), Subjects::New).await?);
    speeds.floor.push(one_floor("floor", servers, floor::Plan { payload: products, ..plan.clone() }).await?);
    let own: Vec<Job> = (0..jobs as u64).map(|index| load(index, 1_000 + index)).collect();
    let (speed, cpu) = one_load("echogen", servers, Vec::new(), own).await?;
    speeds.new.push(speed);
    speeds.new_cpu.push(cpu);

    let products = Some(Payload::objects(&redis, servers.environment().s3("floor/"), Subjects::Known).await?);
    let plan = floor::Plan { hops: KNOWN_HOPS, payload: products, ..plan };
    speeds.known_floor.push(one_floor("floor, known subjects", servers, plan).await?);
    let first = (0..KNOWN).map(|subject| load(jobs as u64 + subject, subject)).collect();
    let shared = (0..jobs as u64).map(|index| load(index, index % KNOWN)).collect();
    let (speed, cpu) = one_load("echogen, known subjects", servers, first, shared).await?;
    speeds.known.push(speed);
    speeds.known_cpu.push(cpu);
    Ok(())
}

/// Prints the medians, and returns those that are compared with the recorded ones.
fn report(speeds: Speeds, idle: [f64; 3]) -> Vec<Figure> {
    let Speeds { messages, files, floor, new, new_cpu, known_floor, known, known_cpu } = speeds;
    let medians = [messages, files, floor, new, known_floor, known].map(|mut speeds| median(&mut speeds));
    let [messages, files, floor, new, known_floor, known] = medians;
    println!("idle, one job at a time: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms", idle[0], idle[1], idle[2]);
    println!("medians, jobs/s: messages {messages:.0}, files {files:.0}, floor {floor:.0}, echogen {new:.0}");
    println!("ratio to messages {:.2}, to files {:.2}", new / messages, new / files);
    println!(
        "known subjects, two hops: floor {known_floor:.0}, echogen {known:.0} jobs/s; ratio {:.2}",
        known / known_floor
    );
    println!("ratio to floor {:.2}; idle p50 {:.1} ms, p99 {:.1} ms", new / floor, idle[0], idle[2]);
    let [new_cpu, known_cpu] = [new_cpu, known_cpu].map(|mut seconds| median(&mut seconds));
    let figure = |name, value| Figure { name, value };
    vec![
        figure("ratio-new-subjects", new / floor),
        figure("ratio-known-subjects", known / known_floor),
        figure("cpu-seconds-per-1000-new", new_cpu),
        figure("cpu-seconds-per-1000-known", known_cpu),
        figure("idle-p50-ms", idle[0]),
        figure("idle-p99-ms", idle[2]),
    ]
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
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
    system.stop()?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    Ok([at(0.5), at(0.95), at(0.99)])
}
