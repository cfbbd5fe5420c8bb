//! Opens what the options name: RabbitMQ or its twin, Redis or its twin, S3 or a folder.

use std::{path::Path, sync::Arc};

use echogen_adapters::{
    CallbackConfig, DirectoryObjectStore, FileImageFetcher, HttpCallbackSender, HttpConfig, HttpImageFetcher, ImageFetchers,
    MeteredObjectStore, RedisCache, RedisConfig, S3Config, S3ImageFetcher, S3ObjectStore,
    amqp::{AmqpBroker, AmqpConfig},
};
use echogen_ports::{Broker, Cache, CallbackSender, ImageFetcher, MemoryCache, ObjectStore, PortError, Secret, error_story};
use echogen_worker::{Clock, JobStatusBoard, ResultWriter};
use tokio_util::task::TaskTracker;

use super::arguments::{BrokerOptions, CallbackOptions, FetchOptions, RoleArguments, StoreOptions};
use crate::failure::Failure;

/// Bytes of values that a cache within the process holds: some forty encoded subjects of the largest size.
const CACHE_BYTES: usize = 256 * 1024 * 1024;

/// Where results lie in the store, and where everything does that may be made again.
const RESULTS: &str = "results";
const WORK: &str = "work";

/// What joins the stages.
#[derive(Clone, Debug)]
pub struct Backends {
    /// Queues and events.
    pub broker: Arc<dyn Broker>,
    /// Hot values, leases, and the scoreboard.
    pub cache: Arc<dyn Cache>,
    /// Everything in between, under content hashes.
    pub work: Arc<dyn ObjectStore>,
    /// Results, under the jobs' own names.
    pub results: Arc<dyn ObjectStore>,
    /// Pictures of subjects.
    pub fetcher: Arc<dyn ImageFetcher>,
    /// Where jobs stand.
    pub board: JobStatusBoard,
}

impl Backends {
    /// Joins ports; the board's writer runs on `tracker`.
    pub fn new(
        broker: Arc<dyn Broker>,
        cache: Arc<dyn Cache>,
        work: Arc<dyn ObjectStore>,
        results: Arc<dyn ObjectStore>,
        fetcher: Arc<dyn ImageFetcher>,
        tracker: &TaskTracker,
    ) -> Self {
        let board = JobStatusBoard::start(Arc::clone(&cache), tracker);
        Self { broker, cache, work, results, fetcher, board }
    }

    /// The writer of results.
    pub fn writer(&self) -> ResultWriter {
        let (store, broker) = (Arc::clone(&self.results), Arc::clone(&self.broker));
        ResultWriter::new(store, broker, Clock::system(), env!("CARGO_PKG_VERSION")).with_board(self.board.clone())
    }
}

