//! The gateway's memory: with open streams, and over many requests.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use bytes::Bytes;
use echogen_adapters::amqp::AmqpBroker;
use echogen_tests::{
    baseline::Figure,
    http_client::{EventStream, HttpClient},
    producer,
    system::Servers,
};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    Settings,
    fleet::{AsyncRequest, Fleet, Gateway, body_of, send},
};

/// Streams that are opened at the same time.
const OPENED_AT_ONCE: usize = 64;

/// Parts in which many requests are made; the memory is read after each.
const PARTS: usize = 10;

/// Number of subjects.
const SUBJECTS: u64 = 50;

/// Sends jobs and keeps their ids.
struct Keep {
    body: Bytes,
    ids: Arc<Mutex<Vec<String>>>,
}

impl AsyncRequest for Keep {
    async fn make(&self, client: &mut HttpClient, _: usize) -> anyhow::Result<()> {
        let answer = send(client, self.body.clone()).await?;
        ensure!(answer.status.is_success(), "a job was answered by {}", answer.status);
        let id = answer.json()?["id"].as_str().context("the answer has an id")?.to_owned();
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        Ok(())
    }
}

/// Opens a stream of each of many jobs that wait, and prints what the gateway's memory is then.
pub(crate) async fn streams(servers: &Servers, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    // No role runs, so the jobs wait; the queues are there.
    let environment = servers.environment();
    let broker = AmqpBroker::connect(environment.amqp()).await?;
    let gateway = Gateway::start(&environment).await?;
    let ids = Arc::new(Mutex::default());
    let body = body_of(&producer::job("", 1, "a dog on a beach"))?;
    gateway.at_once(settings.connections, settings.streams, Keep { body, ids: Arc::clone(&ids) }).await?;
    let before = gateway.process.resident_mib();
    let ids: Vec<String> = std::mem::take(&mut *ids.lock().unwrap_or_else(PoisonError::into_inner));
    let opening = stream::iter(ids).map(|id| open(&gateway, id)).buffer_unordered(OPENED_AT_ONCE);
    let open: Vec<EventStream> = opening.try_collect().await?;
    let after = gateway.process.resident_mib();
    println!("| resident memory with {} idle streams, MiB ({before:.0} before) | {after:.0} | 200 |", open.len());
    drop(open);
    gateway.process.stop(std::time::Duration::from_secs(30))?;
    broker.close().await;
    Ok(vec![Figure { name: "streams-mib", value: after }])
}

async fn open(gateway: &Gateway, id: String) -> anyhow::Result<EventStream> {
    let opened = gateway.connect().await?.follow(&format!("/v1/jobs/{id}/events")).await?;
    let mut stream = opened.map_err(|status| anyhow::anyhow!("the stream was refused by {status}"))?;
    let first = stream.next().await?.context("a stream begins with an event")?;
    ensure!(first.name == "snapshot", "a stream begins with {}", first.name);
    Ok(stream)
}

/// Requests of all kinds: every tenth sends a job, the others look at one, at the list, at the limits, and fetch a picture.
struct Mixed {
    bodies: Vec<Bytes>,
    newest: Mutex<Vec<String>>,
}

impl Mixed {
    fn new() -> anyhow::Result<Self> {
        let body = |subject| body_of(&producer::job("", subject, "a dog on a beach"));
        Ok(Self { bodies: (0..SUBJECTS).map(body).collect::<anyhow::Result<_>>()?, newest: Mutex::default() })
    }

    async fn submit(&self, client: &mut HttpClient, number: usize) -> anyhow::Result<()> {
        let body = self.bodies.get(number % self.bodies.len()).context("there is a body")?;
        let answer = send(client, body.clone()).await?;
        ensure!(answer.status.is_success(), "a job was answered by {}", answer.status);
        let id = answer.json()?["id"].as_str().context("the answer has an id")?.to_owned();
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.push(id);
        if newest.len() > 1_000 {
            newest.drain(..500);
        }
        Ok(())
    }

    /// One of the newest jobs, but none that was just sent.
    fn some_job(&self) -> Option<String> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.get(newest.len() / 2).cloned()
    }
}

impl AsyncRequest for Mixed {
    async fn make(&self, client: &mut HttpClient, number: usize) -> anyhow::Result<()> {
        let path = match (number % 10, self.some_job()) {
            (0, _) | (_, None) => return self.submit(client, number).await,
            (1..=4, Some(id)) => format!("/v1/jobs/{id}"),
            (5 | 6, Some(id)) => format!("/v1/jobs/{id}/images/0?redirect=false"),
            (7, _) => "/v1/jobs?limit=5".to_owned(),
            _ => "/v1/limits".to_owned(),
        };
        let answer = client.get(&path).await?;
        // A picture may not be there yet.
        let is_good = answer.status.is_success() || (path.contains("/images/") && answer.status.as_u16() == 404);
        ensure!(is_good, "{path} was answered by {}", answer.status);
        Ok(())
    }
}

/// Makes many requests, and prints the gateway's memory after each tenth of them.
pub(crate) async fn requests(servers: &Servers, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let fleet = Fleet::start(&servers.environment()).await?;
    let (mut resident, part) = (Vec::new(), settings.requests / PARTS);
    for _ in 0..PARTS {
        fleet.gateway.at_once(settings.connections, part, Mixed::new()?).await?;
        resident.push(fleet.gateway.process.resident_mib());
    }
    ensure!(fleet.gateway.process.starts() == 1, "the gateway died");
    let shown: Vec<String> = resident.iter().map(|mib| format!("{mib:.0}")).collect();
    let (half, last) = (resident.get(PARTS / 2 - 1), resident.last());
    let growth = last.copied().unwrap_or(f64::NAN) / half.copied().unwrap_or(f64::NAN);
    println!("| resident memory after each tenth of {} requests, MiB | {} | |", settings.requests, shown.join(", "));
    println!("| of that, the last to the fifth | {growth:.2} | 1.05 |");
    fleet.stop()?;
    Ok(vec![Figure { name: "memory-growth", value: growth }])
}
