//! All four roles in this process, on the in-memory ports, with constant networks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use echogen_adapters::ImageFetchers;
use echogen_ports::{Broker, EventStream, MemoryBroker, MemoryCache, MemoryCallbackSender, MemoryObjectStore, Message};
use echogen_protocol::{Job, JobEvent, JobId, RoleName, StageTask};
use echogen_service::{Backends, config::ServiceConfig, work};
use echogen_tenants::Key;
use echogen_testkit::Counting;
use echogen_tests::constant;
use echogen_worker::JobStatusStore;
use jiff::Timestamp;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::gateway::{api::Api, free_address};

/// Timeout of every wait.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) type Store = Arc<Counting<MemoryObjectStore>>;

/// The roles and the ports they share.
pub(crate) struct Installation {
    pub(crate) broker: Arc<MemoryBroker>,
    events: Box<dyn EventStream>,
    pub(crate) cache: Arc<MemoryCache>,
    status_store: JobStatusStore,
    work: Store,
    results: Store,
    pub(crate) callbacks: Arc<MemoryCallbackSender>,
}

impl Installation {
    pub(crate) async fn start() -> Self {
        Self::start_behind(|broker, _, _| broker).await
    }

    /// Starts roles that reach the broker only through what `wrap` puts before it.
    pub(crate) async fn start_behind(
        wrap: impl FnOnce(Arc<MemoryBroker>, Arc<MemoryCache>, Store) -> Arc<dyn Broker>,
    ) -> Self {
        Self::start_with(&RoleName::WORKERS, ServiceConfig::default(), wrap).await
    }

    /// Starts a gateway beside the roles; returns a client of it too.
    pub(crate) async fn start_with_gateway() -> (Self, Api) {
        let key = Key::generate().expect("there are random numbers").expose().to_owned();
        let mut config = ServiceConfig::default();
        let address = free_address();
        config.gateway.listen = Some(address);
        config.gateway.key = Some(key.as_str().into());
        let installation = Self::start_with(&RoleName::ALL, config, |broker, _, _| broker).await;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (installation, Api { address, key })
    }

    async fn start_with(
        roles: &'static [RoleName],
        config: ServiceConfig,
        wrap: impl FnOnce(Arc<MemoryBroker>, Arc<MemoryCache>, Store) -> Arc<dyn Broker>,
    ) -> Self {
        let (broker, cache) = (Arc::new(MemoryBroker::new()), Arc::new(MemoryCache::new(1 << 24)));
        let (store, results) = (Store::default(), Store::default());
        let (fetcher, callbacks) = (Arc::new(ImageFetchers::new()), Arc::new(MemoryCallbackSender::new()));
        let tracker = TaskTracker::new();
        let (stored, written) = (store.clone(), results.clone());
        let wrapped = wrap(broker.clone(), cache.clone(), store.clone());
        let backends = Backends::new(wrapped, cache.clone(), stored, written, fetcher, &tracker);
        let backends = backends.with_callbacks(callbacks.clone()).with_browse(broker.clone());
        let (status_store, networks) = (backends.status_store.clone(), constant::networks(Duration::ZERO));
        let events = broker.subscribe("job").await.expect("the twin takes listeners");
        tracker.spawn(async move {
            let end = CancellationToken::new();
            work(roles, &networks, &backends, &config, &end).await
        });
        Self { broker, events, cache, status_store, work: store, results, callbacks }
    }

    /// Runs a job to its end and returns its last event.
    pub(crate) async fn run(&mut self, job: &Job) -> JobEvent {
        let message = Message::of_job(job, Timestamp::now());
        self.broker.publish(&job.queue(), message).await.expect("the twin takes everything");
        self.until_ended(&job.id).await
    }

    /// Waits for the last event of a job.
    pub(crate) async fn until_ended(&mut self, id: &JobId) -> JobEvent {
        let ended = async {
            loop {
                let event = self.events.next().await.expect("the twin lives").to_job().expect("a job's event");
                if event.kind.ends_job() && event.subject == *id {
                    return event;
                }
            }
        };
        tokio::time::timeout(LIMIT, ended).await.expect("the job ends")
    }

    /// Waits until the job status store has recorded the end of the job: it is updated after the event is published.
    pub(crate) async fn until_noted(&self, job: &Job) {
        let noted = async {
            while !self
                .status_store
                .find(&job.id)
                .await
                .expect("the twin answers")
                .is_some_and(|state| state.state.ends_job())
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, noted).await.expect("the end is noted");
    }

    /// Returns the calls to the work store and the result store since the last call of this function.
    pub(crate) fn take_calls(&self) -> [BTreeMap<&'static str, usize>; 2] {
        [self.work.take(), self.results.take()]
    }
}
