//! `echogen models convert`: converts any checkpoint into one `.safetensors` file, and a bundle into one with other types.

use super::{Output, human};
use anyhow::{Context, bail};
use echogen_checkpoint::bundle::{Bundle, MANIFEST_FILE, Network};
use echogen_checkpoint::{Checkpoint, ConvertOptions, Form, WeightType};
use echogen_models::reduced_weights;
use echogen_service::Exit;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Endings of checkpoints. Anything else is a bundle.
const CHECKPOINTS: [&str; 6] = ["safetensors", "json", "pth", "pt", "bin", "ckpt"];

/// What to convert, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct ConvertArguments {
    /// A bundle, by name or path, or one checkpoint: .safetensors, .pth, .pt, .bin, or the .index.json of a sharded one
    input: PathBuf,
    /// The folder of the new bundle, whose name is its name, or the .safetensors file to write
    output: PathBuf,
    /// Type of the weights: f32, f16, bf16, or for a bundle q8_0; absent: each as it is
    #[arg(long, value_name = "TYPE")]
    dtype: Option<WeightType>,
    /// Of a checkpoint: keep only what lies below this key, without the key; a checkpoint that has nothing below it is taken whole
    #[arg(long, value_name = "KEY")]
    prefix: Option<String>,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

/// The output.
#[derive(Serialize)]
struct Converted<'a> {
    output: &'a PathBuf,
    tensors: usize,
    bytes: u64,
}

pub(super) fn convert(arguments: &ConvertArguments, folders: &[PathBuf], output: &mut Output) -> anyhow::Result<Exit> {
    let ending = arguments.input.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let converted = if CHECKPOINTS.contains(&ending) { checkpoint(arguments)? } else { bundle(arguments, folders)? };
    let text = format!("{}: {} tensors, {}", arguments.output.display(), converted.tensors, human(converted.bytes));
    output.answer(&converted, &text)?;
    Ok(Exit::Success)
}

fn bar() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("[{wide_bar}] {bytes}/{total_bytes} ({eta})")?;
    Ok(ProgressBar::new(0).with_style(style))
}

fn checkpoint(arguments: &ConvertArguments) -> anyhow::Result<Converted<'_>> {
    let dtype = match arguments.dtype {
        None => None,
        Some(dtype) => match dtype.stored() {
            Some(stored) => Some(stored),
            None => bail!("a checkpoint does not say which weights can be {dtype}; convert the bundle that names it"),
        },
    };
    let checkpoint = Checkpoint::open(&arguments.input)?;
    let checkpoint = match &arguments.prefix {
        Some(prefix) => checkpoint.below(prefix),
        None => checkpoint,
    };
    let options = ConvertOptions { dtype, overwrite: arguments.force };
    let bar = bar()?;
    let summary = checkpoint.convert(&arguments.output, options, &mut |written, total| {
        bar.set_length(total);
        bar.set_position(written);
    })?;
    bar.finish_and_clear();
    Ok(Converted { output: &arguments.output, tensors: summary.tensors, bytes: summary.bytes })
}

fn bundle<'a>(arguments: &'a ConvertArguments, folders: &[PathBuf]) -> anyhow::Result<Converted<'a>> {
    if arguments.prefix.is_some() {
        bail!("--prefix is for one checkpoint; a bundle's manifest names its own");
    }
    let name = arguments.input.to_str().context("the name of a bundle is UTF-8")?;
    let bundle = Bundle::find(name, folders)?;
    if arguments.force {
        remove_manifest(&arguments.output)?;
    }
    let bar = bar()?;
    let mut progress = |written, total| {
        bar.set_length(total);
        bar.set_position(written);
    };
    let written = match arguments.dtype {
        Some(dtype) => {
            let form = reduced_weights::forms(&bundle, dtype)?;
            bundle.convert(&arguments.output, &form, &format!("Weights in {dtype}."), &mut progress)?
        }
        None => bundle.convert(&arguments.output, &|_, _, _| Form::AsStored, "", &mut progress)?,
    };
    bar.finish_and_clear();
    let tensors = |network: Network| anyhow::Ok(written.checkpoint(network)?.names().count());
    let tensors = written.manifest().networks().map(|(network, _)| tensors(network)).sum::<anyhow::Result<usize>>()?;
    let files = written.manifest().networks().flat_map(|(_, table)| &table.files);
    let bytes = files.filter_map(|file| file.size).sum();
    Ok(Converted { output: &arguments.output, tensors, bytes })
}

/// Until the new manifest is there, the folder is no bundle.
fn remove_manifest(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(MANIFEST_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace {}", path.display()))
        }
        _ => Ok(()),
    }
}
