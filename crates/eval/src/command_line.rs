//! Parsing of the process's arguments into an evaluation and its configuration.

use std::ffi::OsString;

use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use echogen_service::{
    Failure,
    config::{Layers, Loaded, flags, given},
};

use crate::arguments::EvalArguments;

/// The settings that an evaluation reads: those of the networks and of sampling.
const USES: [&str; 10] = [
    "model",
    "!model.hub_endpoint",
    "!model.hub_token",
    "finder",
    "job.guidance_text",
    "job.guidance_subject",
    "job.temperature",
    "job.top_p",
    "telemetry",
    "!telemetry.listen",
];

/// Returns the definition of the command line.
pub(crate) fn definition() -> Command {
    EvalArguments::command().args(flags(&USES))
}

/// A parsed command line.
pub(crate) struct Line {
    pub(crate) arguments: EvalArguments,
    matches: ArgMatches,
}

impl Line {
    /// Parses the process's arguments.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let matches = definition().try_get_matches_from(arguments)?;
        Ok(Self { arguments: EvalArguments::from_arg_matches(&matches)?, matches })
    }

    /// Loads the configuration from this process's environment, the file, and the flags.
    pub(crate) fn load(&self) -> Result<Loaded, Failure> {
        let (file, flags) = (self.arguments.config.clone(), given(&self.matches));
        let layers = Layers { file, flags, ..Layers::of_process() };
        layers.load().map_err(|error| Failure::usage(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[&str]) -> Result<Line, clap::Error> {
        let arguments: Vec<OsString> = ["echogen-eval"].iter().chain(given).map(OsString::from).collect();
        Line::parse(&arguments)
    }

    #[test]
    fn the_command_line_is_consistent_and_has_the_flags_of_its_settings() {
        definition().debug_assert();
        let line = parse(&["--quick", "--json", "--guidance-text", "4", "--bundle=other"]).unwrap();
        let config = line.load().unwrap().config;
        assert!(line.arguments.quick && line.arguments.json && config.job.guidance_text.is_some());
        assert_eq!(config.model.bundle, "other");
        assert!(parse(&["--dreambench", "folder", "--sweep", "a.png"]).is_err(), "photographs are not swept");
    }
}
