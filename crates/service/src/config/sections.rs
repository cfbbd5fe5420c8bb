//! The sections of the configuration, and all their settings.
//!
//! Where an adapter, a stage or the worker has settings of its own, its own type is the section, or flattened into it.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use echogen_adapters::{CallbackConfig, HttpConfig, RedisConfig, S3Config, SafetyConfig, amqp::AmqpConfig};
use echogen_gateway::GatewayConfig;
use echogen_models::device::{DeviceChoice, Precision};
use echogen_ports::Secret;
use echogen_protocol::{AspectRatio, Lane, MaskMode, OutputFormat, Partitions, PerScale, PixelBudget, limits};
use echogen_sampler::SamplerConfig;
use echogen_segmenter::FinderConfig;
use echogen_telemetry::{LogFormat, Options, Otlp};
use echogen_worker::{ProductsConfig, WorkerConfig};
use schemars::JsonSchema;
use serde::Deserialize;

use super::text;

/// All settings of all roles and commands.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// Which networks, where they compute, and with how many threads.
    pub model: ModelConfig,
    /// How the subject is found in its picture. All roles need the same: what is found is kept under keys that depend on it.
    pub finder: FinderConfig,
    /// RabbitMQ.
    pub broker: AmqpConfig,
    /// Redis or Valkey, or the cache within the process.
    pub cache: CacheConfig,
    /// Where results, and everything between the stages, are stored: a bucket or a folder.
    pub store: StoreConfig,
    /// Which pictures of subjects a dispatcher fetches, and how.
    pub fetch: FetchConfig,
    /// How clients' servers are notified of the ends of jobs.
    pub callbacks: CallbackConfig,
    /// Which words and pictures are used: a service of your own decides.
    pub safety: SafetyConfig,
    /// How tasks are received, retried and requeued.
    pub worker: WorkerSettings,
    /// How products are cached, and how processes share the computation of one product.
    pub products: ProductsConfig,
    /// How the sampler forms batches.
    pub sampler: SamplerConfig,
    /// The HTTP API and the console.
    pub gateway: GatewayConfig,
    /// Logs, traces, and the endpoint of metrics and health.
    pub telemetry: TelemetryConfig,
    /// Defaults of jobs, for `generate`, `batch`, `submit` and `canary`.
    pub job: JobDefaults,
}

impl ServiceConfig {
    /// Whether no broker is named, so that jobs stay within the process.
    pub fn is_embedded(&self) -> bool {
        self.broker.url.as_ref().is_none_or(Secret::is_empty)
    }

    /// The partitions of tenants; a process without a broker works for one user, and has one.
    pub fn partitions(&self) -> Partitions {
        if self.is_embedded() { Partitions::ONE } else { self.broker.partitions() }
    }
}

/// Which networks, where they compute, and with how many threads.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelConfig {
    /// Model bundle: its name, or the path of its TOML file or folder.
    pub bundle: String,
    /// Folder with bundles. Absent: `bundles` in the working directory, then beside the program.
    pub bundles: Option<PathBuf>,
    /// Where the networks compute: `auto` (the first GPU if there is one), `cpu`, `cuda`, or `cuda:1` for the second GPU.
    #[serde(with = "text")]
    #[schemars(with = "String", example = &"cpu")]
    pub device: DeviceChoice,
    /// Type in which the large networks compute: `auto` (f32 on the CPU, bf16 on a GPU), `f32`, `f16` or `bf16`.
    #[serde(with = "text")]
    #[schemars(with = "String", extend("enum" = ["auto", "f32", "f16", "bf16"]))]
    pub dtype: Precision,
    /// Number of threads for the networks on the CPU. Absent: one for each core.
    #[schemars(range(min = 1, max = 1_024))]
    pub threads: Option<u16>,
    /// Address of the hub from which `models pull` fetches checkpoints. Absent: huggingface.co.
    #[serde(deserialize_with = "text::without_credentials")]
    #[schemars(extend("x-variable" = "HF_ENDPOINT"))]
    pub hub_endpoint: Option<String>,
    /// Access token of the hub, for repositories that require consent. Absent: the one that the hub's own tools have
    /// stored.
    #[schemars(extend("x-variable" = "HF_TOKEN"))]
    pub hub_token: Option<Secret>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            bundle: "mini".to_owned(),
            bundles: None,
            device: DeviceChoice::Auto,
            dtype: Precision::Auto,
            threads: None,
            hub_endpoint: None,
            hub_token: None,
        }
    }
}

