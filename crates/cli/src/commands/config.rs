//! `echogen config`: what is in force and who said so, whether it is valid, and a file with all defaults.

use clap::Subcommand;
use echogen_service::{
    Exit,
    config::{Layers, Loaded, Origin, Shown, default_file},
    console::{print_error, print_json, print_line},
};
use serde_json::json;

pub(crate) const CONFIG_EXAMPLES: &str = "\
Examples:
  Print all values, and where each comes from:
    echogen config show
  Write a file to start from:
    echogen config default > echogen.toml
  Check a file:
    echogen config check --config echogen.toml";

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting, its value, and where the value comes from
    Show,
    /// Check the configuration: unknown names, wrong values, contradictions
    Check,
    /// Print a commented file with every setting at its default
    Default,
}

/// Runs `echogen config show`.
pub(crate) fn show(loaded: &Loaded, as_json: bool) -> Exit {
    for shown in loaded.shown() {
        if as_json {
            print_json("setting", &as_value(&shown));
        } else {
            print_line(&shown.to_string());
        }
    }
    Exit::Success
}

fn as_value(shown: &Shown) -> serde_json::Value {
    let (layer, at) = match &shown.origin {
        Origin::Default => ("default", None),
        Origin::File { path, line } => ("file", Some(format!("{}, line {line}", path.display()))),
        Origin::Environment { variable } => ("environment", Some(variable.clone())),
        Origin::Flag { flag } => ("flag", Some(flag.clone())),
    };
    json!({ "name": shown.name, "value": shown.value, "layer": layer, "at": at })
}

/// Runs `echogen config check`: every mistake on a line of its own.
pub(crate) fn check(layers: &Layers) -> Exit {
    match layers.load() {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| print_error(format_args!("warning: {warning}")));
            print_line("the configuration is valid");
            Exit::Success
        }
        Err(error) => {
            error.messages.iter().for_each(|message| print_error(format_args!("error: {message}")));
            Exit::Usage
        }
    }
}

/// Runs `echogen config default`.
pub(crate) fn default() -> Exit {
    print_line(default_file().trim_end());
    Exit::Success
}
