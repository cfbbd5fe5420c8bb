//! Finds the model bundle that the settings name, and opens the device.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use echogen_checkpoint::bundle::Bundle;
use echogen_models::device::Compute;

use crate::{Failure, config::ModelConfig};

impl ModelConfig {
    /// Opens the bundle. Loads nothing.
    pub fn open(&self) -> Result<Bundle, Failure> {
        let folders = bundle_folders(self.bundles.as_deref());
        Bundle::find(&self.bundle, &folders).map_err(|error| Failure::usage(error.to_string()))
    }

    /// Sets the number of threads and opens the device: once for each thread that computes.
    pub fn compute(&self) -> Result<Compute, Failure> {
        if let Some(threads) = self.threads {
            use_threads(usize::from(threads))?;
        }
        Ok(self.device.open(self.dtype).map_err(anyhow::Error::from)?)
    }
}

/// Returns the given folder, or else `bundles` in the working directory and beside the program.
pub fn bundle_folders(given: Option<&Path>) -> Vec<PathBuf> {
    let beside_program = || std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("bundles")));
    match given {
        Some(folder) => vec![folder.to_owned()],
        None => std::iter::once(PathBuf::from("bundles")).chain(beside_program()).collect(),
    }
}

/// Sets the size of rayon's global thread pool, on which the networks compute, at the first call.
fn use_threads(threads: usize) -> Result<(), Failure> {
    static IS_SET: Mutex<bool> = Mutex::new(false);
    let mut is_set = IS_SET.lock().unwrap_or_else(PoisonError::into_inner);
    if *is_set {
        return Ok(());
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| Failure::usage(format!("cannot use {threads} threads: {error}; leave model.threads out")))?;
    *is_set = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_of_networks_opens_its_device() {
        let config = ModelConfig { threads: Some(1), ..ModelConfig::default() };
        for _ in 0..3 {
            config.compute().unwrap();
        }
    }
}
