//! The tenants of a file, which is read again when it changes.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use echogen_ports::{Fault, spawn_blocking};
use echogen_protocol::ContentHash;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{MAX_FILE_BYTES, Tenants};

/// How often the file is read again. Its content is compared and not its time: mounted secrets and editors change files in
/// ways that keep the time.
const INTERVAL: Duration = Duration::from_secs(2);

/// The tenants as they are now; all copies show the same.
#[derive(Clone, Debug)]
pub struct TenantsHandle(Arc<RwLock<Arc<Tenants>>>);

impl TenantsHandle {
    /// Tenants that do not change.
    pub fn fixed(tenants: Tenants) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(tenants))))
    }

    /// The tenants now. A caller keeps them for one request.
    pub fn current(&self) -> Arc<Tenants> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, tenants: Tenants) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tenants);
    }
}

/// A file with tenants.
#[derive(Clone, Debug)]
pub struct TenantsFile {
    path: PathBuf,
}

impl TenantsFile {
    /// The file at this path, which is not read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the tenants.
    pub fn load(&self) -> Result<Tenants, Fault> {
        self.parse(&self.text()?)
    }

    /// Reads the tenants, and then again and again on `tracker` until `shutdown`. A file that can no longer be read, or has a
    /// mistake, changes nothing and is reported once.
    pub async fn watch(self, tracker: &TaskTracker, shutdown: CancellationToken) -> Result<TenantsHandle, Fault> {
        let mut watched = spawn_blocking(move || Watched::open(self)).await??;
        let handle = watched.handle.clone();
        tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(INTERVAL) => {}
                }
                let checked = spawn_blocking(move || {
                    watched.check();
                    watched
                });
                match checked.await {
                    Ok(back) => watched = back,
                    Err(error) => {
                        warn!(error = %error.story(), "the tenants' file is not read again until this process restarts");
                        return;
                    }
                }
            }
        });
        Ok(handle)
    }

    /// The text of the file.
    pub fn text(&self) -> Result<String, Fault> {
        let shown = self.path.display();
        let failed = |error: io::Error| Fault::refused(format!("cannot read {shown}: {error}")).because(error);
        let mut text = String::new();
        // One byte more than allowed is enough to refuse it.
        fs::File::open(&self.path)
            .map_err(failed)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        Ok(text)
    }

    /// Replaces the text, after a check that it can be read as tenants. A reader sees the old text or the new one. The file
    /// keeps its permissions; a new one is readable for its owner only.
    pub fn replace(&self, text: &str) -> Result<(), Fault> {
        self.parse(text)?;
        let shown = self.path.display();
        self.write(text).map_err(|error| Fault::refused(format!("cannot write {shown}: {error}")).because(error))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        // A link stays one, and what it names is replaced.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Temporary files are for their owner only.
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
        if let Ok(metadata) = fs::metadata(&path) {
            file.as_file().set_permissions(metadata.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    }

    fn parse(&self, text: &str) -> Result<Tenants, Fault> {
        text.parse().map_err(|error| Fault::refused(format!("{}, {error}", self.path.display())))
    }
}

/// A file and what was last read of it.
struct Watched {
    file: TenantsFile,
    handle: TenantsHandle,
    /// The hash of the last text, or why it could not be read: each is handled once.
    last: Result<ContentHash, String>,
}

impl Watched {
    fn open(file: TenantsFile) -> Result<Self, Fault> {
        let text = file.text()?;
        let tenants = file.parse(&text)?;
        Ok(Self { handle: TenantsHandle::fixed(tenants), last: Ok(ContentHash::of(text.as_bytes())), file })
    }

    /// Reads the file if it has changed.
    fn check(&mut self) {
        let text = self.file.text();
        let found = match &text {
            Ok(text) => Ok(ContentHash::of(text.as_bytes())),
            Err(fault) => Err(fault.to_string()),
        };
        if found == self.last {
            return;
        }
        self.last = found;
        match text.and_then(|text| self.file.parse(&text)) {
            Ok(tenants) => {
                info!(tenants = tenants.iter().count(), keys = tenants.key_count(), "the tenants have changed");
                self.handle.replace(tenants);
            }
            Err(error) => warn!(%error, "the tenants stay as they were"),
        }
    }
}

#[cfg(test)]
mod tests;