/// A port's refusal, as the end of the program.
pub(crate) fn refused(what: &str, error: &PortError) -> Failure {
    let story = format!("{what}: {}", error_story(error));
    Failure::usage(story.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl BrokerOptions {
    /// The adapter's settings.
    pub(crate) fn config(&self) -> AmqpConfig {
        let mut config = AmqpConfig { prefix: self.amqp_prefix.clone(), ..AmqpConfig::default() };
        config.url = self.amqp_url.as_deref().map(Secret::from);
        config.intake_max_messages = self.intake_limit;
        config.stage_max_messages = self.stage_limit;
        config
    }

    /// Connects and declares; without an address this is an error.
    pub(crate) async fn connect(&self) -> Result<AmqpBroker, Failure> {
        if self.amqp_url.is_none() {
            let example = "amqp://guest:guest@127.0.0.1:5672/%2f";
            return Err(Failure::usage(format!("no broker is named; give --amqp-url, such as {example}")));
        }
        AmqpBroker::connect(self.config()).await.map_err(|error| refused("RabbitMQ cannot be used", &error))
    }
}

/// The two stores: of results, and of everything in between.
pub(crate) struct Stores {
    pub(crate) results: Arc<dyn ObjectStore>,
    pub(crate) work: Arc<dyn ObjectStore>,
    /// The results' store once more, if it can give away addresses.
    pub(crate) bucket: Option<S3ObjectStore>,
}

impl StoreOptions {
    /// Redis, or a cache of this process alone.
    pub(crate) fn cache(&self, prefix: &str) -> Result<Arc<dyn Cache>, Failure> {
        let Some(url) = &self.redis_url else { return Ok(Arc::new(MemoryCache::new(CACHE_BYTES))) };
        let config = RedisConfig { prefix: format!("{prefix}:"), ..RedisConfig::at(url.as_str()) };
        let cache = RedisCache::open(config).map_err(|error| refused("Redis cannot be used", &error))?;
        Ok(Arc::new(cache))
    }

    /// The two stores at `--store`.
    pub(crate) async fn stores(&self) -> Result<Stores, Failure> {
        let Some(place) = &self.store else {
            return Err(Failure::usage("no store is named; give --store, such as s3://bucket or a folder"));
        };
        match place.strip_prefix("s3://") {
            Some(place) => self.buckets(place).await,
            None => folders(Path::new(place)),
        }
    }

    async fn buckets(&self, place: &str) -> Result<Stores, Failure> {
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_matches('/');
        let below = |part: &str| if prefix.is_empty() { format!("{part}/") } else { format!("{prefix}/{part}/") };
        let open = async |part: &str| {
            let config = S3Config { bucket: bucket.to_owned(), prefix: below(part), ..self.s3_config() };
            S3ObjectStore::open(config).await.map_err(|error| refused("the store cannot be used", &error))
        };
        let (results, work) = (open(RESULTS).await?, open(WORK).await?);
        Ok(Stores { results: metered(results.clone()), work: metered(work), bucket: Some(results) })
    }

    fn s3_config(&self) -> S3Config {
        S3Config {
            endpoint: self.s3_endpoint.clone(),
            region: self.s3_region.clone(),
            access_key_id: self.s3_access_key_id.as_deref().map(Secret::from),
            secret_access_key: self.s3_secret_access_key.as_deref().map(Secret::from),
            path_style: self.s3_path_style,
            conditional_writes: self.s3_conditional_writes,
            ..S3Config::default()
        }
    }

    /// The fetcher of pictures, for a dispatcher.
    pub(crate) async fn fetcher(&self, options: &FetchOptions) -> Result<Arc<dyn ImageFetcher>, Failure> {
        let fault = |error: PortError| refused("pictures cannot be fetched", &error);
        let web = HttpConfig {
            allowed_hosts: options.allow_hosts.clone(),
            allowed_networks: options.allow_networks.clone(),
            ..HttpConfig::default()
        };
        let mut fetchers = ImageFetchers::new().with_https(Arc::new(HttpImageFetcher::new(web).map_err(fault)?));
        if let Some(folder) = &options.subject_folder {
            fetchers = fetchers.with_files(FileImageFetcher::below(folder));
        }
        if !options.allow_buckets.is_empty() {
            let s3 = S3ImageFetcher::open(self.s3_config(), &options.allow_buckets).await.map_err(fault)?;
            fetchers = fetchers.with_s3(Arc::new(s3));
        }
        Ok(Arc::new(fetchers))
    }
}

impl RoleArguments {
    /// The fetcher of pictures. Without a broker all jobs come from whoever runs this program, who may name files of
    /// the folder it runs in.
    pub(crate) async fn fetcher(&self) -> Result<Arc<dyn ImageFetcher>, Failure> {
        let mut options = self.fetch.clone();
        if self.broker.amqp_url.is_none() {
            options.subject_folder.get_or_insert_with(|| ".".into());
        }
        self.stores.fetcher(&options).await
    }
}

impl CallbackOptions {
    /// The sender of callbacks, for the notifier.
    pub(crate) fn sender(&self, fetch: &FetchOptions) -> Result<Arc<dyn CallbackSender>, Failure> {
        let sender = HttpCallbackSender::new(CallbackConfig {
            allowed_hosts: self.callback_hosts.clone(),
            allowed_networks: fetch.allow_networks.clone(),
            secret: self.callback_secret.clone(),
            timeout_seconds: self.callback_timeout,
            ..CallbackConfig::default()
        });
        Ok(Arc::new(sender.map_err(|error| refused("nobody can be called back", &error))?))
    }
}

/// Every call to a store is counted and timed.
fn metered(store: impl ObjectStore + 'static) -> Arc<dyn ObjectStore> {
    Arc::new(MeteredObjectStore::new(Arc::new(store)))
}

fn folders(folder: &Path) -> Result<Stores, Failure> {
    let open = |part: &str| {
        let path = folder.join(part);
        let fault = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("cannot write to the folder {}: {error}; choose another --store", path.display()))
        };
        std::fs::create_dir_all(&path).map_err(|error| fault(&error))?;
        let store = DirectoryObjectStore::open(&path).map_err(|error| fault(&error))?;
        Ok::<Arc<dyn ObjectStore>, Failure>(metered(store))
    };
    Ok(Stores { results: open(RESULTS)?, work: open(WORK)?, bucket: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        role: RoleArguments,
    }

    async fn fetch(options: &[&str], picture: &str) -> Result<usize, String> {
        let line = ["echogen"].iter().chain(options);
        let arguments = <Line as clap::Parser>::try_parse_from(line).unwrap().role;
        let fetched = arguments.fetcher().await.unwrap().fetch(&picture.into(), 1_000_000).await;
        fetched.map(|bytes| bytes.len()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn files_are_taken_from_here_where_all_jobs_come_from_here() {
        assert!(fetch(&[], "Cargo.toml").await.unwrap() > 0);
        assert!(fetch(&[], "../Cargo.toml").await.unwrap_err().contains("outside the folder"));
        assert!(fetch(&["--subject-folder", "src"], "Cargo.toml").await.is_err());
        let broker = ["--amqp-url", "amqp://guest:guest@127.0.0.1/%2f"];
        assert!(fetch(&broker, "Cargo.toml").await.unwrap_err().contains("--subject-folder"));
    }
}
