//! The roles with a gateway beside them, and clients of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use echogen_protocol::Job;
use echogen_tests::{
    gateways::Gateways,
    http_client::{Answer, HttpClient},
    process::RoleProcess,
    producer,
    role::RoleEnvironment,
    system::System,
};
use http::Method;
use tokio::{task::JoinSet, time::Instant};

/// Timeout of one measurement.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// Roles and a gateway that have each done a job.
pub(crate) struct Fleet {
    pub(crate) system: System,
    pub(crate) gateway: Gateway,
}

impl Fleet {
    pub(crate) async fn start(environment: &RoleEnvironment) -> anyhow::Result<Self> {
        let system = System::start_for_measuring(environment).await?;
        let fleet = Self { system, gateway: Gateway::start(environment).await? };
        for index in 0..8 {
            let body = body_of(&producer::job(&format!("warm-{index}"), index, "a dog"))?;
            let answer = send(&mut fleet.gateway.connect().await?, body).await?;
            ensure!(answer.status.is_success(), "a job was answered by {}", answer.status);
        }
        fleet.system.until(LIMIT, |system| system.ledger.ended() == 8).await?;
        Ok(fleet)
    }

    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        self.gateway.process.stop(Duration::from_secs(30))?;
        self.system.stop()
    }
}

/// A gateway's process.
pub(crate) struct Gateway {
    pub(crate) process: RoleProcess,
    pub(crate) at: Gateways,
}

impl Gateway {
    /// Starts it and waits until it answers.
    pub(crate) async fn start(environment: &RoleEnvironment) -> anyhow::Result<Self> {
        let at = Gateways::new(1)?;
        let process = at.start(environment)?.pop().context("there is one gateway")?;
        let gateway = Self { process, at };
        let began = Instant::now();
        while gateway.connect().await.is_err() {
            ensure!(began.elapsed() < LIMIT, "the gateway does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(gateway)
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<HttpClient> {
        HttpClient::connect(*self.at.addresses.first().context("there is one address")?, &self.at.key).await
    }

    /// Runs `request` for every number below `count`, over this many connections at once; each takes the next number when it is
    /// done with one.
    pub(crate) async fn at_once<F>(&self, connections: usize, count: usize, request: F) -> anyhow::Result<()>
    where
        F: AsyncRequest,
    {
        let (next, request) = (Arc::new(AtomicUsize::new(0)), Arc::new(request));
        let mut running = JoinSet::new();
        for _ in 0..connections {
            let (mut client, next, request) = (self.connect().await?, Arc::clone(&next), Arc::clone(&request));
            running.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return anyhow::Ok(());
                    }
                    request.make(&mut client, number).await?;
                }
            });
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// What is done for each number.
pub(crate) trait AsyncRequest: Send + Sync + 'static {
    fn make(&self, client: &mut HttpClient, number: usize) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Sends the job of each number.
pub(crate) struct SendJobs(pub(crate) Vec<Bytes>);

impl AsyncRequest for SendJobs {
    async fn make(&self, client: &mut HttpClient, number: usize) -> anyhow::Result<()> {
        let answer = send(client, self.0.get(number).context("there is a job")?.clone()).await?;
        ensure!(answer.status.is_success(), "a job was answered by {}", answer.status);
        Ok(())
    }
}

/// Sends a job.
pub(crate) async fn send(client: &mut HttpClient, body: Bytes) -> anyhow::Result<Answer> {
    client.send(Method::POST, "/v1/jobs", &[("content-type", "application/json")], body).await
}

/// A job as a client sends it: without an id.
pub(crate) fn body_of(job: &Job) -> anyhow::Result<Bytes> {
    let mut job = serde_json::to_value(job)?;
    job.as_object_mut().and_then(|fields| fields.remove("id")).context("a job has an id")?;
    Ok(serde_json::to_vec(&job)?.into())
}
