//! The command line, from which the environment and the configuration file take their names too.
//!
//! An option `--guidance-text 3` is also `ECHOGEN_GUIDANCE_TEXT=3` and, in `echogen.toml`, `guidance-text = 3`:
//! there is one list of options, this one, and one parser for their values. See [`crate::config`] for the order in
//! which they count.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use echogen_protocol::{AspectRatio, BoundingBox, MaskMode, OutputFormat, PerScale, PixelBudget};
use echogen_telemetry::LogFormat;

use crate::{
    eval::arguments::{EVAL_EXAMPLES, EvalArguments},
    model_options::ModelOptions,
    models_command::ModelsCommand,
    segment::SegmentArguments,
    service::{
        arguments::{
            CancelArguments, DEAD_LETTERS_EXAMPLES, DeadLettersArguments, ROLE_EXAMPLES, RoleArguments,
            SUBMIT_EXAMPLES, StatusArguments, SubmitArguments, TopologyArguments, UP_EXAMPLES,
        },
        watch_arguments::{CANARY_EXAMPLES, CanaryArguments},
    },
    values,
};

const ABOUT: &str = "A picture of a subject and a sentence in, that subject in that scene out.";

const AFTER_HELP: &str = "\
Examples:
  One picture:
    echogen generate --subject dog.png --prompt \"a dog on a beach\" --out out/
  Many, described one a line in a file; run it again to go on where it stopped:
    echogen batch jobs.jsonl --out out/
  What a line of such a file may say:
    echogen schema job

Every option can be given in three ways. A flag counts first, then the environment, then the file
(echogen.toml, or --config FILE):
    --guidance-text 3      ECHOGEN_GUIDANCE_TEXT=3      guidance-text = 3
`echogen config show generate` prints what is in force and who said so.

Exit codes: 0 all went well, 1 a job failed, 2 the command, a file or the configuration is wrong,
3 the compute device is broken, 130 interrupted.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "echogen", bin_name = "echogen", version, about = ABOUT, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Options that every command has
    #[command(flatten)]
    pub(crate) general: GeneralOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put one subject into one scene
    #[command(after_help = GENERATE_EXAMPLES)]
    Generate(Box<GenerateArguments>),
    /// Run the jobs of a file, one JSON object a line
    #[command(after_help = BATCH_EXAMPLES)]
    Batch(Box<BatchArguments>),
    /// Show what is taken for the subject of a picture
    #[command(after_help = SEGMENT_EXAMPLES)]
    Segment(Box<SegmentArguments>),
    /// Measure how good a bundle is, on subjects that training never saw
    #[command(after_help = EVAL_EXAMPLES)]
    Eval(Box<EvalArguments>),
    /// Take jobs from the intake queues and send each the shortest way
    #[command(after_help = ROLE_EXAMPLES)]
    Dispatcher(Box<RoleArguments>),
    /// Find subjects in their pictures and cut them out
    #[command(after_help = ROLE_EXAMPLES)]
    Segmenter(Box<RoleArguments>),
    /// Encode cut-outs
    #[command(after_help = ROLE_EXAMPLES)]
    Encoder(Box<RoleArguments>),
    /// Make pictures
    #[command(after_help = ROLE_EXAMPLES)]
    Sampler(Box<RoleArguments>),
    /// Run all roles in one process, on servers or embedded
    #[command(after_help = UP_EXAMPLES)]
    Up(Box<RoleArguments>),
    /// Send a job, or a file of jobs, to the queues
    #[command(after_help = SUBMIT_EXAMPLES)]
    Submit(Box<SubmitArguments>),
    /// Say where a job stands
    Status(Box<StatusArguments>),
    /// Take jobs back
    Cancel(Box<CancelArguments>),
    /// Send a tiny job through the whole system and say how long it took
    #[command(after_help = CANARY_EXAMPLES)]
    Canary(Box<CanaryArguments>),
    /// Look at parked tasks, send them back, or throw them away
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    DeadLetters(DeadLettersArguments),
    /// Print the exchanges and queues, as they are declared
    Topology(TopologyArguments),
    /// Print the JSON Schema of what EchoGen reads and writes
    Schema {
        /// Of what
        #[arg(value_enum)]
        of: SchemaOf,
    },
    /// List, show, fetch, check and convert model bundles
    Models(ModelsArguments),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArguments {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: ModelsCommand,

    /// Folder with bundles; otherwise `bundles/` here, then beside the program
    #[arg(long, env = "ECHOGEN_BUNDLES", value_name = "FOLDER", global = true)]
    pub(crate) bundles: Option<PathBuf>,
}

const GENERATE_EXAMPLES: &str = "\
Examples:
  Four pictures with the seeds 42 to 45, wide, as JPEG:
    echogen generate -s dog.png -p \"a dog on a beach\" --count 4 --aspect-ratio 16:9 --format jpeg
  Only a part of the picture is the subject (left, top, right, bottom in pixels):
    echogen generate -s park.jpg --box 120,40,380,300 --name dog -p \"a dog in the snow\"
  More of the sentence, less of the subject:
    echogen generate -s dog.png -p \"a dog made of glass\" --guidance-text 4 --guidance-subject 2

