//! `echogen models pull`: downloads files from a hub into the bundle's folder, with resumption and verification.
//!
//! Each file is downloaded into a folder of its own under `.pull` and hashed there. It is moved to its final path only
//! after it was verified, so a file at its final path is complete, even if the process was killed at any time.

use super::{Output, human};
use anyhow::{Context, bail};
use echogen_checkpoint::bundle::{Bundle, BundleError, FileManifest, Network, VerifiedFile};
use echogen_service::{Exit, config::ModelConfig};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Folder for unfinished downloads, within the bundle's folder of weights.
const PULL_FOLDER: &str = ".pull";
const BAR: &str = "{msg} [{wide_bar}] {bytes}/{total_bytes} {binary_bytes_per_sec} ({eta})";

/// What to fetch, and from where.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArguments {
    /// Name of a bundle, or path of its TOML file or folder
    pub(super) bundle: String,
    /// Fetch this network only; may be given several times
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    pub(super) network: Vec<Network>,
}

fn network(name: &str) -> Result<Network, String> {
    let known = || Network::ALL.map(Network::name).join(", ");
    Network::ALL.into_iter().find(|network| network.name() == name).ok_or_else(|| format!("must be one of {}", known()))
}

/// The output for one file.
#[derive(Serialize)]
struct Pulled<'a> {
    path: &'a str,
    state: &'static str,
    bytes: u64,
    sha256: &'a str,
}

pub(super) fn pull(
    bundle: &Bundle,
    arguments: &PullArguments,
    hub: &ModelConfig,
    output: &mut Output,
) -> anyhow::Result<Exit> {
    if let Some(absent) = arguments.network.iter().find(|network| bundle.manifest().network(**network).is_none()) {
        bail!(BundleError::NoNetwork { bundle: bundle.name().to_owned(), network: *absent });
    }
    for (network, table) in bundle.manifest().networks() {
        if !arguments.network.is_empty() && !arguments.network.contains(&network) {
            continue;
        }
        for file in &table.files {
            pull_file(bundle, file, hub, output)?;
        }
    }
    // Only an empty folder remains, so an error while removing it is ignored.
    drop(std::fs::remove_dir(bundle.weights_folder().join(PULL_FOLDER)));
    Ok(Exit::Success)
}

fn pull_file(bundle: &Bundle, file: &FileManifest, hub: &ModelConfig, output: &mut Output) -> anyhow::Result<()> {
    match bundle.sum(file) {
        Ok(sha256) => {
            let bytes = std::fs::metadata(bundle.path_of(file)).map_or(0, |metadata| metadata.len());
            let present = Pulled { path: &file.path, state: "present", bytes, sha256: &sha256 };
            return output.answer(&present, &format!("present  {}  {}", file.path, human(bytes)));
        }
        Err(BundleError::MissingFile { .. } | BundleError::WrongSize { .. } | BundleError::WrongDigest { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(repository) = &file.repository else {
        bail!("bundle {}: {} ships with the bundle and comes from no hub; restore it", bundle.name(), file.path);
    };
    let download = Download::new(bundle, file, repository, hub)?;
    let installed = download.run()?;
    let VerifiedFile { path, size, sha256, .. } = &installed;
    let pulled = Pulled { path, state: "pulled", bytes: *size, sha256 };
    output.answer(&pulled, &format!("pulled   {path}  {}", human(*size)))
}

/// The download of one file.
struct Download<'a> {
    bundle: &'a Bundle,
    file: &'a FileManifest,
    repository: &'a str,
    folder: PathBuf,
    api: Api,
    bar: ProgressBar,
}

impl<'a> Download<'a> {
    fn new(bundle: &'a Bundle, file: &'a FileManifest, repository: &'a str, hub: &ModelConfig) -> anyhow::Result<Self> {
        let folder = bundle.weights_folder().join(PULL_FOLDER).join(file.path.replace('/', "--"));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let token = hub.hub_token.as_ref().map(|token| token.expose().to_owned()).or_else(|| Cache::from_env().token());
        let mut builder = ApiBuilder::from_cache(Cache::new(folder.clone())).with_token(token).with_progress(false);
        if let Some(endpoint) = &hub.hub_endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(BAR)?);
        Ok(Self { bundle, file, repository, folder, api: builder.build()?, bar })
    }

    /// Downloads, verifies and installs the file. A wrong file is deleted, an incomplete one is kept.
    fn run(&self) -> anyhow::Result<VerifiedFile> {
        let blob = self.fetch()?;
        self.bar.reset();
        self.bar.set_message(format!("checking {}", self.file.path));
        // The hub names a large file by its SHA-256, and a small one by a git hash, which is shorter.
        let name = blob.file_name().and_then(|name| name.to_str());
        let stated = name.filter(|name| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let installed = self.bundle.install(self.file, &blob, stated, &mut |bytes| self.bar.inc(bytes));
        self.bar.finish_and_clear();
        self.remove_folder()?;
        Ok(installed?)
    }

    /// Downloads the file. After an interruption it continues as long as each attempt receives new bytes.
    fn fetch(&self) -> anyhow::Result<PathBuf> {
        loop {
            let before = part_bytes(&self.folder);
            let error = match self.attempt() {
                Ok(blob) => return Ok(blob),
                Err(error) => error,
            };
            let after = part_bytes(&self.folder);
            if after > before {
                continue;
            }
            if after == 0 {
                return Err(self.explained(error));
            }
            // A part that cannot be continued, such as one that was already complete, is downloaded from the
            // beginning, once: then the folder is empty, and another failure ends the loop.
            self.remove_folder()?;
            std::fs::create_dir_all(&self.folder)?;
        }
    }

    fn attempt(&self) -> Result<PathBuf, ApiError> {
        let revision = self.file.revision().to_owned();
        let repository = Repo::with_revision(self.repository.to_owned(), RepoType::Model, revision);
        let progress = BarProgress { bar: self.bar.clone(), message: self.file.path.clone() };
        let pointer = self.api.repo(repository).download_with_progress(self.file.source(), progress)?;
        Ok(std::fs::canonicalize(pointer)?)
    }

    fn explained(&self, error: ApiError) -> anyhow::Error {
        anyhow::Error::new(error).context(format!(
            "cannot fetch {} of {} at {}; run the command again to go on (a repository that asks for consent wants it on \
             its page, and your token in HF_TOKEN)",
            self.file.source(),
            self.repository,
            self.file.revision()
        ))
    }

    fn remove_folder(&self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

/// Returns the number of bytes of an unfinished file, which the hub's client keeps as `blobs/….part`.
fn part_bytes(folder: &Path) -> u64 {
    let entries = folder.read_dir().ok().into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .map(|path| match path.extension() {
            _ if path.is_dir() => part_bytes(&path),
            Some(extension) if extension == "part" => path.metadata().map_or(0, |metadata| metadata.len()),
            _ => 0,
        })
        .sum()
}

/// Draws a progress bar on a terminal.
struct BarProgress {
    bar: ProgressBar,
    message: String,
}

impl hf_hub::api::Progress for BarProgress {
    fn init(&mut self, size: usize, _: &str) {
        self.bar.set_message(self.message.clone());
        self.bar.set_length(size as u64);
        self.bar.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
    }

    fn finish(&mut self) {}
}
