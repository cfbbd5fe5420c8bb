//! The whole system on private servers: RabbitMQ, Redis, S3, and a process for each role.

use std::{
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
use echogen_protocol::RoleName;
use echogen_testkit::{RabbitMq, Redis, S3Server};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ledger::{Hearing, Ledger},
    process::RoleProcess,
    role::RoleEnvironment,
};

/// The servers; they end with this.
#[derive(Debug)]
pub struct Servers {
    /// RabbitMQ of one node.
    pub rabbitmq: RabbitMq,
    /// Redis.
    pub redis: Redis,
    /// S3, in this process.
    pub s3: S3Server,
}

impl Servers {
    /// Starts all three.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with_s3(S3Server::start().context("start S3")?).await
    }

    /// The same for measuring: S3 keeps its objects in memory.
    pub async fn start_for_measuring() -> anyhow::Result<Self> {
        Self::with_s3(S3Server::start_in_memory().context("start S3")?).await
    }

    async fn with_s3(s3: S3Server) -> anyhow::Result<Self> {
        let redis = Redis::start().context("start Redis")?;
        Ok(Self { rabbitmq: RabbitMq::start().await?, redis, s3 })
    }

    /// An environment for roles, apart from all earlier ones.
    pub fn environment(&self) -> RoleEnvironment {
        static LAST: AtomicU32 = AtomicU32::new(0);
        RoleEnvironment {
            amqp_url: self.rabbitmq.amqp_url(),
            prefix: format!("run{}", LAST.fetch_add(1, Ordering::Relaxed)),
            redis_url: self.redis.url(),
            s3_endpoint: self.s3.endpoint(),
            bucket: self.s3.bucket().to_owned(),
            access_key: self.s3.access_key().to_owned(),
            secret_key: self.s3.secret_key().to_owned(),
            delay_ms: 0,
            concurrency: 32,
            stage_limit: 1_000_000,
            certificates: String::new(),
        }
    }
}

/// The four roles in one environment, with a producer's broker and a ledger.
#[derive(Debug)]
pub struct System {
    /// The roles' processes.
    pub roles: Vec<RoleProcess>,
    /// For a client.
    pub broker: Arc<AmqpBroker>,
    /// How jobs ended.
    pub ledger: Ledger,
    environment: RoleEnvironment,
    end: CancellationToken,
}

impl System {
    /// Starts the roles in `environment`; the ledger listens by `ledger_url`, which no proxy should cut.
    pub async fn start(environment: &RoleEnvironment, ledger_url: &str) -> anyhow::Result<Self> {
        Self::heard(environment, ledger_url, Hearing::Durable).await
    }

    /// The same for measuring: the ledger costs as little as it can, and an outage would lose it events.
    pub async fn start_for_measuring(environment: &RoleEnvironment) -> anyhow::Result<Self> {
        Self::heard(environment, &environment.amqp_url, Hearing::Light).await
    }

    async fn heard(environment: &RoleEnvironment, ledger_url: &str, hearing: Hearing) -> anyhow::Result<Self> {
        let config = AmqpConfig { url: Some(ledger_url.into()), ..environment.amqp() };
        let broker = Arc::new(AmqpBroker::connect(config).await?);
        let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
        let ledger = Ledger::listen(ledger_url, &environment.prefix, hearing, &tasks, &end);
        let roles = RoleName::ALL
            .into_iter()
            .map(|name| RoleProcess::start(name, environment))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { roles, broker, ledger, environment: environment.clone(), end })
    }

    /// Waits until `done` or until `limit` is over, starting roles again that have died.
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

    /// Which of these jobs have a result in the store.
    pub async fn results(&self, ids: &[String]) -> anyhow::Result<usize> {
        let store = S3ObjectStore::open(self.environment.s3("results/")).await?;
        let mut found = 0;
        for id in ids {
            found += usize::from(store.exists(&ObjectKey::new(format!("{id}/result.json"))?).await?);
        }
        Ok(found)
    }

    /// Asks all roles to stop, and waits.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.end.cancel();
        // Their grace, their last words, and two connections that are closed.
        self.roles.iter().try_for_each(|role| role.stop(Duration::from_secs(30)))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.end.cancel();
    }
}
