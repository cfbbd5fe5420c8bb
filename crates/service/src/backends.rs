//! Opens the backends that the settings name: RabbitMQ, Redis and S3, or the in-memory ports and folders.

use std::{path::Path, sync::Arc};

use echogen_adapters::{
    DirectoryObjectStore, FileImageFetcher, HttpCallbackSender, HttpContentGate, HttpImageFetcher, ImageFetchers,
    MeteredObjectStore, RedisCache, S3Config, S3ImageFetcher, S3ObjectStore, amqp::AmqpBroker,
};
use echogen_ports::{
    Broker, Browse, Cache, CallbackSender, ContentGate, Fault, ImageFetcher, MemoryBroker, MemoryCache, MemoryQuota,
    ObjectStore, Quota, Secret,
};
use echogen_worker::{Clock, JobStatusStore, ResultWriter};
use tokio_util::task::TaskTracker;

use crate::{
    Failure,
    config::{CacheConfig, ServiceConfig},
};

/// Prefix of results within the store.
const RESULTS: &str = "results";
/// Prefix of intermediate products within the store, which can be made again.
const WORK: &str = "work";

/// The ports that join the stages.
#[derive(Clone, Debug)]
pub struct Backends {
    /// Queues and events.
    pub broker: Arc<dyn Broker>,
    /// Cached products, leases, and the status of jobs.
    pub cache: Arc<dyn Cache>,
    /// Intermediate products, under content hashes.
    pub work: Arc<dyn ObjectStore>,
    /// Results, under the jobs' ids.
    pub results: Arc<dyn ObjectStore>,
    /// Fetches pictures of subjects.
    pub fetcher: Arc<dyn ImageFetcher>,
    /// Sends callbacks to clients' servers; without it a callback is parked.
    pub callbacks: Option<Arc<dyn CallbackSender>>,
    /// Decides which words and pictures are used; without it all are.
    pub gate: Option<Arc<dyn ContentGate>>,
    /// Limits of tenants, and which processes live.
    pub quota: Arc<dyn Quota>,
    /// The job status store.
    pub status_store: JobStatusStore,
    /// The same broker, if its queues can be looked through.
    pub(crate) browse: Option<Arc<dyn Browse>>,
    /// The same broker if it is RabbitMQ, whose queue depths can be read.
    pub(crate) amqp: Option<Arc<AmqpBroker>>,
}

impl Backends {
    /// Combines ports. The job status store's background task runs on `tracker`.
    pub fn new(
        broker: Arc<dyn Broker>,
        cache: Arc<dyn Cache>,
        work: Arc<dyn ObjectStore>,
        results: Arc<dyn ObjectStore>,
        fetcher: Arc<dyn ImageFetcher>,
        tracker: &TaskTracker,
    ) -> Self {
        let status_store = JobStatusStore::start(Arc::clone(&cache), tracker);
        Self {
            broker,
            cache,
            work,
            results,
            fetcher,
            callbacks: None,
            gate: None,
            quota: Arc::new(MemoryQuota::new()),
            status_store,
            browse: None,
            amqp: None,
        }
    }

    /// Adds the port to clients' servers.
    #[must_use]
    pub fn with_callbacks(mut self, callbacks: Arc<dyn CallbackSender>) -> Self {
        self.callbacks = Some(callbacks);
        self
    }

    /// Takes limits that processes keep together, instead of those of this process.
    #[must_use]
    pub fn with_quota(mut self, quota: Arc<dyn Quota>) -> Self {
        self.quota = quota;
        self
    }

    /// Adds the broker again, as one whose queues can be looked through.
    #[must_use]
    pub fn with_browse(mut self, browse: Arc<dyn Browse>) -> Self {
        self.browse = Some(browse);
        self
    }

    /// Adds the gate of words and pictures, if there is one.
    #[must_use]
    pub fn with_gate(mut self, gate: Option<Arc<dyn ContentGate>>) -> Self {
        self.gate = gate;
        self
    }

    /// Opens everything else for a connected broker.
    pub(crate) async fn on_broker(
        amqp: &Arc<AmqpBroker>,
        config: &ServiceConfig,
        tracker: &TaskTracker,
    ) -> Result<Self, Failure> {
        let backends = Self::open(Arc::clone(amqp) as _, config, tracker).await?;
        Ok(Self { amqp: Some(Arc::clone(amqp)), browse: Some(Arc::clone(amqp) as _), ..backends })
    }

    /// Opens everything else for an in-memory broker. All jobs then come from the user who runs this program, so they
    /// may name files below the working directory.
    pub(crate) async fn embedded(config: &ServiceConfig, tracker: &TaskTracker) -> Result<Self, Failure> {
        let mut config = config.clone();
        config.fetch.subject_folder.get_or_insert_with(|| ".".into());
        let broker = Arc::new(MemoryBroker::new());
        let backends = Self::open(Arc::clone(&broker) as _, &config, tracker).await?;
        Ok(Self { browse: Some(broker), ..backends })
    }

