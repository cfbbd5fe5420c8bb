//! A role as it runs in a process of its own: where its servers are, and the worker on them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use echogen_adapters::{
    CallbackConfig, HttpCallbackSender, ImageFetchers, RedisCache, RedisConfig, S3Config, S3ObjectStore,
    amqp::{AmqpBroker, AmqpConfig},
};
use echogen_cli::service::{Backends, Role};
use echogen_ports::{ObjectKey, ObjectStore};
use echogen_protocol::JobResult;
use echogen_sampler::ScaleEvents;
use echogen_segmenter::GivenBox;
use echogen_worker::{Backoff, LaneWeights, WorkerConfig};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    callback_server::trusting,
    constant::{Constant, subject_keys},
};

/// The first argument of a process that is to be a role; its place in the system follows, as JSON.
pub const ROLE_ARGUMENT: &str = "run-role";

/// What callbacks are signed with.
pub const CALLBACK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Largest picture of a subject.
const MAX_IMAGE_BYTES: u64 = 1 << 20;

/// Bytes of a result.
const MAX_RESULT_BYTES: u64 = 1 << 20;

/// Where a role works.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// RabbitMQ.
    pub amqp_url: String,
    /// What the names of its queues begin with.
    pub prefix: String,
    /// Redis.
    pub redis_url: String,
    /// The S3 server.
    pub s3_endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The keys to it.
    pub access_key: String,
    /// Their secret.
    pub secret_key: String,
    /// Milliseconds that each answer of a network takes.
    pub delay_ms: u64,
    /// Tasks at work at once.
    pub concurrency: u16,
    /// Messages that a stage's queue holds.
    pub stage_limit: u32,
    /// Certificates of servers on this machine that are called back, as PEM text.
    pub certificates: String,
}

/// The four roles, in the order of a job's way.
pub const ROLES: [&str; 4] = ["dispatcher", "segmenter", "encoder", "sampler"];

impl Place {
    /// The broker's settings.
    pub fn amqp(&self) -> AmqpConfig {
        let (prefix, stage_max_messages) = (self.prefix.clone(), self.stage_limit);
        AmqpConfig { prefix, stage_max_messages, ..AmqpConfig::at(self.amqp_url.as_str()) }
    }

    /// The settings of the store below `part`, `results/` or `work/`.
    pub fn s3(&self, part: &str) -> S3Config {
        S3Config {
            endpoint: Some(self.s3_endpoint.clone()),
            bucket: self.bucket.clone(),
            prefix: format!("{}/{part}", self.prefix),
            access_key_id: Some(self.access_key.as_str().into()),
            secret_access_key: Some(self.secret_key.as_str().into()),
            ..S3Config::default()
        }
    }

    /// The result of a job that has ended.
    pub async fn result(&self, id: &str) -> anyhow::Result<JobResult> {
        let store = S3ObjectStore::open(self.s3("results/")).await?;
        let bytes = store.get(&ObjectKey::new(format!("{id}/result.json"))?, MAX_RESULT_BYTES).await?;
        Ok(serde_json::from_slice(&bytes.with_context(|| format!("the job {id} has no result"))?)?)
    }

    async fn backends(&self, tracker: &TaskTracker) -> anyhow::Result<Backends> {
        // A role that starts while its broker is away waits for it, as one in a cluster would be started again.
        let broker = AmqpBroker::new(self.amqp())?;
        let redis = RedisConfig { prefix: format!("{}:", self.prefix), ..RedisConfig::at(self.redis_url.as_str()) };
        let cache = RedisCache::open(redis)?;
        let (work, results) =
            (S3ObjectStore::open(self.s3("work/")).await?, S3ObjectStore::open(self.s3("results/")).await?);
        let fetcher = Arc::new(ImageFetchers::new());
        Ok(Backends::new(Arc::new(broker), Arc::new(cache), Arc::new(work), Arc::new(results), fetcher, tracker))
    }

    fn callback_sender(&self) -> anyhow::Result<HttpCallbackSender> {
        let secret = Some(CALLBACK_SECRET.into());
        Ok(HttpCallbackSender::new(CallbackConfig { secret, ..trusting(&self.certificates) })?)
    }

    fn worker(&self) -> WorkerConfig {
        WorkerConfig {
            concurrency: self.concurrency,
            // Outages of 20 seconds are part of the trial; what is parked would have to be redriven by hand.
            max_attempts: 12,
            task_timeout_seconds: 20.0,
            grace_seconds: 10.0,
            backoff: Backoff { first_seconds: 0.25, factor: 2.0, max_seconds: 8.0 },
            ..WorkerConfig::default()
        }
    }
}

/// Runs a role until SIGTERM. `arguments` are what follows [`ROLE_ARGUMENT`]: its name and its place.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [name, place] = arguments else { bail!("a role takes its name and its place") };
    let place: Place = serde_json::from_str(place).context("the place of a role is JSON")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let tracker = TaskTracker::new();
        let backends = place.backends(&tracker).await?;
        let networks = Arc::new(Constant::taking(Duration::from_millis(place.delay_ms)));
        let roles = match name.as_str() {
            "dispatcher" => vec![
                Role::Dispatcher(subject_keys(), LaneWeights::default()),
                Role::Notifier(Arc::new(place.callback_sender()?)),
            ],
            "segmenter" => vec![Role::Segmenter(Arc::new(GivenBox))],
            "encoder" => vec![Role::Encoder(subject_keys(), networks)],
            "sampler" => vec![Role::Sampler(networks, ScaleEvents::Off)],
            other => bail!("no role is called {other:?}"),
        };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        tracker.spawn(async move {
            if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                terminate.recv().await;
            }
            stop.cancel();
        });
        let running =
            roles.into_iter().map(|role| role.run(&backends, place.worker(), MAX_IMAGE_BYTES, shutdown.clone()));
        try_join_all(running).await?;
        Ok(())
    })
}
