//! Options of the roles and of the commands that speak to them.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use echogen_adapters::AllowedNetwork;
use echogen_ports::Secret;
use echogen_protocol::{JobId, Lane};
use echogen_sampler::SamplerConfig;

use super::watch_arguments::WatchOptions;
use crate::{arguments::SamplingOptions, model_options::ModelOptions, values};

pub(crate) const ROLE_EXAMPLES: &str = "\
Examples:
  One role of each, in terminals of their own, against servers on this machine:
    export ECHOGEN_AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f
    export ECHOGEN_REDIS_URL=redis://127.0.0.1:6379/0 ECHOGEN_STORE=s3://echogen
    export ECHOGEN_S3_ENDPOINT=http://127.0.0.1:9000
    echogen dispatcher        echogen segmenter        echogen encoder        echogen sampler

Any number of each role may run, on any machines. SIGTERM or Ctrl-C: it takes nothing more, finishes
what runs, puts the rest back, and ends. Any option is also ECHOGEN_<OPTION> in the environment, or a
line of echogen.toml.";

pub(crate) const UP_EXAMPLES: &str = "\
Examples:
  Everything embedded: jobs from standard input, one JSON object a line, results in a folder; pictures
  named by a path are taken from this folder and those in it, or from --subject-folder:
    echogen up --store out/ < jobs.jsonl
  All roles in this process, on servers of your own:
    echogen up --amqp-url amqp://guest:guest@127.0.0.1/%2f --redis-url redis://127.0.0.1/0 --store s3://echogen";

pub(crate) const SUBMIT_EXAMPLES: &str = "\
Examples:
  One job; wait for its end:
    echogen submit --subject dog.png --prompt \"a dog on a beach\" --wait
  A file of jobs, one JSON object a line; run it again to try failed lines again and go on where it stopped:
    echogen submit --batch manifest.jsonl --lane bulk

How far a file has come is noted beside it, in manifest.jsonl.submitted. The file may grow, and lines that
failed may be mended; for another file, broker or prefix say --restart.

A picture that is a file is sent along: put into the store if --store is given, else written into the
job, which may then have at most 8 MiB.";

pub(crate) const DEAD_LETTERS_EXAMPLES: &str = "\
Examples:
  What is parked, and why:
    echogen dead-letters list
  Send everything back to where it failed, once its cause is mended:
    echogen dead-letters redrive --all
  Throw one away:
    echogen dead-letters drop dog-1";

/// The broker, as clients and roles reach it.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "RabbitMQ")]
pub(crate) struct BrokerOptions {
    /// RabbitMQ, as `amqp://user:password@host:5672/%2f` or `amqps://…`
    #[arg(long, env = "ECHOGEN_AMQP_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) amqp_url: Option<String>,

    /// What the names of all exchanges and queues begin with
    #[arg(long, env = "ECHOGEN_AMQP_PREFIX", value_name = "TEXT", default_value = "echogen")]
    pub(crate) amqp_prefix: String,

    /// Messages that each intake queue holds before producers are refused
    #[arg(long, env = "ECHOGEN_INTAKE_LIMIT", value_name = "N", default_value_t = 4_000_000)]
    pub(crate) intake_limit: u32,

    /// Messages that each stage's queue holds before the stage ahead of it has to wait; small keeps a backlog in the
    /// lanes, where it is served by weight
    #[arg(long, env = "ECHOGEN_STAGE_LIMIT", value_name = "N", default_value_t = 20_000)]
    pub(crate) stage_limit: u32,
}

/// The cache and the stores.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Redis and object store")]
pub(crate) struct StoreOptions {
    /// Redis, as `redis://host:6379/0` or `rediss://…`; without it every process keeps a cache of its own
    #[arg(long, env = "ECHOGEN_REDIS_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) redis_url: Option<String>,

    /// Where results and what is needed in between lie: `s3://bucket/prefix`, or a folder that all roles share
    #[arg(long, env = "ECHOGEN_STORE", value_name = "PLACE")]
    pub(crate) store: Option<String>,

    /// Address of an S3-compatible server; otherwise AWS
    #[arg(long, env = "ECHOGEN_S3_ENDPOINT", value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,

    /// Region of the bucket
    #[arg(long, env = "ECHOGEN_S3_REGION", value_name = "REGION", default_value = "us-east-1")]
    pub(crate) s3_region: String,

