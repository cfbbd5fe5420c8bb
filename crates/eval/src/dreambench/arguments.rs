//! The arguments of `echogen-eval` for DreamBench.

use std::path::PathBuf;

use clap::Args;

/// What is evaluated, and by whom.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "DreamBench")]
pub(crate) struct DreamBenchArguments {
    /// Evaluate on the photographs of DreamBench instead: a clone of google/dreambooth, or a folder like its `dataset`
    #[arg(
        long,
        value_name = "FOLDER",
        conflicts_with_all = ["pictures", "scenes", "quick", "sweep", "grid"]
    )]
    pub(crate) dreambench: Option<PathBuf>,

    /// Folder with the published files of facebook/dino-vits16, for DINO
    #[arg(long, value_name = "FOLDER", requires = "dreambench")]
    pub(crate) dino: Option<PathBuf>,

    /// Folder with the published files of openai/clip-vit-base-patch32, for CLIP-I and CLIP-T
    #[arg(long, value_name = "FOLDER", requires = "dreambench")]
    pub(crate) clip: Option<PathBuf>,

    /// Keep the pictures in this folder; those that are there already are not made again
    #[arg(long, value_name = "FOLDER", requires = "dreambench")]
    pub(crate) keep: Option<PathBuf>,

    /// Pictures of each sentence, with seeds counting up from the bundle's
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        requires = "dreambench",
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    pub(crate) per_prompt: u32,

    /// Only these subjects, such as `dog,teapot`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "dreambench")]
    pub(crate) subjects: Vec<String>,
}