/// Redis or Valkey, or the cache within the process.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CacheConfig {
    /// Size in bytes of the cache within the process, which is used without `cache.url`.
    pub memory_bytes: u64,
    /// Redis; without an address there is none.
    #[serde(flatten)]
    pub redis: RedisConfig,
}

impl Default for CacheConfig {
    fn default() -> Self {
        // Some forty encoded subjects of the largest size.
        Self { memory_bytes: 256 << 20, redis: RedisConfig::default() }
    }
}

/// Where results, and everything between the stages, are stored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct StoreConfig {
    /// Where results and everything between the stages are stored: `s3://bucket/prefix`, or a folder that all roles share.
    #[schemars(extend("x-alias" = "store"))]
    pub url: Option<String>,
    /// How a bucket is reached; which one follows from `url`.
    #[serde(flatten)]
    pub s3: S3Config,
}

/// Which pictures of subjects a dispatcher fetches, and how.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FetchConfig {
    /// Buckets, or folders in them, from which `s3://` pictures are fetched, such as `pictures/public/`.
    pub allowed_buckets: Vec<String>,
    /// Folder below which pictures may be given as paths. Absent: no paths are allowed, except below the working
    /// directory if jobs come from standard input.
    pub subject_folder: Option<PathBuf>,
    /// Largest picture of a subject, in bytes.
    pub max_image_bytes: u64,
    /// By `https://`.
    #[serde(flatten)]
    pub http: HttpConfig,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            allowed_buckets: Vec::new(),
            subject_folder: None,
            max_image_bytes: limits::MAX_IMAGE_BYTES,
            http: HttpConfig::default(),
        }
    }
}

/// How tasks are received, retried and requeued.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkerSettings {
    /// Tasks in progress at once, for each role.
    pub concurrency: RoleConcurrency,
    /// Jobs of standard input that `up` processes at once; the others are not read yet.
    #[schemars(range(min = 1, max = 100_000))]
    pub in_flight: u32,
    /// The same for all roles.
    #[serde(flatten)]
    pub common: WorkerConfig,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self { concurrency: RoleConcurrency::default(), in_flight: 32, common: WorkerConfig::default() }
    }
}

/// Tasks at work at once, in each role: those that wait for servers take many, those that compute a few, so that one job's
/// files are read and written while another's networks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RoleConcurrency {
    /// Tasks in progress at once in a dispatcher.
    #[schemars(range(min = 1, max = 4_096))]
    pub dispatcher: u16,
    /// Ends of jobs that a dispatcher's notifier makes known at once. Most of this is for callbacks to slow servers.
    #[schemars(range(min = 1, max = 4_096))]
    pub notifier: u16,
    /// Tasks in progress at once in a segmenter.
    #[schemars(range(min = 1, max = 4_096))]
    pub segmenter: u16,
    /// Tasks in progress at once in an encoder.
    #[schemars(range(min = 1, max = 4_096))]
    pub encoder: u16,
    /// Tasks in progress at once in a sampler; at least twice the batch, so that the next batch forms while one is
    /// computed.
    #[schemars(range(min = 1, max = 4_096))]
    pub sampler: u16,
}

impl Default for RoleConcurrency {
    fn default() -> Self {
        Self { dispatcher: 32, notifier: 128, segmenter: 16, encoder: 16, sampler: 32 }
    }
}

