//! `echogen models`: lists and shows bundles, and fetches, verifies and converts their files.
//!
//! The output goes to a given writer and every setting is an argument, so that tests run the same code.

mod convert;
#[cfg(test)]
mod hub_twin;
mod list;
mod plan;
mod pull;
mod show;
#[cfg(test)]
mod tests;
mod verify;

use anyhow::Context;
use echogen_checkpoint::bundle::{Bundle, Network};
use echogen_service::{Exit, bundle_folders, config::ServiceConfig};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// What to do with model bundles.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the bundles found, and whether their files are present
    List,
    /// Show a bundle's networks, files, licences and sampling defaults
    Show {
        /// Name of a bundle, or path of its TOML file or folder
        bundle: String,
    },
    /// Show what of a bundle fits into a device's memory, and the limits of batches that follow
    #[command(after_help = PLAN_HELP)]
    Plan(plan::PlanArguments),
    /// Fetch a bundle's files from their hub; resumes an interrupted run
    #[command(after_help = PULL_HELP)]
    Pull(pull::PullArguments),
    /// Read every file of a bundle and compare its length and SHA-256 with what is published
    Verify {
        /// Name of a bundle, or path of its TOML file or folder
        bundle: String,
    },
    /// Write a bundle with its weights in another type, or a checkpoint (.pth, .bin, sharded or not) as one .safetensors file
    #[command(after_help = CONVERT_HELP)]
    Convert(convert::ConvertArguments),
}

const PLAN_HELP: &str = "\
Examples:
  This machine:
    echogen models plan mini
  A GPU that is only described, without the weights:
    echogen models plan echogen-2b --memory 40GiB
  Another size, by its TOML file alone:
    echogen models plan my-size.toml --memory 24GB --dtype f16

The exit code is 1 if a picture of the bundle's default size does not fit.";

const PULL_HELP: &str = "\
Examples:
  Everything, about 35 GB:
    echogen models pull echogen-2b
  Only two of the networks:
    echogen models pull echogen-2b --network transformer --network visual_tokenizer

Some repositories require consent on their page first; then give your token as
ECHOGEN_MODEL_HUB_TOKEN or HF_TOKEN. A file whose SHA-256 is not the published one is deleted and
reported. Where none is published, the hub's own sum is compared, and the file's sum is recorded in
bundle.lock.toml.";

const CONVERT_HELP: &str = "\
Examples:
  A bundle for GPUs, in half the space and loaded in half the time:
    echogen models convert echogen-2b bundles/echogen-2b-bf16 --dtype bf16
  The same for a small GPU: the linear layers of transformer and text encoder in 8 bits, the rest in bf16:
    echogen models convert echogen-2b bundles/echogen-2b-q8_0 --dtype q8_0
  The EchoGen checkpoint, without its outer dictionaries, in half the space:
    echogen models convert echogen_2b.pth echogen_2b.safetensors --prefix trainer.gpt_fsdp --dtype bf16
  A sharded checkpoint into one file:
    echogen models convert model.safetensors.index.json model.safetensors";

/// Runs a command. Bundles are looked up by name in the configured folders; the first match is used.
///
/// The exit code is 2 if files of a bundle are missing or wrong.
///
/// # Errors
/// There is no such bundle, a file cannot be read, fetched or written, or standard output is closed.
pub(crate) fn run(command: &ModelsCommand, config: &ServiceConfig, json: bool) -> anyhow::Result<Exit> {
    let mut output = Output { writer: &mut std::io::stdout().lock(), json };
    run_with(command, &bundle_folders(config.model.bundles.as_deref()), config, &mut output)
}

fn run_with(
    command: &ModelsCommand,
    folders: &[PathBuf],
    config: &ServiceConfig,
    output: &mut Output,
) -> anyhow::Result<Exit> {
    match command {
        ModelsCommand::List => list::list(folders, output),
        ModelsCommand::Show { bundle } => show::show(&Bundle::find(bundle, folders)?, output),
        ModelsCommand::Plan(arguments) => {
            plan::plan(&Bundle::find(&arguments.bundle, folders)?, arguments, config, output)
        }
        ModelsCommand::Pull(arguments) => {
            pull::pull(&Bundle::find(&arguments.bundle, folders)?, arguments, &config.model, output)
        }
        ModelsCommand::Verify { bundle } => verify::verify(&Bundle::find(bundle, folders)?, output),
        ModelsCommand::Convert(arguments) => convert::convert(arguments, folders, output),
    }
}

/// The output's writer and format.
struct Output<'a> {
    writer: &'a mut dyn Write,
    json: bool,
}

impl Output<'_> {
    /// Writes one answer: `value` as one line of JSON, or the text.
    fn answer(&mut self, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
        let line = if self.json { serde_json::to_string(value)? } else { text.to_owned() };
        writeln!(self.writer, "{line}").context("cannot write the answer")
    }
}

/// Formats a number of bytes for people: `9.21 MB`.
fn human(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// Returns the total size of a network's files that exist.
fn bytes_present(bundle: &Bundle, network: Network) -> u64 {
    let files = bundle.manifest().network(network).map(|table| table.files.as_slice()).unwrap_or_default();
    files.iter().filter_map(|file| std::fs::metadata(bundle.path_of(file)).ok()).map(|metadata| metadata.len()).sum()
}
