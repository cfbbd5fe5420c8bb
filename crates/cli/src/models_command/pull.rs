//! `echogen models pull`: downloads files from a hub into the bundle's folder, with resumption and verification.
//!
//! Each file is downloaded into a folder of its own under `.pull` and hashed there. It is moved to its final path only
//! after it was verified, so a file at its final path is complete, even if the process was killed at any time.
//!
//! Of several processes that share the folder of weights one downloads, and the others wait for it ([`Bundle::pull_lock`]). If
//! it is killed, another one continues at once, with what there is of the file. Where the file system has no locks, each
//! process downloads on its own, into a folder whose name no other one has. Nothing is written if no file is missing, so the
//! folder may be read-only.

use super::{Output, human};
use anyhow::{Context, bail};
use echogen_checkpoint::bundle::{Bundle, BundleError, FileManifest, Network, PullLock, VerifiedFile};
use echogen_service::{Exit, config::ModelConfig};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Folder for unfinished downloads, within the bundle's folder of weights.
const PULL_FOLDER: &str = ".pull";
/// The beginning of the names of such folders where there are no locks.
const OWN_FOLDER: &str = ".pull-";
/// When such a folder counts as left behind by a process that was killed. A file of a bundle takes minutes.
const LEFT_BEHIND: Duration = Duration::from_hours(24);
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
    let mut place = None;
    for (network, table) in bundle.manifest().networks() {
        if !arguments.network.is_empty() && !arguments.network.contains(&network) {
            continue;
        }
        for file in &table.files {
            if !is_present(bundle, file, output)? {
                pull_file(bundle, file, hub, &mut place, output)?;
            }
        }
    }
    Ok(Exit::Success)
}

/// Says that a file is complete and right, if it is.
fn is_present(bundle: &Bundle, file: &FileManifest, output: &mut Output) -> anyhow::Result<bool> {
    let sha256 = match bundle.sum(file) {
        Ok(sha256) => sha256,
        Err(BundleError::MissingFile { .. } | BundleError::WrongSize { .. } | BundleError::WrongDigest { .. }) => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let bytes = std::fs::metadata(bundle.path_of(file)).map_or(0, |metadata| metadata.len());
    let present = Pulled { path: &file.path, state: "present", bytes, sha256: &sha256 };
    output.answer(&present, &format!("present  {}  {}", file.path, human(bytes)))?;
    Ok(true)
}

/// Downloads a file, in a place of which there is one for all files of the command.
fn pull_file(
    bundle: &Bundle,
    file: &FileManifest,
    hub: &ModelConfig,
    place: &mut Option<Place>,
    output: &mut Output,
) -> anyhow::Result<()> {
    let Some(repository) = &file.repository else {
        bail!("bundle {}: {} ships with the bundle and comes from no hub; restore it", bundle.name(), file.path);
    };
    let place = match place {
        Some(place) => place,
        None => {
            let taken = place.insert(Place::take(bundle)?);
            // The process that had the place may have fetched the file.
            if is_present(bundle, file, output)? {
                return Ok(());
            }
            taken
        }
    };
    let download = Download::new(bundle, file, repository, hub, place.folder())?;
    let installed = download.run()?;
    let VerifiedFile { path, size, sha256, .. } = &installed;
    let pulled = Pulled { path, state: "pulled", bytes: *size, sha256 };
    output.answer(&pulled, &format!("pulled   {path}  {}", human(*size)))
}

/// Where files are downloaded.
enum Place {
    /// One folder for all processes, of which the lock's holder uses it.
    Locked(PathBuf, #[expect(dead_code, reason = "held until the folder has been removed")] PullLock),
    /// A folder of this process, because the file system has no locks. Dropping removes it.
    Own(TempDir),
}

impl Place {
    fn take(bundle: &Bundle) -> anyhow::Result<Self> {
        let weights = bundle.weights_folder();
        let waiting = || eprintln!("waiting: another process fetches files into {}", weights.display());
        match bundle.pull_lock(waiting)? {
            Some(lock) => Ok(Self::Locked(weights.join(PULL_FOLDER), lock)),
            None => Self::own(weights),
        }
    }

    fn own(weights: &Path) -> anyhow::Result<Self> {
        remove_left_behind(weights, SystemTime::now());
        let folder = tempfile::Builder::new().prefix(OWN_FOLDER).tempdir_in(weights);
        Ok(Self::Own(folder.with_context(|| format!("cannot create a folder in {}", weights.display()))?))
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Locked(folder, _) => folder,
            Self::Own(folder) => folder.path(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Of a complete pull only an empty folder remains; another is kept, to go on with later.
        drop(std::fs::remove_dir(self.folder()));
    }
}

/// Removes the folders that killed processes have left where there are no locks, by the age of what they wrote last.
fn remove_left_behind(weights: &Path, now: SystemTime) {
    let entries = weights.read_dir().ok().into_iter().flatten().flatten();
    let own = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(OWN_FOLDER));
    for folder in own.map(|entry| entry.path()) {
        let is_old = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age > LEFT_BEHIND);
        if last_written(&folder).is_some_and(is_old) {
            // Another process may be removing it as well.
            drop(std::fs::remove_dir_all(&folder));
        }
    }
}

/// Returns when anything below `path` was written last.
fn last_written(path: &Path) -> Option<SystemTime> {
    let below = path.read_dir().ok().into_iter().flatten().flatten();
    let own = path.symlink_metadata().ok()?.modified().ok();
    below.filter_map(|entry| last_written(&entry.path())).chain(own).max()
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
    fn new(
        bundle: &'a Bundle,
        file: &'a FileManifest,
        repository: &'a str,
        hub: &ModelConfig,
        place: &Path,
    ) -> anyhow::Result<Self> {
        let folder = place.join(file.path.replace('/', "--"));
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

    /// Downloads the file, unless an earlier process did and was killed before it could move it. After an interruption it
    /// continues as long as each attempt receives new bytes.
    fn fetch(&self) -> anyhow::Result<PathBuf> {
        if let Some(blob) = blobs(&self.folder).into_iter().find(|path| path.extension().is_none()) {
            return Ok(blob);
        }
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
    let parts = blobs(folder).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "part"));
    parts.filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Returns the files that the hub's client keeps in `REPOSITORY/blobs`: finished ones, named by their sum, and `.part`, `.lock`.
fn blobs(folder: &Path) -> Vec<PathBuf> {
    let entries = |path: PathBuf| path.read_dir().ok().into_iter().flatten().flatten().map(|entry| entry.path());
    entries(folder.to_owned()).flat_map(|repository| entries(repository.join("blobs"))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn without_locks_each_process_has_a_folder_and_those_left_behind_are_removed() {
        let weights = tempfile::tempdir().unwrap();
        let (first, second) = (Place::own(weights.path()).unwrap(), Place::own(weights.path()).unwrap());
        assert_ne!(first.folder(), second.folder());
        fs::create_dir(first.folder().join("file")).unwrap();
        fs::write(first.folder().join("file/part"), "bytes").unwrap();
        remove_left_behind(weights.path(), SystemTime::now());
        assert!(first.folder().join("file/part").exists(), "it is in use");
        remove_left_behind(weights.path(), SystemTime::now() + LEFT_BEHIND * 2);
        assert!(!first.folder().exists() && !second.folder().exists());
        let third = Place::own(weights.path()).unwrap();
        fs::write(third.folder().join("part"), "bytes").unwrap();
        drop(third);
        assert_eq!(weights.path().read_dir().unwrap().count(), 0);
    }
}
