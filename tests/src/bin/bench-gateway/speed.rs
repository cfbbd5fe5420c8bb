//! Jobs a second over HTTP and over AMQP, and the time of a single request.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use echogen_protocol::Job;
use echogen_tests::{baseline::Figure, producer, system::Servers};

use crate::{
    Settings,
    fleet::{Fleet, LIMIT, SendJobs, body_of, send},
};

/// Number of subjects of the load with known subjects.
const KNOWN: u64 = 50;

/// The least share of AMQP's speed.
const TARGET_RATIO: f64 = 0.7;

/// Of one kind of subjects, each round: jobs a second, and CPU seconds per 1,000 jobs of roles and gateway together.
#[derive(Default)]
struct Rounds {
    amqp: Vec<(f64, f64)>,
    http: Vec<(f64, f64)>,
}

/// Prints the speeds; returns the ratios.
pub(crate) async fn compare(servers: &Servers, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, ratio_name, known) in
        [("new", "ratio-new-subjects", None), ("known", "ratio-known-subjects", Some(KNOWN))]
    {
        let mut rounds = Rounds::default();
        for round in 0..settings.rounds {
            one_round(servers, settings, known, round % 2 == 1, &mut rounds).await?;
        }
        let [amqp, http] = [&rounds.amqp, &rounds.http].map(|rounds| medians(rounds));
        let ratio = http.0 / amqp.0;
        println!("| {name} subjects, AMQP, jobs/s (CPU s per 1,000) | {:.0} ({:.2}) | |", amqp.0, amqp.1);
        println!("| {name} subjects, HTTP, jobs/s (CPU s per 1,000) | {:.0} ({:.2}) | |", http.0, http.1);
        println!("| {name} subjects, ratio of HTTP to AMQP | {ratio:.2} | {TARGET_RATIO:.2} |");
        figures.push(Figure { name: ratio_name, value: ratio });
    }
    Ok(figures)
}

/// Measures both ways on one system. Subjects that are to be known are sent first.
async fn one_round(
    servers: &Servers,
    settings: &Settings,
    known: Option<u64>,
    http_first: bool,
    rounds: &mut Rounds,
) -> anyhow::Result<()> {
    let fleet = Fleet::start(&servers.environment()).await?;
    let load = |way: u64| -> Vec<Job> {
        let subject = |index: u64| known.map_or(1_000_000 * way + 1_000 + index, |known| 1_000 + index % known);
        let job = |index| producer::job(&format!("way{way}-{index}"), subject(index), "a dog on a beach");
        (0..settings.jobs as u64).map(job).collect()
    };
    let first: Vec<Job> = load(3).into_iter().take(known.map_or(0, |known| known as usize)).collect();
    over_amqp(&fleet, first.clone()).await?;
    over_http(&fleet, settings.connections, &first).await?;
    for is_http in [http_first, !http_first] {
        let jobs = load(u64::from(is_http));
        let before = cpu_seconds(&fleet);
        let began = Instant::now();
        match is_http {
            true => over_http(&fleet, settings.connections, &jobs).await?,
            false => over_amqp(&fleet, jobs).await?,
        }
        let count = settings.jobs as f64;
        let measured = (count / began.elapsed().as_secs_f64(), (cpu_seconds(&fleet) - before) * 1_000.0 / count);
        if is_http { &mut rounds.http } else { &mut rounds.amqp }.push(measured);
    }
    ensure!(fleet.gateway.process.starts() == 1, "the gateway died under load");
    fleet.stop()
}

async fn over_amqp(fleet: &Fleet, jobs: Vec<Job>) -> anyhow::Result<()> {
    let due = fleet.system.ledger.ended() + jobs.len();
    producer::send_all(&fleet.system.broker, jobs, Duration::ZERO).await?;
    fleet.system.until(LIMIT, |system| system.ledger.ended() >= due).await
}

async fn over_http(fleet: &Fleet, connections: usize, jobs: &[Job]) -> anyhow::Result<()> {
    let due = fleet.system.ledger.ended() + jobs.len();
    let bodies: Vec<Bytes> = jobs.iter().map(body_of).collect::<anyhow::Result<_>>()?;
    fleet.gateway.at_once(connections, jobs.len(), SendJobs(bodies)).await?;
    fleet.system.until(LIMIT, |system| system.ledger.ended() >= due).await
}

fn cpu_seconds(fleet: &Fleet) -> f64 {
    fleet.system.roles.iter().chain([&fleet.gateway.process]).map(|role| role.cpu_seconds()).sum()
}

fn medians(rounds: &[(f64, f64)]) -> (f64, f64) {
    let median = |values: Vec<f64>| quantile(values, 0.5);
    (median(rounds.iter().map(|round| round.0).collect()), median(rounds.iter().map(|round| round.1).collect()))
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

/// Prints the milliseconds from a request to its answer, of jobs of new subjects, one job at a time; returns p50 and p99.
pub(crate) async fn latency(servers: &Servers, count: usize) -> anyhow::Result<Vec<Figure>> {
    let fleet = Fleet::start(&servers.environment()).await?;
    let mut client = fleet.gateway.connect().await?;
    let mut times = Vec::with_capacity(count);
    for index in 0..count {
        let body = body_of(&producer::job("", index as u64 + 100, "a dog on a beach"))?;
        let (due, began) = (fleet.system.ledger.ended() + 1, Instant::now());
        let answer = send(&mut client, body).await?;
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
        ensure!(answer.status.is_success(), "a job was answered by {}", answer.status);
        fleet.system.until(LIMIT, |system| system.ledger.ended() >= due).await?;
    }
    fleet.stop()?;
    let [p50, p99] = [0.5, 0.99].map(|share| quantile(times.clone(), share));
    println!("| POST /v1/jobs, idle, p50, ms | {p50:.1} | 5 |\n| POST /v1/jobs, idle, p99, ms | {p99:.1} | 25 |");
    Ok(vec![Figure { name: "post-p50-ms", value: p50 }, Figure { name: "post-p99-ms", value: p99 }])
}
