//! What the gateway of a process without servers keeps beside its store: a tenant with a key, and the secret of sessions.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use echogen_ports::Secret;
use echogen_tenants::{Key, Scope, TenantName, TenantsFile, edit};

use crate::{Failure, backends::cannot_write};

/// The tenant of everybody who has the key.
pub(super) const TENANT: &str = "default";

/// The file with the tenant and its key.
const TENANTS: &str = "tenants.toml";

/// The file with the secret that seals sessions.
const SECRET: &str = "sealing-secret";

/// The tenant that everybody is without a file with tenants.
pub(super) fn tenant() -> Result<TenantName, Failure> {
    TENANT.parse().map_err(|error| Failure::usage(format!("{TENANT}: {error}")))
}

/// The file with the tenant; the first time it is made, with a key that is told once.
pub(super) fn tenants(folder: &Path) -> Result<(PathBuf, Option<Secret>), Failure> {
    let path = folder.join(TENANTS);
    if path.exists() {
        return Ok((path, None));
    }
    fs::create_dir_all(folder).map_err(|error| cannot_write(folder, "store.url", &error))?;
    let failed = |error| Failure::refused("no key can be made", &error);
    let key = Key::generate().map_err(failed)?;
    let entry = edit::entry(&tenant()?, &key, &Scope::ALL, None);
    let text = edit::with_entry("", &entry).map_err(failed)?;
    TenantsFile::new(&path).replace(&text).map_err(failed)?;
    Ok((path, Some(Secret::from(key.expose()))))
}

/// The secret of sessions; the first time it is made, for its owner only.
pub(super) fn sealing_secret(folder: &Path) -> Result<Secret, Failure> {
    let path = folder.join(SECRET);
    let failed = |error: &dyn std::fmt::Display| cannot_write(&path, "gateway.sealing_secret", error);
    if let Ok(text) = fs::read_to_string(&path) {
        return Ok(Secret::from(text));
    }
    fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    // A key is as random as a secret has to be.
    let secret = Key::generate().map_err(|error| failed(&error))?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| failed(&error))?;
    file.write_all(secret.expose().as_bytes()).map_err(|error| failed(&error))?;
    Ok(Secret::from(secret.expose()))
}
