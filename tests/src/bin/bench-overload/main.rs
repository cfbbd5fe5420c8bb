//! Measures the goodput under overload: `cargo run --release -p echogen-tests --bin bench-overload [-- --help]`.
//!
//! It starts private RabbitMQ, Redis and S3 servers and the four roles as processes. The sampler's network is a simulated
//! device that takes a known time for each picture, so the capacity is known, and small enough to be exceeded on two
//! cores. Each load has an installation of its own and offers jobs of 1 to 64 pictures in all lanes at an even rate,
//! whatever comes of them. Goodput is what the jobs contain that were completed while the load lasted.
//!
//! The exit code is 1 if the goodput at the highest load is below 0.95 of that at the load nearest to capacity, or if a
//! job was parked or failed.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

mod load;
mod report;

use std::process::ExitCode;

use clap::Parser;
use echogen_tests::{role, system::Servers};

use load::Settings;

fn main() -> ExitCode {
    role::main(|_| measure(&Settings::parse()))
}

fn measure(settings: &Settings) -> anyhow::Result<ExitCode> {
    settings.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        println!("{settings}");
        let servers = Servers::start_for_measuring().await?;
        let mut reports = Vec::new();
        for load in &settings.loads {
            let report = load::run(&servers, settings, *load).await?;
            println!("{report}");
            reports.push(report);
        }
        let verdict = report::verdict(&reports);
        println!("{verdict}");
        Ok(if verdict.holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