    async fn open(broker: Arc<dyn Broker>, config: &ServiceConfig, tracker: &TaskTracker) -> Result<Self, Failure> {
        let Stores { work, results, .. } = Stores::open(config).await?;
        let ((cache, quota), fetcher) = (open_shared(config)?, open_fetcher(config).await?);
        let backends = Self::new(broker, cache, work, results, fetcher, tracker);
        let backends = backends.with_quota(quota).with_callbacks(open_callbacks(config)?);
        Ok(backends.with_gate(open_gate(config)?))
    }

    /// Returns the writer of results.
    pub fn writer(&self) -> ResultWriter {
        result_writer(Arc::clone(&self.results), Arc::clone(&self.broker)).with_status_store(self.status_store.clone())
    }
}

/// Creates a writer of results of this version.
pub(crate) fn result_writer(results: Arc<dyn ObjectStore>, broker: Arc<dyn Broker>) -> ResultWriter {
    ResultWriter::new(results, broker, Clock::system(), env!("CARGO_PKG_VERSION"))
}

/// Connects to RabbitMQ and declares the topology. It is an error if no address is configured.
pub(crate) async fn connect(config: &ServiceConfig) -> Result<AmqpBroker, Failure> {
    require_address(config)?;
    let connected = AmqpBroker::connect(config.broker.clone()).await;
    connected.map_err(|error| Failure::refused("RabbitMQ cannot be used", &error))
}

/// Connects to RabbitMQ as a client, who declares nothing.
pub(crate) async fn connect_client(config: &ServiceConfig) -> Result<AmqpBroker, Failure> {
    require_address(config)?;
    let connected = AmqpBroker::connect_client(config.broker.clone()).await;
    connected.map_err(|error| Failure::refused("RabbitMQ cannot be used", &error))
}

/// RabbitMQ, not connected yet.
pub(crate) fn broker(config: &ServiceConfig) -> Result<AmqpBroker, Failure> {
    require_address(config)?;
    AmqpBroker::new(config.broker.clone()).map_err(|error| Failure::refused("RabbitMQ cannot be used", &error))
}

fn require_address(config: &ServiceConfig) -> Result<(), Failure> {
    if config.is_embedded() {
        let example = "amqp://guest:guest@127.0.0.1:5672/%2f";
        return Err(Failure::usage(format!("broker.url is not set; write an address such as {example}")));
    }
    Ok(())
}

/// Opens Redis, or the in-memory cache.
pub(crate) fn open_cache(config: &ServiceConfig) -> Result<Arc<dyn Cache>, Failure> {
    Ok(open_shared(config)?.0)
}

/// The cache, and the limits that are in the same server.
type Shared = (Arc<dyn Cache>, Arc<dyn Quota>);

/// Opens Redis as the cache and for limits, on the same connections, or those of this process alone.
fn open_shared(config: &ServiceConfig) -> Result<Shared, Failure> {
    if let Some(redis) = open_redis(&config.cache)? {
        let redis = Arc::new(redis);
        return Ok((Arc::clone(&redis) as _, redis));
    }
    let bytes = usize::try_from(config.cache.memory_bytes).unwrap_or(usize::MAX);
    Ok((Arc::new(MemoryCache::new(bytes)), Arc::new(MemoryQuota::new())))
}

/// Opens Redis, if its address is configured.
fn open_redis(config: &CacheConfig) -> Result<Option<RedisCache>, Failure> {
    if config.redis.url.as_ref().is_none_or(Secret::is_empty) {
        return Ok(None);
    }
    let opened = RedisCache::open(config.redis.clone());
    opened.map(Some).map_err(|error| Failure::refused("Redis cannot be used", &error))
}

/// Returns the configured store, if there is one.
pub(crate) fn store_url(config: &ServiceConfig) -> Option<&str> {
    config.store.url.as_deref().filter(|url| !url.is_empty())
}

/// The two stores: of results, and of intermediate products.
pub(crate) struct Stores {
    pub(crate) results: Arc<dyn ObjectStore>,
    pub(crate) work: Arc<dyn ObjectStore>,
}

impl Stores {
    /// Opens the two stores.
    pub(crate) async fn open(config: &ServiceConfig) -> Result<Self, Failure> {
        let Some(place) = store_url(config) else {
            return Err(Failure::usage("store.url is not set; write s3://bucket/prefix or the path of a folder"));
        };
        match place.strip_prefix("s3://") {
            Some(place) => Self::in_bucket(place, &config.store.s3).await,
            None => Self::in_folder(Path::new(place)),
        }
    }

    async fn in_bucket(place: &str, s3: &S3Config) -> Result<Self, Failure> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_matches('/');
        let below = |part: &str| if prefix.is_empty() { format!("{part}/") } else { format!("{prefix}/{part}/") };
        let open = async |part: &str| {
            let config = S3Config { bucket: bucket.to_owned(), prefix: below(part), ..s3.clone() };
            S3ObjectStore::open(config).await.map_err(|error| Failure::refused("the store cannot be used", &error))
        };
        let (results, work) = (open(RESULTS).await?, open(WORK).await?);
        Ok(Self { results: metered(results), work: metered(work) })
    }

    fn in_folder(folder: &Path) -> Result<Self, Failure> {
        let open = |part: &str| {
            let path = folder.join(part);
            Ok::<_, Failure>(metered(open_folder(&path, "store.url")?))
        };
        Ok(Self { results: open(RESULTS)?, work: open(WORK)? })
    }
}

