//! The gateway: an HTTP API and a console for jobs.
//!
//! It writes jobs to the same queues as every client, reads results from the same store, and runs no model. Any number of
//! gateways work side by side: none keeps anything that another needs.
//!
//! | module | contains |
//! |---|---|
//! | `routes` | the table of routes, of which the router and the OpenAPI document are made |
//! | `authentication` | keys and sessions; what every request passes before it reaches its handler |
//! | `jobs` | jobs: records, sending, showing, listing, cancelling, pictures |
//! | `events` | server-sent events, from one subscription of the process |
//! | `batches` | many jobs in one request, and their results |
//! | `callback_secret` | how a tenant verifies callbacks |
//! | `usage` | what jobs have used |
//! | `admin` | requests of operators |
//! | `uploads` | pictures that clients hand in |
//! | `limits` | limits of tenants |
//! | `problem` | errors |
//! | `server` | the accept loop |
//!
//! The truth is in the result store: a job's record, written before the job is published, and its `result.json`. The cache makes
//! it faster, and may lose everything.

mod admin;
mod authentication;
mod batches;
mod body;
mod callback_secret;
mod config;
mod console;
mod events;
mod health;
mod jobs;
mod limits;
mod openapi;
mod place;
mod problem;
mod quota;
mod request;
mod route;
mod router;
mod routes;
mod safety;
mod server;
mod session;
mod uploads;
pub mod usage;
#[cfg(test)]
mod wire_tests;

use std::{ops::Deref, sync::Arc};

use echogen_ports::{Broker, Browse, Cache, ContentGate, Fault, ImageFetcher, ObjectStore, Quota, Secret};
use echogen_protocol::Partitions;
use echogen_tenants::{Sessions, TenantsHandle};
use echogen_worker::{CachedObjects, Clock, JobCanceller, JobStatusStore, ResultWriter};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    admin::{
        KeyView, Letter, LetterList, LettersSettled, QueueList, QueueView, Refilled, TenantList, TenantView,
        WorkerList, WorkerView,
    },
    batches::{BatchLinks, BatchList, BatchStatus, BatchView, Counts, LineError},
    config::GatewayConfig,
    events::{JobUpdate, Snapshot},
    jobs::{ImageView, JobList, JobRecord, JobView, PreviewView, Records, Status},
    limits::LimitsView,
    openapi::openapi,
    problem::{Kind, ProblemDetails},
    route::{Access, Route},
    router::Served,
    routes::table,
    server::Server,
};

use self::{
    authentication::Throttle,
    batches::{Batches, Cancelling},
    events::Hub,
    limits::Streams,
    place::Places,
    quota::QuotaWithStandIn,
    uploads::Pictures,
};

/// What a gateway works with.
#[derive(Clone, Debug)]
pub struct GatewayPorts {
    /// Queues and events.
    pub broker: Arc<dyn Broker>,
    /// The same broker, whose queues can be looked through.
    pub browse: Arc<dyn Browse>,
    /// Where previews are.
    pub cache: Arc<dyn Cache>,
    /// Results and records.
    pub results: Arc<dyn ObjectStore>,
    /// Subjects' pictures.
    pub work: Arc<dyn ObjectStore>,
    /// The same, through the cache.
    pub objects: CachedObjects,
    /// Reads pictures within jobs.
    pub fetcher: Arc<dyn ImageFetcher>,
    /// Counts of tenants.
    pub quota: Arc<dyn Quota>,
    /// Decides which words are used; without it all are.
    pub gate: Option<Arc<dyn ContentGate>>,
    /// How far jobs are.
    pub status_store: JobStatusStore,
    /// Reads and writes results.
    pub writer: ResultWriter,
    /// What callbacks are signed with, from which tenants' secrets are derived; without it they are not signed.
    pub callbacks_secret: Option<Secret>,
}

/// A running gateway, shared by all requests.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

/// See [`Gateway`].
pub struct Inner {
    config: GatewayConfig,
    ports: GatewayPorts,
    partitions: Partitions,
    tenants: TenantsHandle,
    clock: Clock,
    canceller: JobCanceller,
    records: Records,
    batches: Batches,
    cancelling: Cancelling,
    letters: tokio::sync::Mutex<()>,
    pictures: Pictures,
    hub: Hub,
    places: Places,
    streams: Streams,
    sessions: Option<Sessions>,
    throttle: Throttle,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl Deref for Gateway {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Gateway {
    /// A gateway for these tenants. Background tasks run on `tracker` until `shutdown`.
    ///
    /// # Errors
    ///
    /// The secret that seals sessions is too short.
    pub fn start(
        config: GatewayConfig,
        ports: GatewayPorts,
        tenants: TenantsHandle,
        partitions: Partitions,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, Fault> {
        let quota: Arc<dyn Quota> = Arc::new(QuotaWithStandIn::new(Arc::clone(&ports.quota)));
        let ports = GatewayPorts { quota, ..ports };
        let secret = config.sealing_secret.as_ref().filter(|secret| !secret.is_empty());
        let sessions = secret.map(Sessions::new).transpose()?;
        let canceller = JobCanceller::new(ports.writer.clone(), Some(ports.status_store.clone()));
        let gateway = Self(Arc::new(Inner {
            canceller,
            records: Records::new(Arc::clone(&ports.results)),
            batches: Batches::new(Arc::clone(&ports.results)),
            cancelling: Cancelling::default(),
            letters: tokio::sync::Mutex::default(),
            pictures: Pictures::new(Arc::clone(&ports.results), ports.objects.clone(), config.max_image_bytes),
            places: Places::new(Arc::clone(&ports.browse)),
            config,
            ports,
            partitions,
            tenants,
            clock: Clock::system(),
            hub: Hub::default(),
            streams: Streams::default(),
            sessions,
            throttle: Throttle::default(),
            tracker: tracker.clone(),
            shutdown: shutdown.clone(),
        }));
        gateway.listen_to_events();
        Ok(gateway)
    }

    /// Hands events on to streams, and releases jobs that have ended.
    fn listen_to_events(&self) {
        let (hub, broker, end) = (self.hub.clone(), Arc::clone(&self.ports.broker), self.shutdown.clone());
        let (quota, tracker) = (Arc::clone(&self.ports.quota), self.tracker.clone());
        self.tracker.spawn(async move {
            let ended = |tenant: &str, id: &str| {
                limits::release(&tracker, &quota, limits::held_key(tenant), id.to_owned());
            };
            hub.run(broker, ended, end).await;
        });
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("config", &self.config).finish_non_exhaustive()
    }
}
