//! Compares CLIP and DINO with reference values: `judge_parity DIR...`.
//!
//! `crates/models/examples/parity/FIXTURES.md` documents the layout of the folders. A folder's name says which network
//! it is for. Prints one line per output tensor, then the largest relative error.
#![allow(clippy::print_stdout, reason = "an example that reports to a person")]

mod clip;
#[expect(dead_code, reason = "shared with the crate models, whose networks need more of it")]
#[path = "../../../models/examples/parity/compare.rs"]
mod compare;
mod dino;
mod pictures;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Parser;
use compare::{Comparison, TOLERANCE};

/// Compares CLIP and DINO with fixture folders; exit code 1 if any tensor is off by more than 1e-4 of its magnitude.
#[derive(Parser)]
struct Arguments {
    /// Fixture folders; the name says which network: clip, dino.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut worst: f64 = 0.0;
    for folder in Arguments::parse().folders {
        for comparison in compare_folder(&folder).with_context(|| folder.display().to_string())? {
            println!("{comparison}");
            worst = worst.max(comparison.relative_error);
        }
    }
    println!("worst {worst:.3e}");
    Ok(if worst <= TOLERANCE { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn compare_folder(folder: &Path) -> anyhow::Result<Vec<Comparison>> {
    let name = folder.canonicalize()?.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    match name.as_str() {
        name if name.starts_with("clip") => clip::run(folder),
        name if name.starts_with("dino") && !name.starts_with("dinov2") => dino::run(folder),
        _ => bail!("{name:?} begins with neither clip nor dino; the example parity of echogen-models has the rest"),
    }
}