The pictures stand in OUT/<job id>/image-0.png and so on; result.json beside them says how they
were made, and OUT/contact-sheet.png shows the subject beside the results. The same command again
finds the job done; to get other pictures, change --seed.

Any option is also ECHOGEN_<OPTION> in the environment, or a line of echogen.toml.";

const BATCH_EXAMPLES: &str = "\
A line of the file is a job; only the subject's picture and the prompt are needed:
    {\"subject\": {\"image\": \"dog.png\"}, \"prompt\": \"a dog on a beach\"}
    {\"id\": \"cup-1\", \"subject\": {\"image\": \"cup.jpg\"}, \"prompt\": \"a cup on the moon\", \"seeds\": [1, 2]}
Pictures named by a path are looked for beside the file. `echogen schema job`
prints all fields.

Examples:
  Run a file, with 4 threads; stop it with Ctrl-C and run it again to go on:
    echogen batch jobs.jsonl --out out/ --threads 4
  One JSON object a line for each job, for a program to read:
    echogen batch jobs.jsonl --out out/ --json
  Defaults for lines that do not say themselves:
    echogen batch jobs.jsonl --count 2 --pixels 0.06M --format webp

A line that is wrong is reported with its number and does not keep the others from running.
Any option is also ECHOGEN_<OPTION> in the environment, or a line of echogen.toml.";

const SEGMENT_EXAMPLES: &str = "\
Examples:
  Cut out the dog, by its outline:
    echogen segment park.jpg --name dog --mask sam --out out/
  There are two; the one at column 420, row 180:
    echogen segment park.jpg --name dog --point 420,180

OUT/cutout.png is the picture with everything else painted white, OUT/overlay.png the picture with
box, name and score drawn on it. Without --name the bundle's namer is asked; a bundle without a
detector takes the whole picture, or --box.";

/// Options that every command has.
#[derive(Args, Debug, Clone)]
pub(crate) struct GeneralOptions {
    /// TOML file with options; `echogen.toml` is read if it exists
    #[arg(long, global = true, env = "ECHOGEN_CONFIG", value_name = "FILE", help_heading = "General")]
    pub(crate) config: Option<PathBuf>,

    /// Print JSON, one object a line, for programs
    #[arg(long, global = true, env = "ECHOGEN_JSON", value_parser = clap::builder::BoolishValueParser::new(), help_heading = "General")]
    pub(crate) json: bool,

    /// What to log on standard error: off, error, warn, info, debug, trace, or a filter such as `echogen_worker=debug`
    #[arg(
        long,
        global = true,
        env = "ECHOGEN_LOG",
        value_name = "FILTER",
        default_value = "off",
        help_heading = "General"
    )]
    pub(crate) log: String,

    /// How log lines look: pretty, plain (full times, no colours) or json
    #[arg(
        long,
        global = true,
        env = "ECHOGEN_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "pretty",
        help_heading = "General"
    )]
    pub(crate) log_format: LogFormat,

    /// Collector that spans are sent to by OTLP over HTTP, such as `http://collector:4318`; otherwise none are
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", help_heading = "General")]
    pub(crate) otlp_endpoint: Option<String>,

    /// Share of the traces begun here that are kept, 0 to 1; those begun elsewhere are kept as decided there
    #[arg(
        long,
        global = true,
        env = "ECHOGEN_TRACE_RATIO",
        value_name = "SHARE",
        default_value_t = 1.0,
        value_parser = values::share,
        help_heading = "General"
    )]
    pub(crate) trace_ratio: f32,
}

/// Where to read networks, where to write, and with how many threads.
#[derive(Args, Debug, Clone)]
pub(crate) struct RunOptions {
    /// Folder for pictures and results; what is needed in between lies in OUT/.echogen and may be deleted
    #[arg(short, long, env = "ECHOGEN_OUT", value_name = "OUT", default_value = "out")]
    pub(crate) out: PathBuf,

    /// See [`ModelOptions`].
    #[command(flatten)]
    pub(crate) model: ModelOptions,

    /// Largest picture of a subject, in bytes
    #[arg(long, env = "ECHOGEN_MAX_IMAGE_BYTES", value_name = "BYTES", default_value_t = echogen_protocol::limits::MAX_IMAGE_BYTES, help_heading = "Limits")]
    pub(crate) max_image_bytes: u64,

    /// How often a stage is tried when something that may pass by goes wrong, such as a full disk
    #[arg(long, env = "ECHOGEN_ATTEMPTS", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Limits")]
    pub(crate) attempts: u32,
}