/// Logs, traces, and the endpoint of metrics and health.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TelemetryConfig {
    /// What is logged on standard error: `off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter such as
    /// `echogen_worker=debug`.
    pub log: String,
    /// Format of log lines: `pretty`, `plain` (full times, no colours) or `json`.
    #[serde(with = "text")]
    #[schemars(with = "String", extend("enum" = ["pretty", "plain", "json"]))]
    pub log_format: LogFormat,
    /// Collector to which spans are sent by OTLP over HTTP, such as `http://collector:4318`. Absent: none are sent.
    #[serde(deserialize_with = "text::without_credentials")]
    #[schemars(extend("x-variable" = "OTEL_EXPORTER_OTLP_ENDPOINT"))]
    pub otlp_endpoint: Option<String>,
    /// Share of the traces begun by this process that are recorded, 0 to 1; for others their beginner decides.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub trace_ratio: f64,
    /// Address of /livez, /readyz, /metrics and /log, such as `127.0.0.1:9464`, or `none`. Absent: 0.0.0.0:9464 if that is
    /// free.
    #[serde(with = "text::optional")]
    #[schemars(with = "Option<String>", example = &"127.0.0.1:9464")]
    pub listen: Option<Listen>,
    /// Seconds between two checks that the stores, the broker and the cache let a role work, each with one small object in
    /// both stores; 0 checks only at start.
    pub probe_seconds: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "off".to_owned(),
            log_format: LogFormat::Pretty,
            otlp_endpoint: None,
            trace_ratio: 1.0,
            listen: None,
            probe_seconds: 60.0,
        }
    }
}

impl TelemetryConfig {
    /// What is logged and traced by a process that calls itself `service`.
    pub fn options(&self, service: &str) -> Options {
        let otlp = self.otlp_endpoint.as_ref().map(|endpoint| Otlp {
            endpoint: endpoint.clone(),
            authorities: echogen_adapters::system_authorities().to_vec(),
            service: service.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ratio: self.trace_ratio,
        });
        Options { format: self.log_format, filter: self.log.clone(), otlp }
    }
}

/// Where the endpoint of metrics and health is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// There is none.
    Nowhere,
    /// At this address.
    At(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("none"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::Nowhere);
        }
        let address = text.parse().map(Self::At);
        address.map_err(|_| {
            format!("{text:?} is no address; write an IP address and a port such as 0.0.0.0:9464, or none")
        })
    }
}

/// What jobs are given that do not say themselves.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JobDefaults {
    /// What the picture should not show.
    pub negative_prompt: Option<String>,
    /// Seeds, one picture each, such as `7` or `1,2,3`.
    #[schemars(extend("x-alias" = "seed"))]
    pub seeds: Vec<u64>,
    /// Number of pictures; their seeds count up from the first of `seeds`, or from 42.
    pub count: Option<u32>,
    /// Width to height, such as 1:1, 16:9 or 1.5; the nearest shape of the schedule table is used.
    #[schemars(extend("x-alias" = "aspect"))]
    pub aspect_ratio: Option<AspectRatio>,
    /// Size of the picture in millions of pixels, such as 0.06M or 1M: one of those that the bundle has.
    pub pixels: Option<PixelBudget>,
    /// How strongly the picture follows the prompt: one number, or one for each scale such as `4,4,3,2.5`.
    pub guidance_text: Option<PerScale>,
    /// How strongly the picture follows the subject; sampling is fastest if it equals the text guidance.
    pub guidance_subject: Option<PerScale>,
    /// Above 1 is more varied, below 1 is safer; one number, or one for each scale.
    pub temperature: Option<PerScale>,
    /// 1 always uses the likelier value of a bit; more changes nothing, since a bit has two values.
    pub top_k: Option<u32>,
    /// Values rarer than 1 - P are never drawn.
    pub top_p: Option<f64>,
    /// How the background is removed: `box` (everything outside it turns white), `sam`, or `none`.
    pub mask: Option<MaskMode>,
    /// File format of the pictures.
    pub format: Option<OutputFormat>,
    /// Quality of a JPEG, 1 to 100.
    #[schemars(range(min = 1, max = 100))]
    pub quality: Option<u8>,
    /// Small pictures of each picture on its way, in the cache for ten minutes; 0 to 16. Left out while other work waits.
    #[schemars(range(max = 16))]
    pub previews: Option<u32>,
    /// Lane: `interactive`, `standard` or `bulk`.
    pub lane: Option<Lane>,
    /// Whose jobs they are. It decides which of the lane's queues they are published to, so that one tenant's backlog delays
    /// few others.
    pub tenant: Option<String>,
    /// Address of the client's server, `https://…`, that is notified of the job's end.
    pub callback: Option<String>,
}