/// Opens a folder as a store, and creates it if it is missing. `option` names the setting in errors.
pub(crate) fn open_folder(path: &Path, option: &str) -> Result<DirectoryObjectStore, Failure> {
    let fault = |error: &dyn std::fmt::Display| cannot_write(path, option, error);
    std::fs::create_dir_all(path).map_err(|error| fault(&error))?;
    DirectoryObjectStore::open(path).map_err(|error| fault(&error))
}

pub(crate) fn cannot_write(path: &Path, option: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("cannot write to the folder {}: {error}; choose another {option}", path.display()))
}

/// Wraps a store so that every call is counted and timed.
fn metered(store: impl ObjectStore + 'static) -> Arc<dyn ObjectStore> {
    Arc::new(MeteredObjectStore::new(Arc::new(store)))
}

/// Opens the fetcher of pictures, for a dispatcher.
async fn open_fetcher(config: &ServiceConfig) -> Result<Arc<dyn ImageFetcher>, Failure> {
    let (fault, fetch) = (|error: Fault| Failure::refused("pictures cannot be fetched", &error), &config.fetch);
    let web = HttpImageFetcher::new(fetch.http.clone()).map_err(fault)?;
    let mut fetchers = ImageFetchers::new().with_https(Arc::new(web));
    if let Some(folder) = &fetch.subject_folder {
        fetchers = fetchers.with_files(FileImageFetcher::below(folder));
    }
    if !fetch.allowed_buckets.is_empty() {
        let s3 = S3ImageFetcher::open(config.store.s3.clone(), &fetch.allowed_buckets).await.map_err(fault)?;
        fetchers = fetchers.with_s3(Arc::new(s3));
    }
    Ok(Arc::new(fetchers))
}

/// Opens the sender of callbacks, for the notifier.
fn open_callbacks(config: &ServiceConfig) -> Result<Arc<dyn CallbackSender>, Failure> {
    let sender = HttpCallbackSender::new(config.callbacks.clone());
    Ok(Arc::new(sender.map_err(|error| Failure::refused("callbacks cannot be sent", &error))?))
}

/// Opens the content gate, if the settings name a hook.
fn open_gate(config: &ServiceConfig) -> Result<Option<Arc<dyn ContentGate>>, Failure> {
    let gate = HttpContentGate::new(&config.safety);
    let gate = gate.map_err(|error| Failure::refused("the content gate cannot be used", &error))?;
    Ok(gate.map(|gate| Arc::new(gate) as Arc<dyn ContentGate>))
}

#[cfg(test)]
mod tests {
    use echogen_ports::GatePlace;

    use super::*;

    /// Fetches a picture with the given folder for subjects; returns its size in bytes or the error.
    async fn fetch(embedded: bool, subject_folder: Option<&str>, picture: &str) -> Result<usize, String> {
        let store = tempfile::tempdir().unwrap();
        let mut config = ServiceConfig::default();
        config.store.url = Some(store.path().display().to_string());
        config.fetch.subject_folder = subject_folder.map(Into::into);
        let tracker = TaskTracker::new();
        let backends = match embedded {
            true => Box::pin(Backends::embedded(&config, &tracker)).await.unwrap(),
            false => Box::pin(Backends::open(Arc::new(MemoryBroker::new()), &config, &tracker)).await.unwrap(),
        };
        let fetched = backends.fetcher.fetch(&picture.into(), 1_000_000).await;
        fetched.map(|bytes| bytes.len()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn files_are_taken_from_here_where_all_jobs_come_from_here() {
        assert!(fetch(true, None, "Cargo.toml").await.unwrap() > 0);
        assert!(fetch(true, None, "../Cargo.toml").await.unwrap_err().contains("outside the folder"));
        assert!(fetch(true, Some("src"), "Cargo.toml").await.is_err());
        assert!(fetch(false, None, "Cargo.toml").await.unwrap_err().contains("fetch.subject_folder"));
    }

    #[tokio::test]
    async fn a_hook_is_a_gate_of_the_places_that_the_settings_name() {
        let store = tempfile::tempdir().unwrap();
        let mut config = ServiceConfig::default();
        config.store.url = Some(store.path().display().to_string());
        let tracker = TaskTracker::new();
        assert!(Box::pin(Backends::embedded(&config, &tracker)).await.unwrap().gate.is_none());
        config.safety.hook = Some("http://127.0.0.1:1/".to_owned());
        config.safety.check_subjects = false;
        let gate = Box::pin(Backends::embedded(&config, &tracker)).await.unwrap().gate.unwrap();
        let checked = GatePlace::ALL.map(|place| gate.checks(place));
        assert_eq!(checked, [true, false, true]);
    }
}