/// How to sample; in a batch, the defaults of lines that do not say themselves.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingOptions {
    /// What the picture should not show
    #[arg(long, env = "ECHOGEN_NEGATIVE_PROMPT", value_name = "TEXT")]
    pub(crate) negative_prompt: Option<String>,

    /// Seeds, one picture each, such as `7` or `1,2,3`
    #[arg(long, visible_alias = "seed", env = "ECHOGEN_SEEDS", value_name = "SEEDS", value_delimiter = ',')]
    pub(crate) seeds: Vec<u64>,

    /// Number of pictures, with seeds counting up from the first of --seeds, or from 42
    #[arg(long, env = "ECHOGEN_COUNT", value_name = "N")]
    pub(crate) count: Option<u32>,

    /// Width to height, such as 1:1, 16:9 or 1.5; the nearest shape of the schedule table is taken
    #[arg(long, visible_alias = "aspect", env = "ECHOGEN_ASPECT_RATIO", value_name = "RATIO")]
    pub(crate) aspect_ratio: Option<AspectRatio>,

    /// Size of the picture in millions of pixels
    #[arg(long, env = "ECHOGEN_PIXELS", value_name = "BUDGET", value_parser = values::pixel_budget())]
    pub(crate) pixels: Option<PixelBudget>,

    /// How strongly the picture follows the prompt: one number, or one for each scale such as `4,4,3,2.5`
    #[arg(long, env = "ECHOGEN_GUIDANCE_TEXT", value_name = "NUMBERS", value_parser = values::per_scale, allow_hyphen_values = true)]
    pub(crate) guidance_text: Option<PerScale>,

    /// How strongly the picture follows the subject; equal to the text guidance it is also fastest
    #[arg(long, env = "ECHOGEN_GUIDANCE_SUBJECT", value_name = "NUMBERS", value_parser = values::per_scale, allow_hyphen_values = true)]
    pub(crate) guidance_subject: Option<PerScale>,

    /// Above 1 is more varied, below 1 is safer
    #[arg(long, env = "ECHOGEN_TEMPERATURE", value_name = "NUMBERS", value_parser = values::per_scale, allow_hyphen_values = true)]
    pub(crate) temperature: Option<PerScale>,

    /// 1 always takes the likelier value; more changes nothing, since a bit has two values
    #[arg(long, env = "ECHOGEN_TOP_K", value_name = "N")]
    pub(crate) top_k: Option<u32>,

    /// Values rarer than 1 - P are never drawn
    #[arg(long, env = "ECHOGEN_TOP_P", value_name = "P")]
    pub(crate) top_p: Option<f64>,

    /// How the background is taken away: box (everything outside it turns white), sam, or none
    #[arg(long, env = "ECHOGEN_MASK", value_name = "MODE", value_parser = values::mask_mode())]
    pub(crate) mask: Option<MaskMode>,

    /// File format of the pictures
    #[arg(long, env = "ECHOGEN_FORMAT", value_name = "FORMAT", value_parser = values::output_format())]
    pub(crate) format: Option<OutputFormat>,

    /// Quality of a JPEG, 1 to 100
    #[arg(long, env = "ECHOGEN_QUALITY", value_name = "N")]
    pub(crate) quality: Option<u8>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct GenerateArguments {
    /// Picture of the subject: a file, or a data: address
    #[arg(short, long, env = "ECHOGEN_SUBJECT", value_name = "PICTURE")]
    pub(crate) subject: String,

    /// The scene, in words
    #[arg(short, long, env = "ECHOGEN_PROMPT", value_name = "TEXT")]
    pub(crate) prompt: String,

    /// What the subject is called, such as `dog`
    #[arg(long, env = "ECHOGEN_NAME", value_name = "TEXT")]
    pub(crate) name: Option<String>,

    /// Where the subject is: `left,top,right,bottom` in pixels; otherwise the networks find it
    #[arg(long = "box", env = "ECHOGEN_BOX", value_name = "BOX", value_parser = values::bounding_box)]
    pub(crate) bounding_box: Option<BoundingBox>,

    /// Names the job and its folder; otherwise a name that follows from all the settings
    #[arg(long, env = "ECHOGEN_ID", value_name = "ID")]
    pub(crate) id: Option<String>,

    /// See [`SamplingOptions`].
    #[command(flatten)]
    pub(crate) sampling: SamplingOptions,

    /// See [`RunOptions`].
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct BatchArguments {
    /// File with one job a line, as JSON; `-` reads standard input
    #[arg(env = "ECHOGEN_JOBS", value_name = "JOBS")]
    pub(crate) jobs: PathBuf,

    /// Jobs that are on their way at once; memory stays bounded by it
    #[arg(long, env = "ECHOGEN_IN_FLIGHT", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000), help_heading = "Limits")]
    pub(crate) in_flight: u32,

    /// See [`SamplingOptions`].
    #[command(flatten)]
    pub(crate) sampling: SamplingOptions,

    /// See [`RunOptions`].
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SchemaOf {
    /// A job: a line of a batch file, a message to the intake queue
    Job,
    /// A job's result.json
    Result,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every option that is set, its value, and whether a flag, the environment or the file says so
    Show {
        /// The command whose options to show, with any flags it would get, such as `generate --count 2`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
}
