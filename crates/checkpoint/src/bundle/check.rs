//! Verification of a bundle's files: length and SHA-256 against the published values, or against the first pull.

use super::lock::{Lock, LockedFile, sha256_of};
use super::{Bundle, BundleError, FileManifest, NetworkManifest, Presence};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::path::Path;

/// Files of at least this length have their sum stored in the lock file even if the manifest states it.
const LOCKED_FROM_BYTES: u64 = 64 << 20;

/// The result of [`Bundle::verify`] for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedFile {
    /// Path of the file below the bundle's folder of weights.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// What the sum was compared with.
    pub compared: Compared,
}

impl VerifiedFile {
    /// Takes back that its sum was recorded.
    fn not_recorded(&mut self) {
        if self.compared == Compared::FirstRecord {
            self.compared = Compared::Nothing;
        }
    }
}

/// What a sum was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The sum in the manifest.
    Published,
    /// The sum recorded at the first pull; no sum is published.
    Recorded,
    /// Nothing: no sum is published, and this one is now recorded.
    FirstRecord,
    /// Nothing: no sum is published, and none can be recorded in a read-only folder.
    Nothing,
}

/// The lock as it was read, and the sums computed since then that are still to be written to it.
struct Sums {
    lock: Lock,
    computed: Vec<(FileManifest, LockedFile)>,
}

impl Sums {
    fn remember(&mut self, file: &FileManifest, metadata: &Metadata, sha256: &str) {
        let entry = LockedFile::new(metadata, sha256);
        if is_remembered(file, metadata) && self.lock.get(&file.path) != Some(&entry) {
            self.computed.push((file.clone(), entry));
        }
    }
}

/// Whether a file's sum is stored in the lock: if no sum is published, or if hashing takes long.
fn is_remembered(file: &FileManifest, metadata: &Metadata) -> bool {
    file.sha256.is_none() || metadata.len() >= LOCKED_FROM_BYTES
}

impl Bundle {
    /// Verifies length and sum of every file by reading all of them. Continues after an error, so that all errors are
    /// reported together. Optional networks with no file present are skipped.
    ///
    /// A file without a published sum is compared with the sum recorded first, in
    /// [`LOCK_FILE`](super::LOCK_FILE) beside the weights. In a read-only folder nothing is recorded. `progress` receives (file, bytes read since its last call).
    pub fn verify(&self, progress: &mut dyn FnMut(&FileManifest, u64)) -> Vec<Result<VerifiedFile, BundleError>> {
        let mut sums = match self.read_sums() {
            Ok(sums) => sums,
            Err(error) => return vec![Err(error)],
        };
        let mut results = Vec::new();
        for (network, table) in self.manifest.networks() {
            if network.is_optional() && self.presence(network) == Presence::Absent {
                continue;
            }
            for file in &table.files {
                results.push(self.verify_with(&mut sums, file, &mut |bytes| progress(file, bytes)));
            }
        }
        match self.write_sums(sums) {
            Err(error) if error.is_read_only() => {
                results.iter_mut().flatten().for_each(VerifiedFile::not_recorded);
            }
            written => results.extend(written.err().map(Err)),
        }
        results
    }

    /// Verifies one file of the bundle, as [`Bundle::verify`] does.
    ///
    /// # Errors
    /// The file is missing, has another length or another sum, or cannot be read.
    pub fn verify_file(&self, file: &FileManifest, progress: &mut dyn FnMut(u64)) -> Result<VerifiedFile, BundleError> {
        let mut sums = self.read_sums()?;
        let mut verified = self.verify_with(&mut sums, file, progress)?;
        match self.write_sums(sums) {
            Err(error) if error.is_read_only() => verified.not_recorded(),
            written => written?,
        }
        Ok(verified)
    }

