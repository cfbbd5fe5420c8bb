//! Measures what the gateway costs: `cargo run --release -p echogen-tests --bin bench-gateway [-- --help]`.
//!
//! It starts private RabbitMQ, Redis and S3 servers, the four roles with constant networks, and a gateway, each as a process.
//! The same jobs go in over HTTP and over AMQP, in turn on the same system; the ratio of their speeds is compared. Then single
//! requests are timed on the idle system, streams of events are opened that bring nothing, and many requests are made, to
//! see what memory the gateway takes.
//!
//! The last lines compare the figures with the recorded ones; `--record` records those of this run.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

mod fleet;
mod memory;
mod speed;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use echogen_tests::{
    baseline::{self, Figure},
    role,
    system::Servers,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// This benchmark's table in the file of recorded results.
const BENCHMARK: &str = "bench-gateway";

/// Measures what the gateway costs, beside the roles with constant networks, on private servers.
#[derive(Clone, Debug, Parser)]
struct Settings {
    /// Jobs of one measurement of speed.
    #[arg(long, default_value_t = 2_000)]
    jobs: usize,
    /// Measurements of each speed, HTTP and AMQP in turn; the medians are compared.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections over which jobs and requests are sent, each one after the other.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Single requests that are timed on the idle system.
    #[arg(long, default_value_t = 500)]
    single: usize,
    /// Streams of events that are opened, each of a job of its own that waits.
    #[arg(long, default_value_t = 5_000)]
    streams: usize,
    /// Requests over which the gateway's memory is watched; every tenth sends a job.
    #[arg(long, default_value_t = 100_000)]
    requests: usize,
    /// Measure only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Replace the recorded results with those of this run.
    #[arg(long)]
    record: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Jobs a second over HTTP and over AMQP.
    Speed,
    /// The time of a request that sends a job, on the idle system.
    Latency,
    /// Memory for each open stream.
    Streams,
    /// Memory over many requests.
    Memory,
}

impl Settings {
    fn includes(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

fn main() -> ExitCode {
    role::main(|_| measure(&Settings::parse()))
}

fn measure(settings: &Settings) -> anyhow::Result<ExitCode> {
    // Each stream takes a file here and one in the gateway, which inherits this.
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let servers = Servers::start_for_measuring().await?;
        let mut figures: Vec<Figure> = Vec::new();
        println!("| measured | value | target |\n|---|---|---|");
        if settings.includes(Part::Speed) {
            figures.extend(speed::compare(&servers, settings).await?);
        }
        if settings.includes(Part::Latency) {
            figures.extend(speed::latency(&servers, settings.single).await?);
        }
        if settings.includes(Part::Streams) {
            figures.extend(memory::streams(&servers, settings).await?);
        }
        if settings.includes(Part::Memory) {
            figures.extend(memory::requests(&servers, settings).await?);
        }
        println!();
        for line in baseline::compare(BENCHMARK, &figures)? {
            println!("{line}");
        }
        if settings.record {
            baseline::record(BENCHMARK, &figures)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
