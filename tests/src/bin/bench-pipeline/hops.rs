//! Where the time of a single job goes: a table of every stage and step, on real servers and an idle system.
//!
//! The roles run in this process, each with its own connections, on ports that measure their calls. The same code runs
//! with the plain ports otherwise, so the instruments cost nothing there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::ensure;
use echogen_adapters::{ImageFetchers, RedisCache, S3ObjectStore, amqp::AmqpBroker};
use echogen_ports::{Broker, EventStream, Message};
use echogen_protocol::{Job, RoleName, StageName, StageTask};
use echogen_service::{Backends, work};
use echogen_tests::{
    constant, producer,
    role::RoleEnvironment,
    system::Servers,
    timed::{BACKGROUND, Measured, PARSE, RECEIVE, Stopwatch, TASK, Timed},
};
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{LIMIT, SINGLE};

/// Jobs before the measurement.
const WARM_UP: usize = 20;

/// Prints the tables of new and of known subjects.
pub(crate) async fn report(servers: &Servers) -> anyhow::Result<()> {
    let environment = servers.environment();
    let stopwatch = Stopwatch::default();
    let (tracker, end) = (TaskTracker::new(), CancellationToken::new());
    for role in RoleName::WORKERS {
        start(role, &environment, &stopwatch, &tracker, &end).await?;
    }
    let client = AmqpBroker::connect(environment.amqp()).await?;
    let mut ends = client.subscribe("job.completed").await?;
    for index in 0..WARM_UP {
        run(&client, &mut *ends, &stopwatch, &job("warm", index, index as u64)).await?;
    }
    for (name, known) in [("new subjects", false), ("known subjects", true)] {
        drop(stopwatch.take());
        for index in 0..SINGLE {
            let subject = if known { index % WARM_UP } else { 1_000 + index };
            run(&client, &mut *ends, &stopwatch, &job(name, index, subject as u64)).await?;
        }
        println!("\n{name}: microseconds for each job, one job at a time");
        print(&stopwatch.take());
    }
    end.cancel();
    tracker.close();
    timeout(LIMIT, tracker.wait()).await?;
    Ok(())
}

async fn start(
    role: RoleName,
    environment: &RoleEnvironment,
    stopwatch: &Stopwatch,
    tracker: &TaskTracker,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    let (config, stage) = (environment.config(), role.stages().first().copied().unwrap_or(StageName::Dispatcher));
    let broker = Timed::new(AmqpBroker::connect(environment.amqp()).await?, stage, stopwatch);
    let cache = Timed::new(RedisCache::open(config.cache.redis.clone())?, stage, stopwatch);
    let store = async |part| {
        let store = S3ObjectStore::open(environment.s3(part)).await?;
        anyhow::Ok(Arc::new(Timed::new(store, stage, stopwatch)))
    };
    let (products, results) = (store("work/").await?, store("results/").await?);
    let fetcher = Arc::new(ImageFetchers::new());
    let backends = Backends::new(Arc::new(broker), Arc::new(cache), products, results, fetcher, tracker);
    let (networks, end) = (constant::networks(Duration::ZERO), end.clone());
    tracker.spawn(async move {
        if let Err(failure) = work(&[role], &networks, &backends, &config, &end).await {
            eprintln!("the {role} has ended: {failure:?}");
        }
    });
    Ok(())
}

fn job(name: &str, index: usize, subject: u64) -> Job {
    producer::job(&format!("{}-{index}", name.replace(' ', "-")), subject, "a dog on a beach")
}

async fn run(client: &AmqpBroker, ends: &mut dyn EventStream, stopwatch: &Stopwatch, job: &Job) -> anyhow::Result<()> {
    let message = Message::of_job(job, Timestamp::now());
    stopwatch.publishes(&job.queue(), &message);
    client.publish(&job.queue(), message).await?;
    loop {
        let event = timeout(LIMIT, ends.next()).await?;
        ensure!(event.is_some(), "the events have ended");
        if event.and_then(|event| event.to_job()).is_some_and(|event| event.subject == job.id) {
            return Ok(());
        }
    }
}

fn print(steps: &BTreeMap<(StageName, &'static str), Measured>) {
    println!("{:12} {:24} {:>8} {:>8} {:>8} {:>8}", "stage", "step", "calls", "median", "time", "busy");
    for stage in StageName::ALL {
        let of_stage = || steps.iter().filter(move |((of, _), _)| *of == stage);
        let time = |name: &str| {
            of_stage()
                .filter(|((_, step), _)| *step == name)
                .map(|(_, measured)| per_job(measured.calls.iter().sum()))
                .sum()
        };
        for ((_, step), measured) in of_stage().filter(|((_, step), _)| *step != TASK) {
            line(stage, step, measured);
        }
        let apart = [TASK, RECEIVE, PARSE, "ack", BACKGROUND[0], BACKGROUND[1]];
        let within: f64 =
            of_stage().filter(|((_, step), _)| !apart.contains(step)).map(|((_, step), _)| -> f64 { time(step) }).sum();
        let task: f64 = time(TASK);
        if task > 0.0 {
            println!("{:12} {:24} {:8} {:8} {:8.0}", stage.as_str(), "own work, parse included", "", "", task - within);
        }
    }
}

fn line(stage: StageName, step: &str, Measured { calls, busy }: &Measured) {
    let mut sorted = calls.clone();
    sorted.sort();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e6;
    let (count, time, busy) = (calls.len() as f64 / SINGLE as f64, per_job(calls.iter().sum()), per_job(*busy));
    println!("{:12} {step:24} {count:8.2} {median:8.0} {time:8.0} {busy:8.0}", stage.as_str());
}

/// Microseconds for each job.
fn per_job(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6 / SINGLE as f64
}
