//! `echogen models convert`: converts any checkpoint into one `.safetensors` file.

use super::{Output, human};
use echogen_checkpoint::{Checkpoint, ConvertOptions, StoredType};
use echogen_service::Exit;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::PathBuf;

/// What to convert, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct ConvertArguments {
    /// The checkpoint: .safetensors, .pth, .pt, .bin, or the .index.json of a sharded one
    input: PathBuf,
    /// The .safetensors file to write
    output: PathBuf,
    /// Type of floating-point tensors; absent: each as it is
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<FloatType>,
    /// Keep only what lies below this key, without the key; a checkpoint that has nothing below it is taken whole
    #[arg(long, value_name = "KEY")]
    prefix: Option<String>,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

/// Types that floating-point tensors can be converted to.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FloatType {
    F32,
    F16,
    Bf16,
}

/// The output.
#[derive(Serialize)]
struct Converted<'a> {
    output: &'a PathBuf,
    tensors: usize,
    bytes: u64,
}

pub(super) fn convert(arguments: &ConvertArguments, output: &mut Output) -> anyhow::Result<Exit> {
    let checkpoint = Checkpoint::open(&arguments.input)?;
    let checkpoint = match &arguments.prefix {
        Some(prefix) => checkpoint.below(prefix),
        None => checkpoint,
    };
    let options = ConvertOptions { dtype: arguments.dtype.map(FloatType::stored), overwrite: arguments.force };
    let bar =
        ProgressBar::new(0).with_style(ProgressStyle::with_template("[{wide_bar}] {bytes}/{total_bytes} ({eta})")?);
    let summary = checkpoint.convert(&arguments.output, options, &mut |written, total| {
        bar.set_length(total);
        bar.set_position(written);
    })?;
    bar.finish_and_clear();
    let text = format!("{}: {} tensors, {}", arguments.output.display(), summary.tensors, human(summary.bytes));
    let converted = Converted { output: &arguments.output, tensors: summary.tensors, bytes: summary.bytes };
    output.answer(&converted, &text)?;
    Ok(Exit::Success)
}

impl FloatType {
    fn stored(self) -> StoredType {
        match self {
            Self::F32 => StoredType::F32,
            Self::F16 => StoredType::F16,
            Self::Bf16 => StoredType::BF16,
        }
    }
}
