//! The `echogen` command: reads arguments, calls the service, prints what it returns.

mod arguments;
mod commands;
mod config;
mod contact_sheet;
mod eval;
mod finder_options;
mod generate;
mod model_options;
mod models_command;
mod report;
mod sampling;
mod segment;
mod service;
mod values;

use std::{ffi::OsString, process::ExitCode};

use clap::{FromArgMatches, error::ErrorKind};
use echogen_protocol::{Job, JobResult};
use echogen_telemetry::{Options, Otlp};

use echogen_service::{
    Exit, Failure, RoleName, bundle_folders,
    console::{all_printed, note_printed, print_error, print_json, print_line},
};

use arguments::{Arguments, Command, ConfigCommand, GeneralOptions, SchemaOf};
use commands::{canary, dead_letters, jobs, roles, status, submit, topology};

/// Runs the program on the process's own arguments.
pub fn main() -> ExitCode {
    match run(std::env::args_os().collect()).and_then(all_printed) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            print_error(format_args!("error: {}", failure.message));
            failure.exit.into()
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<Exit, Failure> {
    let command = config::command(&arguments)?;
    let matches = match command.clone().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return shown(&error),
    };
    let Arguments { command: chosen, general } =
        Arguments::from_arg_matches(&matches).map_err(|error| Failure::usage(config::one_line(&error)))?;
    let telemetry = echogen_telemetry::init(&telemetry_options(&general, command_name(&matches)));
    let telemetry = telemetry.map_err(|error| Failure::usage(error.to_string()))?;
    echogen_telemetry::metrics().build(env!("CARGO_PKG_VERSION"));
    match chosen {
        Command::Generate(arguments) => jobs::generate(&arguments, &general),
        Command::Batch(arguments) => jobs::batch(&arguments, &general),
        Command::Segment(arguments) => segment::run(&arguments, &general),
        Command::Eval(arguments) => eval::run(&arguments, &general),
        Command::Dispatcher(arguments) => roles::one(RoleName::Dispatcher, &arguments, &telemetry),
        Command::Segmenter(arguments) => roles::one(RoleName::Segmenter, &arguments, &telemetry),
        Command::Encoder(arguments) => roles::one(RoleName::Encoder, &arguments, &telemetry),
        Command::Sampler(arguments) => roles::one(RoleName::Sampler, &arguments, &telemetry),
        Command::Up(arguments) => roles::up(&arguments, &telemetry),
        Command::Submit(arguments) => submit::run(&arguments, general.json),
        Command::Status(arguments) => status::status(&arguments, general.json),
        Command::Cancel(arguments) => status::cancel(&arguments, general.json),
        Command::Canary(arguments) => canary::run(&arguments, &telemetry, general.json),
        Command::DeadLetters(arguments) => dead_letters::run(&arguments.command, general.json),
        Command::Topology(arguments) => topology::run(&arguments, general.json),
        Command::Schema { of } => {
            print_schema(of);
            Ok(Exit::Success)
        }
        Command::Models(arguments) => {
            let folders = bundle_folders(arguments.bundles.as_deref());
            models_command::run(arguments.command, &folders, general.json)
                .map_err(|error| Failure::usage(format!("{error:#}")))
        }
        Command::Config(ConfigCommand::Show { command: shown }) => {
            // What follows the command's name is that command's, so an option of ours may stand there too.
            let json = general.json || shown.iter().any(|argument| argument == "--json");
            show_config(command, &shown, json)
        }
    }
}

fn command_name(matches: &clap::ArgMatches) -> &str {
    matches.subcommand_name().unwrap_or_default()
}

fn telemetry_options(general: &GeneralOptions, command: &str) -> Options {
    let otlp = general.otlp_endpoint.as_ref().filter(|endpoint| !endpoint.is_empty()).map(|endpoint| Otlp {
        endpoint: endpoint.clone(),
        service: format!("echogen-{command}"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ratio: general.trace_ratio.into(),
    });
    Options { format: general.log_format, filter: general.log.clone(), otlp }
}

/// Help and version are answers; anything else clap says is a mistake in the command line.
fn shown(error: &clap::Error) -> Result<Exit, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            note_printed(error.print());
            Ok(Exit::Success)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // It goes to standard error: nobody is left to be told if this cannot be printed.
            drop(error.print());
            Ok(Exit::Usage)
        }
        _ => Err(Failure::usage(config::one_line(error))),
    }
}

fn print_schema(of: SchemaOf) {
    let schema = match of {
        SchemaOf::Job => Job::schema().clone(),
        SchemaOf::Result => schemars::schema_for!(JobResult).to_value(),
    };
    print_line(&format!("{schema:#}"));
}

fn show_config(command: clap::Command, shown: &[String], json: bool) -> Result<Exit, Failure> {
    let default = ["generate".to_owned()];
    let shown = if shown.is_empty() { &default } else { shown };
    let settings = config::show(command, shown).map_err(|error| Failure::usage(config::one_line(&error)))?;
    for setting in &settings {
        if json {
            print_json("setting", setting);
        } else {
            print_line(&format!("{} = {:?}  # {}", setting.name, setting.value, setting.source));
        }
    }
    Ok(Exit::Success)
}
