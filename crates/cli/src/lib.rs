//! The `echogen` command: parses arguments, calls the service, prints what it returns.

mod arguments;
mod carried_bundle;
mod command_line;
mod commands;
mod contact_sheet;
mod models_command;
mod report;
mod results_table;
mod values;

use std::{ffi::OsString, process::ExitCode};

use echogen_protocol::{Job, JobResult, RoleName};
use echogen_service::{
    Exit, Failure, NetworkSource, block_on,
    config::{self, Loaded, ServiceConfig},
    console::{answer_of, exit_code, print_error, print_line},
};
use echogen_telemetry::Telemetry;

use arguments::{Command, SchemaOf};
use command_line::{Line, definition};
use commands::{
    canary, config as config_command, config::ConfigCommand, dead_letters, demo, doctor, jobs, keys, roles, segment,
    status, submit, topology, usage,
};
use models_command::ModelsCommand;

/// The definition of the whole command line, for checks of what pages say about it.
pub fn command() -> clap::Command {
    definition()
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    main_with(&std::env::args_os().collect::<Vec<_>>())
}

/// Runs the program with these arguments, the first of which is its name.
pub fn main_with(arguments: &[OsString]) -> ExitCode {
    exit_code(run(arguments))
}

/// Runs `echogen batch` with these networks in the place of a bundle's, to measure what is around them.
pub fn batch_with(networks: impl NetworkSource + 'static, arguments: &[OsString]) -> ExitCode {
    exit_code(run_batch(networks, arguments))
}

fn run_batch(networks: impl NetworkSource + 'static, arguments: &[OsString]) -> Result<Exit, Failure> {
    let line = Line::parse(arguments).map_err(|error| Failure::usage(error.to_string()))?;
    let loaded = line.load()?;
    let Command::Batch(batch) = &line.arguments.command else {
        return Err(Failure::usage("these networks are for `echogen batch`"));
    };
    let load = async move |_: &ServiceConfig| Ok(networks);
    block_on(jobs::batch_on(load, batch, &loaded.config, line.arguments.general.json))
}

fn run(arguments: &[OsString]) -> Result<Exit, Failure> {
    let line = match Line::parse(arguments) {
        Ok(line) => line,
        Err(error) => return answer_of(&error, &definition(), arguments),
    };
    match &line.arguments.command {
        // These commands need no configuration, and must also work if the configuration is invalid.
        Command::Schema { of } => {
            print_schema(*of);
            Ok(Exit::Success)
        }
        Command::Config(ConfigCommand::Default) => Ok(config_command::default()),
        Command::Keys(command) => {
            let callbacks_secret = || Ok(line.load()?.config.callbacks.secret);
            keys::run(command, callbacks_secret, line.arguments.general.json)
        }
        Command::Config(ConfigCommand::Check) => Ok(config_command::check(&line.layers())),
        command => {
            let mut loaded = line.load()?;
            loaded.warnings.iter().for_each(|warning| print_error(format_args!("warning: {warning}")));
            if matches!(command, Command::Config(_)) {
                return Ok(config_command::show(&loaded, line.arguments.general.json));
            }
            provide_bundle(command, &mut loaded.config).map_err(|failure| as_written(&loaded, failure))?;
            let options = loaded.config.telemetry.options(&format!("echogen-{}", line.name));
            let telemetry = echogen_telemetry::init(&options);
            let telemetry = telemetry.map_err(|error| Failure::usage(loaded.as_written(&error.to_string())))?;
            echogen_telemetry::metrics().build(env!("CARGO_PKG_VERSION"));
            let ended = run_command(command, &loaded.config, &telemetry, line.arguments.general.json);
            ended.map_err(|failure| as_written(&loaded, failure))
        }
    }
}

/// Adapters and the service name settings as `section.name`; here they are replaced by the names the user gave.
fn as_written(loaded: &Loaded, failure: Failure) -> Failure {
    Failure { message: loaded.as_written(&failure.message), ..failure }
}

/// Where no bundle is installed, a command that needs one gets that which the program carries.
fn provide_bundle(command: &Command, config: &mut ServiceConfig) -> Result<(), Failure> {
    match command {
        Command::Generate(_)
        | Command::Batch(_)
        | Command::Segment(_)
        | Command::Doctor(_)
        | Command::Dispatcher
        | Command::Segmenter
        | Command::Encoder
        | Command::Sampler
        | Command::Up
        | Command::Demo(_) => carried_bundle::provide(config),
        Command::Models(
            ModelsCommand::List | ModelsCommand::Show { .. } | ModelsCommand::Plan(_) | ModelsCommand::Verify { .. },
        ) => carried_bundle::provide_alone(config),
        _ => Ok(()),
    }
}

fn run_command(
    command: &Command,
    config: &ServiceConfig,
    telemetry: &Telemetry,
    as_json: bool,
) -> Result<Exit, Failure> {
    match command {
        Command::Generate(arguments) => jobs::generate(arguments, config, as_json),
        Command::Batch(arguments) => jobs::batch(arguments, config, as_json),
        Command::Doctor(arguments) => doctor::run(arguments, config, as_json),
        Command::Segment(arguments) => segment::run(arguments, config, as_json),
        Command::Dispatcher => roles::one(RoleName::Dispatcher, config, telemetry),
        Command::Segmenter => roles::one(RoleName::Segmenter, config, telemetry),
        Command::Encoder => roles::one(RoleName::Encoder, config, telemetry),
        Command::Sampler => roles::one(RoleName::Sampler, config, telemetry),
        Command::Gateway => roles::gateway(config, telemetry),
        Command::Up => roles::up(config, telemetry),
        Command::Demo(arguments) => demo::run(arguments, config, telemetry),
        Command::Submit(arguments) => submit::run(arguments, config, as_json),
        Command::Status(arguments) => status::status(arguments, config, as_json),
        Command::Cancel(arguments) => status::cancel(arguments, config, as_json),
        Command::Retry(arguments) => status::retry(arguments, config, as_json),
        Command::Canary(arguments) => canary::run(arguments, config, telemetry, as_json),
        Command::DeadLetters(command) => dead_letters::run(command, config, as_json),
        Command::Usage(arguments) => usage::run(arguments, config, as_json),
        Command::Topology(arguments) => topology::run(arguments, config, as_json),
        Command::Models(command) => {
            models_command::run(command, config, as_json).map_err(|error| Failure::usage(format!("{error:#}")))
        }
        // These were handled before the configuration was loaded.
        Command::Schema { .. } | Command::Config(_) | Command::Keys(_) => Ok(Exit::Success),
    }
}

fn print_schema(of: SchemaOf) {
    let schema = match of {
        SchemaOf::Job => Job::schema().clone(),
        SchemaOf::Result => schemars::schema_for!(JobResult).to_value(),
        SchemaOf::Config => config::schema(),
    };
    print_line(&format!("{schema:#}"));
}
