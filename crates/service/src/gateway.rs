//! The role `gateway`: opens its ports and its tenants, and serves until shutdown.

mod kept;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use echogen_gateway::{Gateway, GatewayConfig, GatewayPorts, Kind, Served, Server, table};
use echogen_ports::Secret;
use echogen_telemetry::{Consuming, health, metrics};
use echogen_tenants::{Key, Tenants, TenantsFile, TenantsHandle};
use echogen_worker::CachedObjects;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{Backends, Failure, backends::store_url, config::ServiceConfig};

/// The address if none is configured.
const DEFAULT_ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::UNSPECIFIED, 8080);

/// The name under which the gateway's health is known.
const NAME: &str = "gateway";

/// Reports the gateway as starting, with all its series.
pub(crate) fn expect() {
    health().starting(NAME);
    let routes = table();
    let names: Vec<&str> = routes.iter().map(|route| route.name).collect();
    let reasons: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    metrics().expect_gateway(&names, &reasons);
}

/// A gateway whose listeners are bound and not yet served.
pub(crate) struct OpenGateway {
    gateway: Gateway,
    servers: Vec<Server>,
    tracker: TaskTracker,
    /// A key that was made now.
    pub(crate) new_key: Option<Secret>,
}

impl OpenGateway {
    /// Opens the gateway on these backends.
    pub(crate) async fn open(
        backends: &Backends,
        config: &ServiceConfig,
        shutdown: &CancellationToken,
    ) -> Result<Self, Failure> {
        let tracker = TaskTracker::new();
        let Access { tenants, sealing_secret, new_key } = access(config, &tracker, shutdown).await?;
        let settings = GatewayConfig { sealing_secret, ..config.gateway.clone() };
        let (ports, partitions) = (ports(backends, config)?, config.partitions());
        let started = Gateway::start(settings, ports, tenants, partitions, &tracker, shutdown);
        let gateway = started.map_err(|error| Failure::refused("gateway.sealing_secret cannot be used", &error))?;
        let servers = listen(&gateway, &config.gateway).await?;
        Ok(Self { gateway, servers, tracker, new_key })
    }

    /// The address by which a process on this machine reaches the API.
    pub(crate) fn address(&self) -> Result<SocketAddr, Failure> {
        let bound = self.servers.first().map(Server::address);
        let address = bound.transpose().ok().flatten().ok_or_else(|| Failure::usage("the gateway is not bound"))?;
        let is_everywhere = address.ip().is_unspecified();
        Ok(if is_everywhere { SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()) } else { address })
    }

    /// Publishes the jobs again that the queue has lost.
    pub(crate) async fn refill(&self) -> Result<(), Failure> {
        let refilled = self.gateway.refill().await;
        let jobs = refilled.map_err(|error| Failure::refused("the records of jobs cannot be read", &error))?;
        if jobs > 0 {
            info!(jobs, "jobs of before are in the queue again");
        }
        Ok(())
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(self, shutdown: CancellationToken) {
        if let Ok(address) = self.address() {
            info!(%address, "serving the API and the console");
        }
        health().loaded(NAME, || Consuming { now: true, since: Duration::ZERO });
        let serving = self.servers.into_iter().map(|server| server.serve(shutdown.clone()));
        futures::future::join_all(serving).await;
        self.tracker.close();
        self.tracker.wait().await;
    }
}

async fn listen(gateway: &Gateway, config: &GatewayConfig) -> Result<Vec<Server>, Failure> {
    let address = config.listen.unwrap_or_else(|| DEFAULT_ADDRESS.into());
    let is_shared = config.admin_listen == Some(address);
    let served = Served { tenants: true, admin: is_shared };
    let mut servers = vec![bind("gateway.listen", address, gateway, served).await?];
    if let Some(address) = config.admin_listen.filter(|_| !is_shared) {
        let served = Served { tenants: false, admin: true };
        servers.push(bind("gateway.admin_listen", address, gateway, served).await?);
    }
    Ok(servers)
}

async fn bind(setting: &str, address: SocketAddr, gateway: &Gateway, served: Served) -> Result<Server, Failure> {
    let bound = Server::bind(address, gateway, served).await;
    bound.map_err(|error| Failure::usage(format!("cannot listen at {address}: {error}; set {setting} to another one")))
}

fn ports(backends: &Backends, config: &ServiceConfig) -> Result<GatewayPorts, Failure> {
    let Backends { broker, browse, cache, work, results, fetcher, gate, quota, status_store, .. } = backends.clone();
    Ok(GatewayPorts {
        broker,
        browse: browse
            .ok_or_else(|| Failure::usage("the gateway needs a broker whose queues can be looked through"))?,
        objects: CachedObjects::new(Arc::clone(&work), Arc::clone(&cache), &config.products),
        cache,
        results,
        work,
        fetcher,
        quota,
        gate,
        status_store,
        writer: backends.writer(),
        callbacks_secret: config.callbacks.secret.clone(),
    })
}

/// Who may call, and the secret for sessions.
struct Access {
    tenants: TenantsHandle,
    sealing_secret: Option<Secret>,
    new_key: Option<Secret>,
}

async fn access(
    config: &ServiceConfig,
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
) -> Result<Access, Failure> {
    let given = |secret: &Option<Secret>| secret.clone().filter(|secret| !secret.is_empty());
    let GatewayConfig { tenants, key, sealing_secret, .. } = &config.gateway;
    let folder = embedded_folder(config);
    let sealing_secret = match (given(sealing_secret), &folder) {
        (Some(secret), _) => Some(secret),
        (None, Some(folder)) => Some(kept::sealing_secret(folder)?),
        (None, None) => None,
    };
    let (tenants, new_key) = match (tenants, given(key), folder) {
        (Some(file), ..) => (watched(file.clone(), tracker, shutdown).await?, None),
        (None, Some(key), _) => (TenantsHandle::fixed(single(&key)?), None),
        (None, None, Some(folder)) => {
            let (file, new_key) = kept::tenants(&folder)?;
            (watched(file, tracker, shutdown).await?, new_key)
        }
        (None, None, None) => {
            let advice = "write the path of a file with tenants; `echogen keys new` makes one";
            return Err(Failure::usage(format!("gateway.tenants is not set; {advice}")));
        }
    };
    Ok(Access { tenants, sealing_secret, new_key })
}

/// The folder of the store of a process without servers, which belongs to one user.
fn embedded_folder(config: &ServiceConfig) -> Option<PathBuf> {
    let place = store_url(config).filter(|place| config.is_embedded() && !place.starts_with("s3://"))?;
    Some(PathBuf::from(place))
}

async fn watched(file: PathBuf, tracker: &TaskTracker, shutdown: &CancellationToken) -> Result<TenantsHandle, Failure> {
    let watched = TenantsFile::new(file).watch(tracker, shutdown.clone()).await;
    watched.map_err(|error| Failure::refused("the tenants cannot be read", &error))
}

/// One tenant for all, with the key that the settings give.
fn single(key: &Secret) -> Result<Tenants, Failure> {
    let wrong = "gateway.key is no key: eg_, 8 and 43 characters; `echogen keys new` makes one";
    let key = Key::parse(key.expose()).ok_or_else(|| Failure::usage(wrong))?;
    Ok(Tenants::single(kept::tenant()?, &key))
}
