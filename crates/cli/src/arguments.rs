//! The command-line arguments of each command, except settings.
//!
//! The flags of settings are not written here: [`crate::command_line`] adds them from the list of settings.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    commands::{
        canary::{CANARY_EXAMPLES, CanaryArguments},
        config::{CONFIG_EXAMPLES, ConfigCommand},
        dead_letters::{DEAD_LETTERS_EXAMPLES, DeadLettersCommand},
        demo::{DEMO_EXAMPLES, DemoArguments},
        doctor::{DOCTOR_EXAMPLES, DoctorArguments},
        generate::{GENERATE_EXAMPLES, GenerateArguments},
        jobs::{BATCH_EXAMPLES, BatchArguments},
        keys::{KEYS_EXAMPLES, KeysCommand},
        roles::{GATEWAY_EXAMPLES, ROLE_EXAMPLES, UP_EXAMPLES},
        segment::{SEGMENT_EXAMPLES, SegmentArguments},
        status::{CancelArguments, RETRY_EXAMPLES, RetryArguments, STATUS_EXAMPLES, StatusArguments},
        submit::{SUBMIT_EXAMPLES, SubmitArguments},
        topology::TopologyArguments,
        usage::{USAGE_EXAMPLES, UsageArguments},
    },
    models_command::ModelsCommand,
};

const ABOUT: &str = "Makes pictures of a given subject in a described scene.";

const AFTER_HELP: &str = "\
Examples:
  One picture:
    echogen generate --subject cat.png --prompt \"a cat on a beach\" --out out/
  Many, one job per line of a file; run it again to resume:
    echogen batch jobs.jsonl --out out/
  The console in the browser, with example jobs to watch:
    echogen demo
  The fields of a job:
    echogen schema job

Settings can be given in three ways. A flag overrides the environment, the environment overrides the
file (echogen.toml, or --config FILE):
    --worker-grace-seconds 60   ECHOGEN_WORKER_GRACE_SECONDS=60   [worker] grace_seconds = 60
Flags of the sections model, finder, job and telemetry omit the section: --device, --count.
`echogen config show` prints every setting, its value, and where the value comes from.

Exit codes: 0 success, 1 a job or a check failed, 2 the command line, a file or the configuration is wrong,
3 the compute device has failed, 124 a job has not ended within --timeout, 130 interrupted.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "echogen", bin_name = "echogen", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,

    /// What every command takes
    #[command(flatten)]
    pub(crate) general: GeneralArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make pictures of one subject in one scene
    #[command(after_help = GENERATE_EXAMPLES)]
    Generate(Box<GenerateArguments>),
    /// Run the jobs of a file, one JSON object per line
    #[command(after_help = BATCH_EXAMPLES)]
    Batch(Box<BatchArguments>),
    /// Show what is recognised as the subject of a picture
    #[command(after_help = SEGMENT_EXAMPLES)]
    Segment(Box<SegmentArguments>),
    /// Run the dispatcher: receive jobs, fetch pictures, skip stages whose product exists
    #[command(after_help = ROLE_EXAMPLES)]
    Dispatcher,
    /// Run the segmenter: find subjects in their pictures and cut them out
    #[command(after_help = ROLE_EXAMPLES)]
    Segmenter,
    /// Run the encoder: encode cut-outs
    #[command(after_help = ROLE_EXAMPLES)]
    Encoder,
    /// Run the sampler: make pictures
    #[command(after_help = ROLE_EXAMPLES)]
    Sampler,
    /// Run the gateway: the HTTP API and the console
    #[command(after_help = GATEWAY_EXAMPLES)]
    Gateway,
    /// Run all roles in one process, with servers or without any
    #[command(after_help = UP_EXAMPLES)]
    Up,
    /// Show it: everything in one process with the console, and example jobs to watch
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArguments),
    /// Submit a job, or a file of jobs, to the queues
    #[command(after_help = SUBMIT_EXAMPLES)]
    Submit(Box<SubmitArguments>),
    /// Print the status of a job
    #[command(after_help = STATUS_EXAMPLES)]
    Status(Box<StatusArguments>),
    /// Cancel jobs
    Cancel(Box<CancelArguments>),
    /// Run jobs again that failed, expired, or were cancelled or parked
    #[command(after_help = RETRY_EXAMPLES)]
    Retry(Box<RetryArguments>),
    /// Send a small job through the whole system and print how long it took
    #[command(after_help = CANARY_EXAMPLES)]
    Canary(CanaryArguments),
    /// List parked tasks, redrive them, or delete them
    #[command(subcommand, after_help = DEAD_LETTERS_EXAMPLES)]
    DeadLetters(DeadLettersCommand),
    /// Make, list and revoke keys of the HTTP API, and derive secrets of callbacks
    #[command(subcommand, after_help = KEYS_EXAMPLES)]
    Keys(KeysCommand),
    /// Sum what tenants' jobs have used: pictures, pixels, seconds of a device, price
    #[command(after_help = USAGE_EXAMPLES)]
    Usage(UsageArguments),
    /// Print the exchanges and queues, or declare them
    Topology(TopologyArguments),
    /// Print the JSON Schema of a job, a result or the configuration
    Schema {
        /// What the schema describes
        #[arg(value_enum)]
        of: SchemaOf,
    },
    /// List, show, fetch, verify and convert model bundles
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Examine this machine: its device, the numbers of the networks on it, and its speed
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArguments),
    /// Show or check the configuration, or print one with all defaults
    #[command(subcommand, after_help = CONFIG_EXAMPLES)]
    Config(ConfigCommand),
}

/// What every command takes.
#[derive(Args, Debug, Clone)]
pub(crate) struct GeneralArguments {
    /// TOML file with settings; by default `echogen.toml`, if it exists
    #[arg(long, global = true, value_name = "FILE", help_heading = "General")]
    pub(crate) config: Option<PathBuf>,

    /// Print JSON, one object per line, for programs
    #[arg(long, global = true, help_heading = "General")]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SchemaOf {
    /// A job: a line of a batch file, a message to the intake queue
    Job,
    /// A job's result.json
    Result,
    /// The configuration file
    Config,
}