    /// Access key; otherwise what AWS's own tools would use
    #[arg(long, env = "ECHOGEN_S3_ACCESS_KEY_ID", value_name = "KEY", hide_env_values = true)]
    pub(crate) s3_access_key_id: Option<String>,

    /// Secret of the access key
    #[arg(long, env = "ECHOGEN_S3_SECRET_ACCESS_KEY", value_name = "SECRET", hide_env_values = true)]
    pub(crate) s3_secret_access_key: Option<String>,

    /// Whether the bucket stands in the path; otherwise yes with an endpoint, no without
    #[arg(long, env = "ECHOGEN_S3_PATH_STYLE", value_name = "BOOL")]
    pub(crate) s3_path_style: Option<bool>,

    /// `false` for stores that do not know `If-None-Match` on writes
    #[arg(long, env = "ECHOGEN_S3_CONDITIONAL_WRITES", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) s3_conditional_writes: bool,
}

/// Which pictures a dispatcher fetches.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Pictures of subjects")]
pub(crate) struct FetchOptions {
    /// Hosts that `https://` pictures are taken from, such as `*.example.org`; otherwise all public ones
    #[arg(long, env = "ECHOGEN_ALLOW_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub(crate) allow_hosts: Vec<String>,

    /// Networks that are reached although they are not public, such as `10.1.0.0/16`
    #[arg(long, env = "ECHOGEN_ALLOW_NETWORKS", value_name = "NETWORKS", value_delimiter = ',')]
    pub(crate) allow_networks: Vec<AllowedNetwork>,

    /// Buckets, or folders in them, that `s3://` pictures are taken from, such as `pictures/public/`
    #[arg(long, env = "ECHOGEN_ALLOW_BUCKETS", value_name = "PLACES", value_delimiter = ',')]
    pub(crate) allow_buckets: Vec<String>,

    /// Folder below which pictures may be named by a path; otherwise none may or, where jobs come from standard input,
    /// those below the working directory
    #[arg(long, env = "ECHOGEN_SUBJECT_FOLDER", value_name = "FOLDER")]
    pub(crate) subject_folder: Option<PathBuf>,

    /// Largest picture of a subject, in bytes
    #[arg(long, env = "ECHOGEN_MAX_IMAGE_BYTES", value_name = "BYTES", default_value_t = echogen_protocol::limits::MAX_IMAGE_BYTES)]
    pub(crate) max_image_bytes: u64,
}

/// Whom the dispatcher's process tells of the ends of jobs.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Callbacks")]
pub(crate) struct CallbackOptions {
    /// Hosts that may be called back, such as `*.example.org`; otherwise all public ones, and those of --allow-networks
    #[arg(long, env = "ECHOGEN_CALLBACK_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub(crate) callback_hosts: Vec<String>,

    /// Signs callbacks as Standard Webhooks say: `whsec_` and 24 to 64 random bytes in base64; several while one takes
    /// the place of another
    #[arg(long, env = "ECHOGEN_CALLBACK_SECRET", value_name = "SECRETS", hide_env_values = true)]
    pub(crate) callback_secret: Option<Secret>,

    /// Seconds that the client's server has to answer a callback
    #[arg(long, env = "ECHOGEN_CALLBACK_TIMEOUT", value_name = "SECONDS", default_value_t = 10.0, value_parser = values::seconds)]
    pub(crate) callback_timeout: f64,
}

/// How patient the roles are.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Work")]
pub(crate) struct WorkOptions {
    /// Tasks at work at once; otherwise as many as the role can use
    #[arg(long, env = "ECHOGEN_CONCURRENCY", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub(crate) concurrency: Option<u16>,

    /// Tries of a task before it is parked among the dead letters
    #[arg(long, env = "ECHOGEN_MAX_ATTEMPTS", value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) max_attempts: u32,

    /// Seconds that one try may take
    #[arg(long, env = "ECHOGEN_TASK_TIMEOUT", value_name = "SECONDS", default_value_t = 600.0, value_parser = values::seconds)]
    pub(crate) task_timeout: f64,

    /// Seconds before the second try; each further wait is four times as long
    #[arg(long, env = "ECHOGEN_RETRY_WAIT", value_name = "SECONDS", default_value_t = 1.0, value_parser = values::seconds_or_none)]
    pub(crate) retry_wait: f64,

