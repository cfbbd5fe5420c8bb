//! Compares the networks with reference values: `parity DIR...`.
//!
//! The folder's name (up to the first further `-`, `_` or digit group) says which network it is for; `FIXTURES.md`
//! beside this file documents the layouts. Prints one line per output tensor, then the largest relative error.
#![allow(clippy::print_stdout, reason = "an example that reports to a person")]

mod bsq;
mod compare;
mod dinov2;
mod echogen;
mod flux_vae;
mod grounding_dino;
mod preprocess;
mod qwen2_5_vl;
mod sam;
mod t5;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use compare::{Comparison, Setup};
use echogen_models::{
    device::{Compute, DeviceChoice, Precision},
    layers::{Kernels, with_kernels},
};

/// Networks that only evaluation uses. Their fixtures are in the same folder, and are skipped here.
const JUDGES: [&str; 2] = ["clip", "dino"];

/// Compares the networks with fixture folders. In f32 the exit code is 1 if any tensor is off by more than 1e-4 of its
/// magnitude; in a reduced type, if the root-mean-square error of any tensor of 50 values and more is above 1.5 times
/// PyTorch's own, which the folder's `reduced.json` says.
#[derive(Parser)]
struct Arguments {
    /// Fixture folders; the name says which network: t5, dinov2, flux-vae, bsq, echogen, grounding-dino,
    /// qwen2.5-vl, sam, preprocess.
    #[arg(required = true)]
    folders: Vec<PathBuf>,

    /// Our vectorised loops where they apply (on a CPU in f32), or candle's operations everywhere, as on a GPU.
    #[arg(long, value_enum, default_value_t = Way::Own)]
    kernels: Way,

    /// Type of the weights: f32, bf16 or f16.
    #[arg(long, default_value = "f32")]
    dtype: Precision,

    /// Where the networks run: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// See [`Kernels`].
#[derive(Clone, Copy, ValueEnum)]
enum Way {
    Own,
    Generic,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let Compute { device, dtype } = arguments.device.open(arguments.dtype)?;
    let kernels = match arguments.kernels {
        Way::Own => Kernels::Own,
        Way::Generic => Kernels::Generic,
    };
    with_kernels(kernels, || compare_all(&arguments.folders, &Setup { device, dtype }))
}

fn compare_all(folders: &[PathBuf], setup: &Setup) -> anyhow::Result<ExitCode> {
    let mut comparisons = Vec::new();
    for folder in folders {
        let name = folder.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if !folder.join("io.safetensors").exists() {
            println!("{name} skipped: it has no io.safetensors");
            continue;
        }
        if JUDGES.iter().any(|judge| name.starts_with(judge)) && !name.starts_with("dinov2") {
            println!("{name} skipped: for evaluation only, compared by the example judge_parity of echogen-eval");
            continue;
        }
        for comparison in compare_folder(folder, &name, setup).with_context(|| folder.display().to_string())? {
            println!("{comparison}");
            comparisons.push(comparison);
        }
    }
    ensure!(!comparisons.is_empty(), "none of the folders has tensors to compare");
    let worst = |of: fn(&Comparison) -> Option<f64>| comparisons.iter().filter_map(of).fold(0.0, f64::max);
    if setup.is_reduced() {
        println!("worst ratio {:.2}", worst(|comparison| comparison.ratio.filter(|_| comparison.severity() > 0.0)));
    } else {
        println!("worst {:.3e}", worst(|comparison| Some(comparison.relative_error)));
    }
    let is_past = comparisons.iter().any(|comparison| comparison.severity() > 1.0);
    Ok(if is_past { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn compare_folder(folder: &Path, name: &str, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    match name {
        name if name.starts_with("t5") => t5::run(folder, setup),
        name if name.starts_with("dinov2") => dinov2::run(folder, setup),
        name if name.starts_with("flux") => flux_vae::run(folder, setup),
        name if name.starts_with("bsq") => bsq::run(folder, setup),
        name if name.starts_with("echogen") => echogen::run(folder, setup),
        name if name.starts_with("grounding") => grounding_dino::run(folder, setup),
        // Pictures are prepared on the CPU, in bytes and float32.
        name if name.starts_with("preprocess") => preprocess::run(folder, &Setup::default()),
        name if name.starts_with("sam") => sam::run(folder, setup),
        name if name.starts_with("qwen") => qwen2_5_vl::run(folder, setup),
        _ => bail!("no network has a name that {name:?} begins with; see FIXTURES.md"),
    }
}
