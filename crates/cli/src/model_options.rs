//! Which networks a command takes, the same for every command that has some.

use std::path::PathBuf;

use clap::Args;
use echogen_checkpoint::bundle::Bundle;
use echogen_models::device::{Compute, DeviceChoice, Precision};

use crate::{bundles, failure::Failure, finder_options::FinderOptions};

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

impl ModelOptions {
    /// Sets the number of threads and opens the device; once a process.
    pub(crate) fn compute(&self) -> Result<Compute, Failure> {
        if let Some(threads) = self.threads {
            use_threads(usize::from(threads))?;
        }
        Ok(self.device.open(self.dtype).map_err(anyhow::Error::from)?)
    }

    /// Opens the bundle; loads nothing.
    pub(crate) fn bundle(&self) -> Result<Bundle, Failure> {
        bundles::open(&self.bundle, self.bundles.as_deref())
    }
}

/// The networks compute on rayon's global threads.
fn use_threads(threads: usize) -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| Failure::usage(format!("cannot use {threads} threads: {error}; leave --threads out")))
}