    /// Seconds that running tasks have after SIGTERM before they are put back
    #[arg(long, env = "ECHOGEN_GRACE", value_name = "SECONDS", default_value_t = 25.0, value_parser = values::seconds_or_none)]
    pub(crate) grace: f64,

    /// Jobs of standard input that `up` has read and that have not ended; the rest waits unread
    #[arg(long, env = "ECHOGEN_IN_FLIGHT", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) in_flight: u32,

    /// Jobs begun in turn of the lanes interactive, standard and bulk while all have some waiting
    #[arg(long, env = "ECHOGEN_LANE_WEIGHTS", value_name = "N,N,N", default_value = "8,4,1", value_parser = values::lane_weights)]
    pub(crate) lane_weights: echogen_worker::LaneWeights,
}

/// How a sampler gathers jobs into batches.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Batches")]
pub(crate) struct BatchOptions {
    /// Pictures of one shape that are sampled side by side
    #[arg(long, env = "ECHOGEN_MAX_BATCH", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    pub(crate) max_batch: u16,

    /// Milliseconds that a job may wait for others of its shape while the networks are idle
    #[arg(long, env = "ECHOGEN_BATCH_WAIT", value_name = "MS", default_value_t = 10)]
    pub(crate) batch_wait: u32,

    /// Bytes that the key-value caches of a batch may take; one picture is always admitted
    #[arg(long, env = "ECHOGEN_MAX_KV_BYTES", value_name = "BYTES", default_value_t = 4 << 30)]
    pub(crate) max_kv_bytes: u64,

    /// Tell listeners of every finished scale, a dozen events a job
    #[arg(long, env = "ECHOGEN_SCALE_EVENTS", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) scale_events: bool,
}

impl BatchOptions {
    /// The sampler's settings.
    pub(crate) fn config(&self) -> SamplerConfig {
        SamplerConfig {
            max_batch: self.max_batch.into(),
            max_wait_seconds: f64::from(self.batch_wait) / 1_000.0,
            max_kv_bytes: self.max_kv_bytes,
            scale_events: self.scale_events,
            ..SamplerConfig::default()
        }
    }
}

/// Options of a role.
#[derive(Args, Debug, Clone)]
pub(crate) struct RoleArguments {
    /// See [`BrokerOptions`].
    #[command(flatten)]
    pub(crate) broker: BrokerOptions,

    /// See [`StoreOptions`].
    #[command(flatten)]
    pub(crate) stores: StoreOptions,

    /// See [`FetchOptions`].
    #[command(flatten)]
    pub(crate) fetch: FetchOptions,

    /// See [`CallbackOptions`].
    #[command(flatten)]
    pub(crate) callbacks: CallbackOptions,

    /// See [`WorkOptions`].
    #[command(flatten)]
    pub(crate) work: WorkOptions,

    /// See [`BatchOptions`].
    #[command(flatten)]
    pub(crate) batch: BatchOptions,

    /// See [`ModelOptions`].
    #[command(flatten)]
    pub(crate) model: ModelOptions,

    /// See [`WatchOptions`].
    #[command(flatten)]
    pub(crate) watch: WatchOptions,
}

/// `echogen topology`.
#[derive(Args, Debug, Clone)]
pub(crate) struct TopologyArguments {
    /// Declare it on the broker, too
    #[arg(long)]
    pub(crate) declare: bool,

    /// See [`BrokerOptions`].
    #[command(flatten)]
    pub(crate) broker: BrokerOptions,
}

/// `echogen submit`.
#[derive(Args, Debug, Clone)]
pub(crate) struct SubmitArguments {
    /// Picture of the subject: a file, `data:`, `https://` or `s3://`
    #[arg(short, long, env = "ECHOGEN_SUBJECT", value_name = "PICTURE", required_unless_present = "batch")]
    pub(crate) subject: Option<String>,

    /// The scene, in words
    #[arg(short, long, env = "ECHOGEN_PROMPT", value_name = "TEXT", required_unless_present = "batch")]
    pub(crate) prompt: Option<String>,

    /// What the subject is called, such as `dog`
    #[arg(long, env = "ECHOGEN_NAME", value_name = "TEXT")]
    pub(crate) name: Option<String>,

