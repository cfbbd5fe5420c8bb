//! Gateways beside the roles, with one tenant whose limits are so wide that they decide nothing.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
};

use anyhow::Context;
use echogen_protocol::RoleName;
use echogen_tenants::{Key, Scope, edit};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::{process::RoleProcess, role::RoleEnvironment};

/// The tenant.
pub const TENANT: &str = "acme";

/// Its limits.
const LIMITS: &str = "[tenants.acme]\nlimits = { requests_per_second = 10000, burst = 100000, pictures_a_day = 1000000000, \
                      jobs_held = 1000000, streams = 100000 }\n";

/// Where a gateway listens, and whom it serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayEnvironment {
    /// The address of its API.
    pub address: SocketAddr,
    /// The file with the tenants.
    pub tenants: PathBuf,
}

/// What a client needs to know of gateways. The file with the tenants lives as long as this.
#[derive(Debug)]
pub struct Gateways {
    /// The addresses.
    pub addresses: Vec<SocketAddr>,
    /// The tenant's key.
    pub key: String,
    _folder: TempDir,
    tenants: PathBuf,
}

impl Gateways {
    /// Chooses free addresses and writes the file with the tenant.
    pub fn new(count: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let key = Key::generate()?;
        let entry = edit::entry(&TENANT.parse()?, &key, &[Scope::Jobs], None);
        let tenants = folder.path().join("tenants.toml");
        std::fs::write(&tenants, edit::with_entry(LIMITS, &entry)?).context("write the tenants")?;
        // All are bound before one is given free, so they differ.
        let bound = (0..count).map(|_| TcpListener::bind((own_host(), 0))).collect::<io::Result<Vec<_>>>()?;
        let addresses = bound.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        Ok(Self { addresses, key: key.expose().to_owned(), _folder: folder, tenants })
    }

    /// Starts a process for each.
    pub fn start(&self, environment: &RoleEnvironment) -> anyhow::Result<Vec<RoleProcess>> {
        let start = |address: &SocketAddr| {
            let gateway = Some(GatewayEnvironment { address: *address, tenants: self.tenants.clone() });
            RoleProcess::start(RoleName::Gateway, &RoleEnvironment { gateway, ..environment.clone() })
        };
        self.addresses.iter().map(start).collect()
    }
}

/// A loopback address of this process's own: nobody else takes a port of it before a gateway listens, or while one is restarted.
fn own_host() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + high, middle, low)
}
