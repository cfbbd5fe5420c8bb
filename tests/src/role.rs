//! A role as it runs in a process of its own: the service's own entry, with constant networks.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use echogen_adapters::{CallbackConfig, S3Config, S3ObjectStore, amqp::AmqpConfig};
use echogen_ports::{Backoff, ObjectKey, ObjectStore};
use echogen_protocol::{JobResult, RoleName};
use echogen_service::{
    Exit, block_on,
    config::{Listen, RoleConcurrency, ServiceConfig},
    with_deep_stacks,
};
use echogen_telemetry::{LogFormat, Options};
use echogen_worker::WorkerConfig;
use serde::{Deserialize, Serialize};

use crate::{callback_server::trusting, constant};

/// The first argument of a process that is to be a role; its environment follows, as JSON.
pub const ROLE_ARGUMENT: &str = "run-role";

/// What callbacks are signed with.
pub const CALLBACK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Log lines of the roles on standard error, such as `warn`; otherwise they say nothing.
pub(crate) const LOG_VARIABLE: &str = "ROLE_LOG";

/// Largest picture of a subject.
const MAX_IMAGE_BYTES: u64 = 1 << 20;

/// Bytes of a result.
const MAX_RESULT_BYTES: u64 = 1 << 20;

/// Where a role works, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleEnvironment {
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

impl RoleEnvironment {
    /// The configuration of a role that works here.
    pub fn config(&self) -> ServiceConfig {
        let mut config = ServiceConfig::default();
        config.broker = self.amqp();
        config.cache.redis.url = Some(self.redis_url.as_str().into());
        config.cache.redis.prefix = format!("{}:", self.prefix);
        config.store.url = Some(format!("s3://{}/{}", self.bucket, self.prefix));
        config.store.s3 = self.s3("");
        config.fetch.max_image_bytes = MAX_IMAGE_BYTES;
        config.callbacks = CallbackConfig { secret: Some(CALLBACK_SECRET.into()), ..trusting(&self.certificates) };
        let all = self.concurrency;
        config.worker.concurrency = RoleConcurrency { dispatcher: all, segmenter: all, encoder: all, sampler: all };
        config.worker.common = WorkerConfig {
            // Outages of 20 seconds are part of the trial; what is parked would have to be redriven by hand.
            max_attempts: 12,
            task_timeout_seconds: 20.0,
            grace_seconds: 10.0,
            backoff: Backoff { first_seconds: 0.25, factor: 2.0, max_seconds: 8.0 },
            ..WorkerConfig::default()
        };
        // Any free port: the endpoint is served as in a cluster, and many roles run on one machine.
        config.telemetry.listen = Some(Listen::At(SocketAddr::from(([127, 0, 0, 1], 0))));
        config
    }

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
}

/// Runs a role until SIGTERM. `arguments` are what follows [`ROLE_ARGUMENT`]: its name and its environment.
pub fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let [name, environment] = arguments else { bail!("a role takes its name and its environment") };
    let role: RoleName = name.parse()?;
    let environment: RoleEnvironment =
        serde_json::from_str(environment).context("the environment of a role is JSON")?;
    with_deep_stacks();
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| "off".to_owned());
    let telemetry = echogen_telemetry::init(&Options { format: LogFormat::Plain, filter, otlp: None })?;
    let (config, networks) = (environment.config(), constant::networks(Duration::from_millis(environment.delay_ms)));
    let exit: Exit = block_on(echogen_service::run(&[role], &networks, &config, &telemetry))?;
    Ok(exit.into())
}