    /// Names the job: the same id is one job however often it is sent; otherwise one that follows from the content
    #[arg(long, env = "ECHOGEN_ID", value_name = "ID")]
    pub(crate) id: Option<String>,

    /// A file with one job a line instead; `-` reads standard input
    #[arg(long, env = "ECHOGEN_BATCH", value_name = "FILE", conflicts_with_all = ["subject", "prompt", "name", "id"])]
    pub(crate) batch: Option<PathBuf>,

    /// Begin a batch from its first line, whatever an earlier run has sent, and of which file and to which broker
    #[arg(long, requires = "batch")]
    pub(crate) restart: bool,

    /// Lane: interactive, standard or bulk; in a batch, of lines that do not say
    #[arg(long, env = "ECHOGEN_LANE", value_name = "LANE", value_parser = values::lane())]
    pub(crate) lane: Option<Lane>,

    /// Address of your own, `https://…`, that is told of the job's end; in a batch, of lines that do not say
    #[arg(long, env = "ECHOGEN_CALLBACK", value_name = "URL")]
    pub(crate) callback: Option<String>,

    /// Wait for the job's end, and fail if it fails
    #[arg(long, conflicts_with = "batch")]
    pub(crate) wait: bool,

    /// Messages on their way to the broker at once
    #[arg(long, env = "ECHOGEN_IN_FLIGHT", value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) in_flight: u32,

    /// See [`SamplingOptions`].
    #[command(flatten)]
    pub(crate) sampling: SamplingOptions,

    /// See [`BrokerOptions`].
    #[command(flatten)]
    pub(crate) broker: BrokerOptions,

    /// See [`StoreOptions`].
    #[command(flatten)]
    pub(crate) stores: StoreOptions,
}

/// `echogen status`.
#[derive(Args, Debug, Clone)]
pub(crate) struct StatusArguments {
    /// The job's id
    #[arg(value_name = "ID", value_parser = values::job_id)]
    pub(crate) id: JobId,

    /// Print every step until the job's end
    #[arg(short, long)]
    pub(crate) watch: bool,

    /// The job's `output.destination`, if it has one and Redis no longer knows the job
    #[arg(long, value_name = "PREFIX")]
    pub(crate) destination: Option<String>,

    /// Print addresses for this many seconds by which anybody may fetch the pictures (S3 only)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(crate) presign: Option<u64>,

    /// See [`BrokerOptions`].
    #[command(flatten)]
    pub(crate) broker: BrokerOptions,

    /// See [`StoreOptions`].
    #[command(flatten)]
    pub(crate) stores: StoreOptions,
}

/// `echogen cancel`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CancelArguments {
    /// The ids of the jobs
    #[arg(value_name = "ID", required = true, value_parser = values::job_id)]
    pub(crate) ids: Vec<JobId>,

    /// The jobs' `output.destination`, if they have one and Redis does not know the jobs
    #[arg(long, value_name = "PREFIX")]
    pub(crate) destination: Option<String>,

    /// See [`BrokerOptions`].
    #[command(flatten)]
    pub(crate) broker: BrokerOptions,

    /// See [`StoreOptions`].
    #[command(flatten)]
    pub(crate) stores: StoreOptions,
}

/// `echogen dead-letters`.
#[derive(Args, Debug, Clone)]
pub(crate) struct DeadLettersArguments {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: DeadLettersCommand,
}

/// Which dead letters.
#[derive(Args, Debug, Clone)]
pub(crate) struct ChosenOptions {
    /// Those of these jobs
    #[arg(value_name = "JOB", required_unless_present = "all")]
    pub(crate) jobs: Vec<String>,

    /// All of them
    #[arg(long, conflicts_with = "jobs")]
    pub(crate) all: bool,

    /// See [`BrokerOptions`].
    #[command(flatten)]
    pub(crate) broker: BrokerOptions,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List what is parked, with reasons
    List {
        /// See [`BrokerOptions`].
        #[command(flatten)]
        broker: BrokerOptions,
    },
    /// Print all headers and the body
    Show(ChosenOptions),
    /// Send back to the queue where it failed, with its attempts counted anew
    Redrive(ChosenOptions),
    /// Throw away for good
    Drop(ChosenOptions),
}
