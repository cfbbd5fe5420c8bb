//! The whole system on private servers: RabbitMQ, Redis, S3, and a process for each role.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use echogen_adapters::{
    S3ObjectStore,
    amqp::{AmqpBroker, AmqpConfig},
};
use echogen_ports::{ObjectKey, ObjectStore};
use echogen_protocol::{Partitions, RoleName};
use echogen_testkit::{RabbitMq, Redis, S3Server};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ledger::{Hearing, Ledger},
    process::RoleProcess,
    role::RoleEnvironment,
};

/// The servers; they are stopped when this is dropped.
#[derive(Debug)]
pub struct Servers {
    /// A single RabbitMQ node.
    pub rabbitmq: RabbitMq,
    /// Redis.
    pub redis: Redis,
    /// The S3 server, which runs in this process.
    pub s3: S3Server,
    /// Partitions of tenants in new environments.
    pub partitions: u16,
}

impl Servers {
    /// Starts all three servers. Two partitions of tenants make few queues, of which each scenario declares its own.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with_s3(S3Server::start().context("start S3")?, 2).await
    }

    /// Starts all three for measuring: S3 keeps its objects in memory.
    pub async fn start_for_measuring() -> anyhow::Result<Self> {
        let partitions = Partitions::default().count();
        Self::with_s3(S3Server::start_in_memory().context("start S3")?, partitions).await
    }

    async fn with_s3(s3: S3Server, partitions: u16) -> anyhow::Result<Self> {
        let redis = Redis::start().context("start Redis")?;
        Ok(Self { rabbitmq: RabbitMq::start().await?, redis, s3, partitions })
    }

    /// Returns a new environment for roles, isolated from all earlier ones.
    pub fn environment(&self) -> RoleEnvironment {
        static LAST: AtomicU32 = AtomicU32::new(0);
        RoleEnvironment {
            amqp_url: self.rabbitmq.amqp_url(),
            prefix: format!("run{}", LAST.fetch_add(1, Ordering::Relaxed)),
            partitions: self.partitions,
            redis_url: self.redis.url(),
            s3_endpoint: self.s3.endpoint(),
            bucket: self.s3.bucket().to_owned(),
            access_key: self.s3.access_key().to_owned(),
            secret_key: self.s3.secret_key().to_owned(),
            delay_ms: 0,
            picture_ms: None,
            task_timeout_seconds: 20.0,
            ports: BTreeMap::new(),
            concurrency: 32,
            stage_limit: 1_000_000,
            certificates: String::new(),
            gateway: None,
        }
    }
}

/// The four roles in one environment, with a producer's broker and a ledger.
#[derive(Debug)]
pub struct System {
    /// The roles' processes.
    pub roles: Vec<RoleProcess>,
    /// The broker connection of the client.
    pub broker: Arc<AmqpBroker>,
    /// The ledger of how jobs ended.
    pub ledger: Ledger,
    environment: RoleEnvironment,
    end: CancellationToken,
}

impl System {
    /// Starts the roles in `environment`. The ledger connects to `ledger_url`, which should bypass any proxy that a
    /// test cuts.
    pub async fn start(environment: &RoleEnvironment, ledger_url: &str) -> anyhow::Result<Self> {
        Self::heard(environment, ledger_url, Hearing::Durable).await
    }

    /// Starts the roles for measuring: the ledger's queue is cheap, and would lose events during an outage.
    pub async fn start_for_measuring(environment: &RoleEnvironment) -> anyhow::Result<Self> {
        Self::heard(environment, &environment.amqp_url, Hearing::Light).await
    }

    /// The same, and the ledger hears of what happens to jobs on the way.
    pub async fn start_with_steps(environment: &RoleEnvironment) -> anyhow::Result<Self> {
        Self::heard(environment, &environment.amqp_url, Hearing::Steps).await
    }

    async fn heard(environment: &RoleEnvironment, ledger_url: &str, hearing: Hearing) -> anyhow::Result<Self> {
        let config = AmqpConfig { url: Some(ledger_url.into()), ..environment.amqp() };
        let broker = Arc::new(AmqpBroker::connect(config).await?);
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let ledger = Ledger::listen(ledger_url, &environment.prefix, hearing, &tasks, &end).await?;
        let roles = RoleName::WORKERS
            .into_iter()
            .map(|name| RoleProcess::start(name, environment))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { roles, broker, ledger, environment: environment.clone(), end })
    }

    /// Waits until `done` or until `limit` has passed, and restarts roles whose processes have died.
    pub async fn until(&self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let began = Instant::now();
        while !done(self) {
            for role in &self.roles {
                role.revive()?;
            }
            if began.elapsed() > limit {
                bail!("after {limit:?} only {} jobs have ended", self.ledger.ended());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Returns how many of these jobs have a result in the store. A job of a gateway, `TENANT.ID`, has it in its tenant's folder.
    pub async fn results(&self, ids: &[String]) -> anyhow::Result<usize> {
        let store = S3ObjectStore::open(self.environment.s3("results/")).await?;
        let mut found = 0;
        for id in ids {
            let folder = id.split_once('.').map(|(tenant, _)| format!("{tenant}/")).unwrap_or_default();
            found += usize::from(store.exists(&ObjectKey::new(format!("{folder}{id}/result.json"))?).await?);
        }
        Ok(found)
    }

    /// Stops all roles and waits for their exits.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.end.cancel();
        // The time covers the roles' grace period, the last events, and the closing of two connections.
        self.roles.iter().try_for_each(|role| role.stop(Duration::from_secs(30)))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
