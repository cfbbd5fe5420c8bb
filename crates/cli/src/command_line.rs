//! Turns the process's arguments into a command and its configuration.
//!
//! The command line consists of the commands' own arguments and, for each command, the flags of the settings it uses.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};
use echogen_service::{
    Failure,
    config::{Layers, Loaded, flags, given, settings},
};

use crate::arguments::Arguments;

/// The settings of a command that runs one role, or all.
const ROLE: [&str; 9] = [
    "broker",
    "cache",
    "store",
    "worker",
    "model",
    "finder",
    "fetch.max_image_bytes",
    "telemetry.listen",
    "telemetry.probe_seconds",
];

/// The settings of the gateway, which loads no network and fetches no picture.
const GATEWAY: [&str; 9] = [
    "gateway",
    "safety",
    "broker",
    "cache",
    "store",
    "products.cache_seconds",
    "fetch.max_image_bytes",
    "telemetry.listen",
    "telemetry.probe_seconds",
];

/// The settings of a command that makes products, and may wait for another process that makes the same one.
const PRODUCTS: [&str; 1] = ["products"];

/// The sampler's limits that a memory plan keeps where they are set.
const BATCHES: [&str; 5] = [
    "sampler.max_batch",
    "sampler.max_batch_tokens",
    "sampler.max_kv_bytes",
    "sampler.condition_cache_bytes",
    "sampler.subject_cache_bytes",
];

/// The settings of a job that are excluded where there is no queue: lane, tenant and callback.
const NO_QUEUE: [&str; 3] = ["!job.lane", "!job.tenant", "!job.callback"];

/// Returns the settings that a command uses: whole sections, single settings, and `!` before settings of a section
/// that it does not use. A command that is not listed uses only the settings common to all commands.
fn uses(path: &[&str]) -> Vec<&'static str> {
    match path {
        // The settings of every command: logs and traces.
        [] => vec!["telemetry", "!telemetry.listen", "!telemetry.probe_seconds"],
        ["generate" | "batch"] => {
            let own = ["job", "model", "finder", "sampler", "!sampler.scale_events", "fetch.max_image_bytes"];
            [&own[..], &["cache.memory_bytes"], &NO_QUEUE].concat()
        }
        ["segment"] => vec!["model", "finder", "job.mask", "!model.hub_endpoint", "!model.hub_token"],
        ["doctor"] => vec!["model", "!model.hub_endpoint", "!model.hub_token"],
        ["dispatcher"] => [&ROLE[..], &["fetch", "callbacks", "safety"]].concat(),
        ["segmenter" | "encoder"] => [&ROLE[..], &PRODUCTS].concat(),
        ["sampler"] => [&ROLE[..], &["sampler", "safety"]].concat(),
        ["gateway"] => GATEWAY.to_vec(),
        ["up" | "demo"] => [&ROLE[..], &PRODUCTS, &["fetch", "callbacks", "sampler", "safety", "gateway"]].concat(),
        ["submit"] => vec!["job", "broker", "store", "cache"],
        ["status" | "cancel" | "retry"] => vec!["broker", "cache", "store"],
        ["canary"] => vec!["job.lane", "job.pixels", "broker", "telemetry.listen"],
        ["dead-letters", _] | ["topology"] => vec!["broker"],
        ["usage"] => vec!["store"],
        ["models", "list" | "show" | "verify" | "convert"] => vec!["model.bundles"],
        ["models", "plan"] => [&["model.bundles", "model.device", "model.dtype"][..], &BATCHES].concat(),
        ["models", "pull"] => vec!["model.bundles", "model.hub_endpoint", "model.hub_token"],
        ["config", "show" | "check"] => settings().names_of_sections(),
        _ => Vec::new(),
    }
}

/// Returns the definition of the whole command line.
pub(crate) fn definition() -> Command {
    let general = flags(&uses(&[])).into_iter().map(|argument| argument.global(true).help_heading("General"));
    with_settings(Arguments::command().args(general), &[])
}

/// Adds the flags of settings to the subcommands of a command.
fn with_settings(command: Command, above: &[&str]) -> Command {
    command.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        let path = [above, &[name.as_str()]].concat();
        // The flags common to all commands exist already.
        let of_all = flags(&uses(&[]));
        let is_new = |argument: &Arg| !of_all.iter().any(|other| other.get_id() == argument.get_id());
        let own = flags(&uses(&path)).into_iter().filter(is_new);
        with_settings(command.args(own), &path)
    })
}

