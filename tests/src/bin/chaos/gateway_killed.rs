//! Gateways are killed in turn, and Redis is flushed, while clients send jobs over HTTP and follow them.
//!
//! Each client does what the page on the API asks for: it sends a request again that broke off, with the same key, to any
//! gateway; and after a break it connects its stream again, to any gateway, and begins with the snapshot.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use echogen_tests::{
    gateways::Gateways,
    http_client::{EventStream, HttpClient},
    producer,
    system::{Servers, System},
};
use http::{Method, StatusCode};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    scenarios::pauses,
    trial::{Tally, Trial},
};

/// Gateways side by side.
const GATEWAYS: usize = 3;

/// Clients at the same time.
const CLIENTS: usize = 12;

/// Jobs that a client sends at least, and at most. In between it goes on for as long as gateways are killed.
const JOBS: (usize, usize) = (10, 100);

/// Gateways that are killed, one after the other.
const KILLS: usize = 9;

/// Timeout of a request with all its repetitions, and of a job.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause before a client tries another gateway.
const PAUSE: Duration = Duration::from_millis(50);

/// What a client saw.
#[derive(Debug, Default)]
struct Seen {
    jobs: Vec<String>,
    /// Requests that were sent again.
    resent: usize,
    /// Streams that broke off before the end of their job.
    broken: usize,
    /// Jobs whose end came as an event, and not in the first snapshot after a break.
    told: usize,
}

/// Every stream ends with the end of its job, and no job is lost or ends twice.
pub(crate) async fn gateway_killed(servers: &Servers) -> anyhow::Result<Tally> {
    let mut environment = servers.environment();
    environment.delay_ms = 30;
    let mut trial = Trial::start(&environment, &environment.amqp_url).await?;
    let gateways = Gateways::new(GATEWAYS)?;
    trial.system.roles.extend(gateways.start(&environment)?);
    let mut all = Seen::default();
    let working = async |system: &System| {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (addresses, key) = (gateways.addresses.clone(), gateways.key.clone());
            clients.spawn(Client { number, addresses, key, seen: Seen::default() }.work(Arc::clone(&is_over)));
        }
        kill_in_turn(system, servers).await?;
        is_over.store(true, Ordering::Relaxed);
        for seen in clients.join_all().await {
            let Seen { jobs, resent, broken, told } = seen?;
            all.jobs.extend(jobs);
            (all.resent, all.broken, all.told) = (all.resent + resent, all.broken + broken, all.told + told);
        }
        Ok(all.jobs.clone())
    };
    let mut tally = trial.run_clients(working).await?;
    let Seen { resent, broken, told, .. } = all;
    tally
        .notes
        .push(format!("{broken} streams broke off, {resent} requests were sent again, {told} ends came as events"));
    if broken == 0 {
        tally.faults.push("no stream broke off, so nothing was tested".to_owned());
    }
    Ok(tally)
}

async fn kill_in_turn(system: &System, servers: &Servers) -> anyhow::Result<()> {
    let first = system.roles.len() - GATEWAYS;
    for (number, pause) in pauses().take(KILLS).enumerate() {
        sleep(pause).await;
        if number == KILLS / 2 {
            servers.redis.flush()?;
        }
        system.roles.get(first + number % GATEWAYS).context("the gateways are the last roles")?.kill_9();
    }
    Ok(())
}

/// A client of all gateways.
struct Client {
    number: usize,
    addresses: Vec<SocketAddr>,
    key: String,
    seen: Seen,
}

impl Client {
    /// Sends one job after the other and follows each to its end.
    async fn work(mut self, is_over: Arc<AtomicBool>) -> anyhow::Result<Seen> {
        for number in 0..JOBS.1 {
            if number >= JOBS.0 && is_over.load(Ordering::Relaxed) {
                break;
            }
            let id = self.submit(number).await?;
            self.follow(&id).await.with_context(|| format!("the stream of {id}"))?;
            self.seen.jobs.push(id);
        }
        Ok(self.seen)
    }

    /// Connects to one gateway after the other, beginning with another one for each client.
    async fn connect(&self, attempt: usize) -> anyhow::Result<HttpClient> {
        let at = (self.number + attempt) % self.addresses.len();
        HttpClient::connect(*self.addresses.get(at).context("there are gateways")?, &self.key).await
    }

    /// Sends a job until a gateway has it; returns its id.
    async fn submit(&mut self, number: usize) -> anyhow::Result<String> {
        let key = format!("order-{}-{number}", self.number);
        let mut job = serde_json::to_value(producer::job("", number as u64 / 3, "a dog on a beach"))?;
        job.as_object_mut().and_then(|fields| fields.remove("id")).context("a job has an id")?;
        let body = Bytes::from(serde_json::to_vec(&job)?);
        let began = Instant::now();
        for attempt in 0.. {
            ensure!(began.elapsed() < PATIENCE, "the job {key} cannot be sent");
            self.seen.resent += usize::from(attempt > 0);
            let headers = [("content-type", "application/json"), ("idempotency-key", &key)];
            let sending = async {
                let mut client = self.connect(number + attempt).await?;
                client.send(Method::POST, "/v1/jobs", &headers, body.clone()).await
            };
            let Ok(answer) = sending.await else {
                sleep(PAUSE).await;
                continue;
            };
            if let Some(wait) = answer.retry_after() {
                sleep(wait).await;
                continue;
            }
            ensure!(answer.status.is_success(), "the job {key} was answered by {}", answer.status);
            return Ok(answer.json()?["id"].as_str().context("the answer has an id")?.to_owned());
        }
        bail!("the job {key} was never sent")
    }

    /// Follows a job's events until its end.
    async fn follow(&mut self, id: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        for attempt in 0.. {
            ensure!(began.elapsed() < PATIENCE, "the end of the job does not come");
            let opening = async { self.connect(attempt).await?.follow(&format!("/v1/jobs/{id}/events")).await };
            match opening.await {
                Ok(Ok(stream)) => match self.read(id, stream).await? {
                    true => return Ok(()),
                    false => self.seen.broken += 1,
                },
                // A request is refused for a while if a server is away, never because a gateway does not know the job.
                Ok(Err(status)) => ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "refused by {status}"),
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
        bail!("the job was never followed")
    }

    /// Reads a stream until the end of its job (true) or of the connection (false).
    async fn read(&mut self, id: &str, mut stream: EventStream) -> anyhow::Result<bool> {
        let mut begun = false;
        loop {
            let Ok(Some(event)) = stream.next().await else { return Ok(false) };
            ensure!(begun || event.name == "snapshot", "a stream begins with {}", event.name);
            let is_first = !std::mem::replace(&mut begun, true);
            match event.data["status"].as_str() {
                Some("completed") => {
                    let (job, pictures) = (&event.data["id"], event.data["images"].as_array().map(Vec::len));
                    ensure!(job.as_str() == Some(id) && pictures == Some(1), "a wrong end: {}", event.data);
                    self.seen.told += usize::from(!is_first);
                    let last = stream.next().await;
                    ensure!(!matches!(last, Ok(Some(_))), "something follows the end: {last:?}");
                    return Ok(true);
                }
                Some("queued" | "running") => {}
                other => bail!("the job is {other:?}: {}", event.data),
            }
        }
    }
}