    /// Verifies a downloaded file, moves it to its place in the bundle, and records its sum.
    ///
    /// `stated` is the sum that the download's source states, if any. A file that fails verification is not moved.
    ///
    /// # Errors
    /// As [`Bundle::verify_file`]; also if the file cannot be moved (source and target must be on one file system).
    pub fn install(
        &self,
        file: &FileManifest,
        downloaded: &Path,
        stated: Option<&str>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<VerifiedFile, BundleError> {
        let io = |action, source| self.io(action, downloaded.to_owned(), source);
        let metadata = std::fs::metadata(downloaded).map_err(|source| io("examine", source))?;
        self.check_size(file, &metadata)?;
        let sha256 = sha256_of(downloaded, progress).map_err(|source| io("read", source))?;
        let stated = FileManifest { sha256: file.sha256.clone().or(stated.map(str::to_owned)), ..file.clone() };
        // An entry recorded for an earlier version does not apply to this one.
        let compared = self.compare(&Lock::default(), &stated, &sha256)?;
        let target = self.path_of(file);
        let folder = target.parent().unwrap_or(&self.weights);
        std::fs::create_dir_all(folder).map_err(|source| self.io("create", folder.to_owned(), source))?;
        let install = || std::fs::rename(downloaded, &target).map_err(|source| io("move", source));
        if is_remembered(file, &metadata) {
            // File and entry change under one lock, also if another process installs the same file.
            Lock::update(self, |lock| {
                install()?;
                lock.insert(file.path.clone(), LockedFile::new(&metadata, &sha256));
                Ok(())
            })?;
        } else {
            install()?;
        }
        Ok(VerifiedFile { path: file.path.clone(), size: metadata.len(), sha256, compared })
    }

    /// Returns the sum of a verified file: the recorded sum if the file is unchanged, else a computed one.
    ///
    /// # Errors
    /// As [`Bundle::verify_file`].
    pub fn sum(&self, file: &FileManifest) -> Result<String, BundleError> {
        let mut sums = self.read_sums()?;
        let sum = self.checked_sum(&mut sums, file)?;
        self.write_sums_if_possible(sums)?;
        Ok(sum)
    }

    /// Returns the SHA-256 of each network by name: of every network that generation needs, and of each optional
    /// network that is present.
    ///
    /// The sum of a network with one file is that file's sum; with several files it is the sum of their list in the
    /// format of `sha256sum`. Computed at the first call and cached in memory. Sums of long files are also stored in
    /// the lock file, see [`LOCK_FILE`](super::LOCK_FILE).
    ///
    /// # Errors
    /// A file is missing or does not have its published length or sum.
    pub fn digests(&self) -> Result<&BTreeMap<String, String>, BundleError> {
        if let Some(digests) = self.digests.get() {
            return Ok(digests);
        }
        let mut sums = self.read_sums()?;
        let mut digests = BTreeMap::new();
        for (network, table) in self.manifest.networks() {
            if network.is_optional() && self.presence(network) != Presence::Complete {
                continue;
            }
            digests.insert(network.name().to_owned(), self.digest(&mut sums, table)?);
        }
        self.write_sums_if_possible(sums)?;
        Ok(self.digests.get_or_init(|| digests))
    }

    fn digest(&self, sums: &mut Sums, table: &NetworkManifest) -> Result<String, BundleError> {
        let mut listing = String::new();
        for file in &table.files {
            let sum = self.checked_sum(sums, file)?;
            if table.files.len() == 1 {
                return Ok(sum);
            }
            listing.push_str(&format!("{sum}  {}\n", file.path));
        }
        Ok(hex::encode(Sha256::digest(listing)))
    }

    /// Returns the file's recorded or computed sum after comparing it with the published one, if any.
    fn checked_sum(&self, sums: &mut Sums, file: &FileManifest) -> Result<String, BundleError> {
        let metadata = self.metadata(file)?;
        self.check_size(file, &metadata)?;
        let remembered = sums.lock.sum(&file.path, &metadata).map(str::to_owned);
        let sum = match remembered {
            Some(sum) => sum,
            None => self.hash(file, &mut |_| {})?,
        };
        self.compare(&sums.lock, file, &sum)?;
        sums.remember(file, &metadata, &sum);
        Ok(sum)
    }

    fn verify_with(
        &self,
        sums: &mut Sums,
        file: &FileManifest,
        progress: &mut dyn FnMut(u64),
    ) -> Result<VerifiedFile, BundleError> {
        let metadata = self.metadata(file)?;
        self.check_size(file, &metadata)?;
        let sha256 = self.hash(file, progress)?;
        let compared = self.compare(&sums.lock, file, &sha256)?;
        sums.remember(file, &metadata, &sha256);
        Ok(VerifiedFile { path: file.path.clone(), size: metadata.len(), sha256, compared })
    }

    fn check_size(&self, file: &FileManifest, metadata: &Metadata) -> Result<(), BundleError> {
        match file.size {
            Some(expected) if expected != metadata.len() => Err(BundleError::WrongSize {
                bundle: self.name().to_owned(),
                path: file.path.clone(),
                expected,
                found: metadata.len(),
            }),
            _ => Ok(()),
        }
    }

    /// Compares a sum with the published one, or else with the recorded one.
    fn compare(&self, lock: &Lock, file: &FileManifest, found: &str) -> Result<Compared, BundleError> {
        let (bundle, path, found) = (self.name().to_owned(), file.path.clone(), found.to_owned());
        match (file.sha256.clone(), lock.get(&file.path).map(|recorded| recorded.sha256.clone())) {
            (Some(expected), _) if expected == found => Ok(Compared::Published),
            (Some(expected), _) => Err(BundleError::WrongDigest { bundle, path, expected, found }),
            (None, Some(expected)) if expected == found => Ok(Compared::Recorded),
            (None, Some(expected)) => Err(BundleError::Changed { bundle, path, expected, found }),
            (None, None) => Ok(Compared::FirstRecord),
        }
    }

    fn read_sums(&self) -> Result<Sums, BundleError> {
        Ok(Sums { lock: Lock::read(self)?, computed: Vec::new() })
    }

    /// Writes computed sums to the lock. The lock may have changed since it was read: if two processes see a file
    /// without a published sum for the first time, the later one must be compared with the earlier one's record.
    fn write_sums(&self, sums: Sums) -> Result<(), BundleError> {
        if sums.computed.is_empty() {
            return Ok(());
        }
        Lock::update(self, |lock| {
            let mut agreed = Ok(());
            for (file, entry) in sums.computed {
                match self.compare(lock, &file, &entry.sha256) {
                    Ok(_) => lock.insert(file.path, entry),
                    Err(error) => agreed = agreed.and(Err(error)),
                }
            }
            agreed
        })
    }

    /// Writes computed sums to the lock. If it cannot be written, the only cost is computing them again next time.
    fn write_sums_if_possible(&self, sums: Sums) -> Result<(), BundleError> {
        match self.write_sums(sums) {
            Err(error @ BundleError::Io { .. }) => {
                tracing::debug!(%error, "sums of long files are not remembered");
                Ok(())
            }
            written => written,
        }
    }

    fn hash(&self, file: &FileManifest, progress: &mut dyn FnMut(u64)) -> Result<String, BundleError> {
        let path = self.path_of(file);
        sha256_of(&path, progress).map_err(|source| self.io("read", path, source))
    }
}
