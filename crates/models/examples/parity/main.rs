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

use anyhow::{Context, bail};
use clap::Parser;
use compare::{Comparison, TOLERANCE};

/// Networks that only evaluation uses. Their fixtures are in the same folder, and are skipped here.
const JUDGES: [&str; 2] = ["clip", "dino"];

/// Compares the networks with fixture folders; exit code 1 if any tensor is off by more than 1e-4 of its magnitude.
#[derive(Parser)]
struct Arguments {
    /// Fixture folders; the name says which network: t5, dinov2, flux-vae, bsq, echogen, grounding-dino,
    /// qwen2.5-vl, sam, preprocess.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut worst: f64 = 0.0;
    for folder in Arguments::parse().folders {
        let name = folder.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if JUDGES.iter().any(|judge| name.starts_with(judge)) && !name.starts_with("dinov2") {
            println!("{name} skipped: for evaluation only, compared by the example judge_parity of echogen-eval");
            continue;
        }
        for comparison in compare_folder(&folder, &name).with_context(|| folder.display().to_string())? {
            println!("{comparison}");
            worst = worst.max(comparison.relative_error);
        }
    }
    println!("worst {worst:.3e}");
    Ok(if worst <= TOLERANCE { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn compare_folder(folder: &Path, name: &str) -> anyhow::Result<Vec<Comparison>> {
    match name {
        name if name.starts_with("t5") => t5::run(folder),
        name if name.starts_with("dinov2") => dinov2::run(folder),
        name if name.starts_with("flux") => flux_vae::run(folder),
        name if name.starts_with("bsq") => bsq::run(folder),
        name if name.starts_with("echogen") => echogen::run(folder),
        name if name.starts_with("grounding") => grounding_dino::run(folder),
        name if name.starts_with("preprocess") => preprocess::run(folder),
        name if name.starts_with("sam") => sam::run(folder),
        name if name.starts_with("qwen") => qwen2_5_vl::run(folder),
        _ => bail!("no network has a name that {name:?} begins with; see FIXTURES.md"),
    }
}
