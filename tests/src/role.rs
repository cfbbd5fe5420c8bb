//! A role as it runs in a process of its own: the service's entry point with constant networks.

use std::{collections::BTreeMap, net::SocketAddr, process::ExitCode, time::Duration};

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

use crate::{callback_server::trusting, constant, device, gateways::GatewayEnvironment};

/// The first argument of a process that is to run a role; the role's name and its environment, as JSON, follow.
pub(crate) const ROLE_ARGUMENT: &str = "run-role";

/// The secret with which callbacks are signed.
pub const CALLBACK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The variable with the log filter of the roles, such as `warn`, for standard error. If it is not set, they log
/// nothing.
pub(crate) const LOG_VARIABLE: &str = "ROLE_LOG";

/// Largest picture of a subject, in bytes.
const MAX_IMAGE_BYTES: u64 = 1 << 20;

/// Maximum size of a result in bytes.
const MAX_RESULT_BYTES: u64 = 1 << 20;

/// The servers a role uses and its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleEnvironment {
    /// URL of RabbitMQ.
    pub amqp_url: String,
    /// Prefix of the names of its queues.
    pub prefix: String,
    /// Partitions of tenants.
    pub partitions: u16,
    /// URL of Redis.
    pub redis_url: String,
    /// Endpoint of the S3 server.
    pub s3_endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
    /// Duration of each constant network's answer, in milliseconds.
    pub delay_ms: u64,
    /// Duration of each picture on a simulated device, in milliseconds; without it a constant network answers.
    pub picture_ms: Option<u64>,
    /// Time limit of an attempt in seconds.
    pub task_timeout_seconds: f64,
    /// The ports of roles' endpoints by the roles' names; any other role takes a free one.
    pub ports: BTreeMap<String, u16>,
    /// Maximum number of concurrent tasks.
    pub concurrency: u16,
    /// Maximum number of messages in a stage's queue.
    pub stage_limit: u32,
    /// Certificates of the callback servers on this machine, as PEM text.
    pub certificates: String,
    /// Where the gateway listens, and whom it serves.
    pub gateway: Option<GatewayEnvironment>,
}

impl RoleEnvironment {
    /// Returns the configuration of a role in this environment.
    pub fn config(&self) -> ServiceConfig {
        let mut config = ServiceConfig { broker: self.amqp(), ..ServiceConfig::default() };
        config.cache.redis.url = Some(self.redis_url.as_str().into());
        config.cache.redis.prefix = format!("{}:", self.prefix);
        config.store.url = Some(format!("s3://{}/{}", self.bucket, self.prefix));
        config.store.s3 = self.s3("");
        config.fetch.max_image_bytes = MAX_IMAGE_BYTES;
        config.callbacks = CallbackConfig { secret: Some(CALLBACK_SECRET.into()), ..trusting(&self.certificates) };
        let all = self.concurrency;
        config.worker.concurrency =
            RoleConcurrency { dispatcher: all, notifier: all.max(32), segmenter: all, encoder: all, sampler: all };
        config.worker.common = WorkerConfig {
            // The scenarios contain outages of 20 seconds. With fewer attempts jobs would be parked and have to be
            // redriven by hand.
            max_attempts: 12,
            task_timeout_seconds: self.task_timeout_seconds,
            grace_seconds: 10.0,
            backoff: Backoff { first_seconds: 0.25, factor: 2.0, max_seconds: 8.0 },
            ..WorkerConfig::default()
        };
        // Any free port: the endpoint is served as in a cluster, but many roles run on one machine.
        config.telemetry.listen = Some(Listen::At(SocketAddr::from(([127, 0, 0, 1], 0))));
        if let Some(GatewayEnvironment { address, tenants }) = self.gateway.clone() {
            config.gateway.listen = Some(address);
            config.gateway.tenants = Some(tenants);
            // All clients are on this machine.
            config.gateway.connections_per_address = config.gateway.connections;
        }
        config
    }

    /// Returns the broker's settings.
    pub fn amqp(&self) -> AmqpConfig {
        let (prefix, stage_max_messages) = (self.prefix.clone(), self.stage_limit);
        let partitions = self.partitions;
        AmqpConfig { prefix, partitions, stage_max_messages, ..AmqpConfig::at(self.amqp_url.as_str()) }
    }

    /// Returns the settings of the store below `part`, which is `results/` or `work/`.
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

    /// Returns the result of a job that has ended.
    pub async fn result(&self, id: &str) -> anyhow::Result<JobResult> {
        let store = S3ObjectStore::open(self.s3("results/")).await?;
        let bytes = store.get(&ObjectKey::new(format!("{id}/result.json"))?, MAX_RESULT_BYTES).await?;
        Ok(serde_json::from_slice(&bytes.with_context(|| format!("the job {id} has no result"))?)?)
    }
}

/// The main function of a program whose roles are processes of its own: runs a role if the arguments say so, else `work`, which
/// gets them. An error is printed.
pub fn main(work: impl FnOnce(&[String]) -> anyhow::Result<ExitCode>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ended = match arguments.split_first() {
        Some((first, rest)) if first == ROLE_ARGUMENT => run(rest),
        _ => work(&arguments),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs a role until SIGTERM. `arguments` are those that follow [`ROLE_ARGUMENT`]: the role's name and its
/// environment.
fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let [name, environment] = arguments else { bail!("a role takes its name and its environment") };
    let role: RoleName = name.parse()?;
    let environment: RoleEnvironment =
        serde_json::from_str(environment).context("the environment of a role is JSON")?;
    with_deep_stacks();
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| "off".to_owned());
    let telemetry = echogen_telemetry::init(&Options { format: LogFormat::Plain, filter, otlp: None })?;
    let mut config = environment.config();
    if let Some(port) = environment.ports.get(name) {
        config.telemetry.listen = Some(Listen::At(SocketAddr::from(([127, 0, 0, 1], *port))));
    }
    let networks = match environment.picture_ms {
        Some(picture) => device::networks(Duration::from_millis(picture), &config.sampler)?,
        None => constant::networks(Duration::from_millis(environment.delay_ms)),
    };
    let exit: Exit = block_on(echogen_service::run(&[role], &networks, &config, &telemetry))?;
    Ok(exit.into())
}
