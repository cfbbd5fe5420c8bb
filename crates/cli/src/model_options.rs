//! Which networks a command takes, the same for every command that has some.

use std::path::PathBuf;

use clap::Args;
use echogen_models::device::{DeviceChoice, Precision};

use crate::finder_options::FinderOptions;

/// Which networks, where they compute, and with how many threads.
#[derive(Args, Debug, Clone)]
pub(crate) struct ModelOptions {
    /// Model bundle: the name of a bundle, or the path of its TOML file or folder
    #[arg(long, env = "ECHOGEN_BUNDLE", value_name = "NAME|PATH", default_value = "mini", help_heading = "Model")]
    pub(crate) bundle: String,

    /// Folder with bundles; otherwise `bundles/` here, then beside the program
    #[arg(long, env = "ECHOGEN_BUNDLES", value_name = "FOLDER", help_heading = "Model")]
    pub(crate) bundles: Option<PathBuf>,

    /// Threads for the networks; otherwise one for each core
    #[arg(long, env = "ECHOGEN_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Model")]
    pub(crate) threads: Option<u16>,

    /// Where the networks compute: auto (the first GPU if there is one), cpu, cuda, or cuda:1 for the second GPU
    #[arg(long, env = "ECHOGEN_DEVICE", value_name = "DEVICE", default_value = "auto", help_heading = "Model")]
    pub(crate) device: DeviceChoice,

    /// Type that the heavy networks compute in: auto (f32 on the processor, bf16 on a GPU), f32, f16 or bf16
    #[arg(long, env = "ECHOGEN_DTYPE", value_name = "TYPE", default_value = "auto", help_heading = "Model")]
    pub(crate) dtype: Precision,

    /// See [`FinderOptions`].
    #[command(flatten)]
    pub(crate) finder: FinderOptions,
}
