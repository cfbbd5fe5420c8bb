//! Writing of a bundle whose weights have another type.
//!
//! The new bundle is a folder that contains everything: one `.safetensors` file for each network, tokenizers and architecture
//! files, and a manifest with lengths and sums. The manifest is written last, so what was interrupted is no bundle.

use super::lock::{Lock, LockedFile, sha256_of};
use super::{Bundle, BundleError, FileManifest, MANIFEST_FILE, Manifest, Network, NetworkManifest};
use crate::{CheckpointError, Form, Progress, replace_file};
use std::path::Path;

/// What becomes of a tensor of a network, by its name and shape.
pub type FormOf<'a> = &'a dyn Fn(Network, &str, &[usize]) -> Form;

impl Bundle {
    /// Writes this bundle to `folder` with the weights in other types, and opens it. Networks of which files are missing are left
    /// out if they are optional. `note` is added to the description. `progress` receives (bytes written, bytes to write) of each
    /// network.
    ///
    /// # Errors
    /// The folder contains a bundle already, its name is no name of a bundle, a file is missing, or one cannot be written.
    pub fn convert(
        &self,
        folder: &Path,
        form: FormOf<'_>,
        note: &str,
        progress: Progress<'_>,
    ) -> Result<Self, BundleError> {
        let path = folder.join(MANIFEST_FILE);
        if path.exists() {
            return Err(CheckpointError::TargetExists(path).into());
        }
        std::fs::create_dir_all(folder).map_err(|source| self.io("create", folder.to_owned(), source))?;
        let mut manifest = self.manifest.clone();
        manifest.name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        manifest.description = format!("{} {note}", manifest.description.trim_end());
        let mut locked = Vec::new();
        for network in Network::ALL {
            if self.manifest.network(network).is_none() {
                continue;
            }
            let table = match self.checkpoint(network) {
                Err(BundleError::MissingFile { .. }) if network.is_optional() => None,
                Err(error) => return Err(error),
                Ok(_) => Some(self.convert_network(network, folder, form, progress, &mut locked)?),
            };
            manifest.set(network, table);
        }
        self.finish(manifest, &path, locked)
    }

    /// Writes the files of one network.
    fn convert_network(
        &self,
        network: Network,
        folder: &Path,
        form: FormOf<'_>,
        progress: Progress<'_>,
        locked: &mut Vec<(String, LockedFile)>,
    ) -> Result<NetworkManifest, BundleError> {
        let old = self.network(network)?;
        let weights = format!("{network}.safetensors");
        let written = self.checkpoint(network)?.convert_each(
            &folder.join(&weights),
            true,
            &|name, shape| form(network, name, shape),
            progress,
        );
        let broken =
            |source| BundleError::Weights { bundle: self.name().to_owned(), network, source: Box::new(source) };
        written.map_err(broken)?;
        let licence = old.weights.first().and_then(|path| old.file(path)).map(|file| file.licence.clone());
        let mut files = vec![self.described(folder, &weights, licence.unwrap_or_default(), locked)?];
        for path in old.config_file.iter().chain(&old.tokenizer) {
            let Some(file) = old.file(path) else { continue };
            self.copy(file, folder)?;
            files.push(self.described(folder, path, file.licence.clone(), locked)?);
        }
        Ok(NetworkManifest { weights: vec![weights], prefix: None, files, ..old.clone() })
    }

    fn copy(&self, file: &FileManifest, folder: &Path) -> Result<(), BundleError> {
        let target = folder.join(&file.path);
        let io = |action, source| self.io(action, target.clone(), source);
        std::fs::create_dir_all(target.parent().unwrap_or(folder)).map_err(|source| io("create", source))?;
        std::fs::copy(self.path_of(file), &target).map_err(|source| io("write", source))?;
        Ok(())
    }

    /// Returns the entry of a file that has been written, and notes its sum for the lock file.
    fn described(
        &self,
        folder: &Path,
        path: &str,
        licence: String,
        locked: &mut Vec<(String, LockedFile)>,
    ) -> Result<FileManifest, BundleError> {
        let place = folder.join(path);
        let io = |source| self.io("read", place.clone(), source);
        let sum = sha256_of(&place, &mut |_| {}).map_err(io)?;
        let metadata = std::fs::metadata(&place).map_err(io)?;
        locked.push((path.to_owned(), LockedFile::new(&metadata, &sum)));
        Ok(FileManifest {
            path: path.to_owned(),
            repository: None,
            source: None,
            revision: None,
            size: Some(metadata.len()),
            sha256: Some(sum),
            licence,
        })
    }

    fn finish(&self, manifest: Manifest, path: &Path, locked: Vec<(String, LockedFile)>) -> Result<Self, BundleError> {
        let wrong = |reason| BundleError::Manifest { path: path.to_owned(), reason };
        manifest.check().map_err(wrong)?;
        let text = toml::to_string(&manifest).map_err(|error| wrong(error.to_string()))?;
        replace_file(path, text.as_bytes()).map_err(|source| self.io("write", path.to_owned(), source))?;
        let written = Self::open(path)?;
        // So that the first start does not read all weights for their sums.
        Lock::update(&written, |lock| {
            locked.into_iter().for_each(|(path, entry)| lock.insert(path, entry));
            Ok(())
        })?;
        Ok(written)
    }
}

impl Manifest {
    /// Replaces the table of a network. One that is required stays if there is none.
    fn set(&mut self, network: Network, table: Option<NetworkManifest>) {
        let (required, optional) = match network {
            Network::TextEncoder => (Some(&mut self.text_encoder), None),
            Network::Dinov2 => (Some(&mut self.dinov2), None),
            Network::FluxVae => (Some(&mut self.flux_vae), None),
            Network::VisualTokenizer => (Some(&mut self.visual_tokenizer), None),
            Network::Transformer => (Some(&mut self.transformer), None),
            Network::Detector => (None, Some(&mut self.detector)),
            Network::Namer => (None, Some(&mut self.namer)),
            Network::SegmentAnything => (None, Some(&mut self.segment_anything)),
        };
        match (required, optional, table) {
            (Some(place), _, Some(table)) => *place = table,
            (_, Some(place), table) => *place = table,
            _ => {}
        }
    }
}