/// A parsed command line.
pub(crate) struct Line {
    pub(crate) arguments: Arguments,
    /// The command's name.
    pub(crate) name: String,
    matches: ArgMatches,
}

impl Line {
    /// Parses the process's arguments.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let mut matches = definition().try_get_matches_from(arguments)?;
        let arguments = Arguments::from_arg_matches(&matches)?;
        let name = matches.subcommand_name().unwrap_or_default().to_owned();
        while let Some((_, inner)) = matches.remove_subcommand() {
            matches = inner;
        }
        Ok(Self { arguments, name, matches })
    }

    /// Loads the configuration from this process's environment, the file and the flags.
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        self.layers().load().map_err(|error| Failure::usage(error.to_string()))
    }

    /// Returns the layers of the configuration.
    pub(crate) fn layers(&self) -> Layers {
        let file = self.arguments.general.config.clone();
        Layers { file, flags: given(&self.matches), ..Layers::of_process() }
    }
}

#[cfg(test)]
mod tests {
    use echogen_service::config::one_line;

    use super::*;
    use crate::arguments::Command as Chosen;

    #[track_caller]
    fn parse(arguments: &[&str]) -> Line {
        let arguments: Vec<OsString> = ["echogen"].iter().chain(arguments).map(OsString::from).collect();
        Line::parse(&arguments).unwrap()
    }

    fn error(arguments: &[&str]) -> String {
        let arguments: Vec<OsString> = ["echogen"].iter().chain(arguments).map(OsString::from).collect();
        one_line(&Line::parse(&arguments).map(|_| ()).unwrap_err(), &definition(), &arguments)
    }

    #[test]
    fn the_command_line_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn every_setting_is_a_flag_of_a_command_that_uses_it() {
        fn flags_of(command: &Command, is_config: bool, found: &mut Vec<String>) {
            let is_config = is_config || command.get_name() == "config";
            if !is_config {
                found.extend(command.get_arguments().map(|argument| argument.get_id().to_string()));
            }
            command.get_subcommands().for_each(|command| flags_of(command, is_config, found));
        }
        let mut found = Vec::new();
        flags_of(&definition(), false, &mut found);
        for setting in &settings().all {
            assert!(found.contains(&setting.name()), "no command has the flag of {}", setting.name());
        }
    }

    #[test]
    fn flags_of_a_command_are_its_settings() {
        let line = parse(&["generate", "-s", "dog.png", "-p", "a dog", "--count", "2", "--device=cpu", "--json"]);
        let config = line.load().unwrap().config;
        assert_eq!((config.job.count, config.model.device.to_string().as_str()), (Some(2), "cpu"));
        assert!(line.arguments.general.json && matches!(line.arguments.command, Chosen::Generate(_)));
        // The flags common to all commands may be before or after the command's name.
        for given in [&["--log", "debug", "topology"][..], &["topology", "--log", "debug"]] {
            assert_eq!(parse(given).load().unwrap().config.telemetry.log, "debug");
        }
        let line = parse(&["models", "pull", "mini", "--bundles", "b", "--hub-token", "t"]);
        assert_eq!(line.load().unwrap().config.model.hub_token.unwrap().expose(), "t");
    }

    #[test]
    fn missing_and_misspelt_flags_fit_on_one_line() {
        assert_eq!(
            error(&["generate", "--subject", "a"]),
            "the following required arguments were not provided: --prompt <TEXT>; see `echogen generate --help`"
        );
        assert_eq!(
            error(&["generate", "--promt", "a"]),
            "`echogen generate` has no flag --promt; did you mean --prompt?; see `echogen generate --help`"
        );
        assert_eq!(
            error(&["submit", "--amqp-url", "amqp://me:hunter2@h"]),
            "`echogen submit` has no flag --amqp-url; did you mean --broker-url?; see `echogen submit --help`"
        );
    }

    #[test]
    fn the_help_teaches() {
        let help = |name: &str| {
            let mut command = definition();
            command.build();
            let mut found = &mut command;
            for name in name.split_whitespace() {
                found = found.find_subcommand_mut(name).unwrap();
            }
            found.clone().term_width(100).render_long_help().to_string()
        };
        for name in [
            "status",
            "submit",
            "dead-letters",
            "dead-letters list",
            "dead-letters redrive",
            "keys",
            "keys new",
            "usage",
            "demo",
        ] {
            assert!(help(name).contains("Examples:\n  "), "{name}");
        }
        for name in ["", "generate", "batch", "keys new"] {
            insta::assert_snapshot!(format!("help-{}", name.replace(' ', "-")), help(name));
        }
    }
}
