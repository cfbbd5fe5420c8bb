//! Tests that no job is lost or ends twice: `cargo run --release -p echogen-tests --bin chaos [-- SCENARIO ...]`.
//!
//! Every scenario starts the four roles as processes on private RabbitMQ, Redis and S3 servers, sends jobs, injects a
//! fault, and then counts: jobs sent, results in the store, completion events, jobs that ended twice, jobs that never
//! ended. The exit code is 1 if any job was lost or ended twice. `CHAOS_BACKLOG=20000` makes the neighbour of `noisy-neighbour`
//! noisier.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

mod clients_queues;
mod gateway_killed;
mod noisy_neighbour;
mod scenarios;
mod trial;

use std::process::ExitCode;

use echogen_tests::{role, system::Servers};
use scenarios::SCENARIOS;

fn main() -> ExitCode {
    role::main(|names| Ok(if run(names)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// Runs the named scenarios, or all; returns whether no job was lost or ended twice.
fn run(names: &[String]) -> anyhow::Result<bool> {
    if let Some(unknown) = names.iter().find(|name| SCENARIOS.iter().all(|(known, _)| known != name)) {
        let known: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        anyhow::bail!("no scenario is called {unknown:?}; there are {}", known.join(", "));
    }
    let chosen = || SCENARIOS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|asked| asked == name));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut servers = Servers::start().await?;
        let (mut lost, mut doubled, mut jobs) = (0, 0, 0);
        let mut clean = true;
        for (name, scenario) in chosen() {
            let tally = scenario(&mut servers).await?;
            println!("{name:28} {tally}");
            (lost, doubled, jobs) = (lost + tally.lost, doubled + tally.doubled, jobs + tally.jobs);
            clean &= tally.faults.is_empty();
            for fault in tally.notes.iter().chain(&tally.faults) {
                println!("  {fault}");
            }
        }
        println!("lost {lost}, doubled {doubled} of {jobs} jobs in {} scenarios", chosen().count());
        Ok(clean && lost == 0 && doubled == 0)
    })
}
