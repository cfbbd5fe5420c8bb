//! Detects settings that contradict each other.

use echogen_adapters::S3Config;
use echogen_ports::Fault;

use super::{ServiceConfig, StoreConfig};

impl ServiceConfig {
    /// Checks what can be checked without any server.
    ///
    /// # Errors
    ///
    /// The first contradiction; it names settings as `section.name`.
    pub fn check(&self) -> Result<(), String> {
        self.check_adapters()?;
        self.check_work()?;
        self.job.check()
    }

    /// Runs the adapters' own checks, which need no server. Without an address, an adapter is not used and not
    /// checked.
    fn check_adapters(&self) -> Result<(), String> {
        if !self.is_embedded() {
            self.broker.check().map_err(told)?;
        }
        if self.cache.redis.url.is_some() {
            self.cache.redis.check().map_err(told)?;
        }
        self.store.check()?;
        self.fetch.http.check().map_err(told)?;
        self.callbacks.check().map_err(told)?;
        self.safety.check().map_err(told)
    }

    fn check_work(&self) -> Result<(), String> {
        let (redeliveries, limit) = (self.worker.common.max_redeliveries, self.broker.delivery_limit);
        if self.broker.quorum && redeliveries >= limit {
            return Err(format!(
                "worker.max_redeliveries is {redeliveries} and broker.delivery_limit {limit}; the second must be larger, or \
                 the broker drops tasks before a worker can report them"
            ));
        }
        if self.worker.common.lanes.is_empty() {
            return Err("worker.lanes is empty, so no queue would be consumed; leave it out for all lanes".to_owned());
        }
        Ok(())
    }
}

impl StoreConfig {
    /// The credentials and the endpoint also serve pictures in buckets, so they are checked wherever results are
    /// stored.
    fn check(&self) -> Result<(), String> {
        let bucket = self.url.as_deref().and_then(|url| url.strip_prefix("s3://"));
        let bucket = bucket.map_or("unnamed", |place| place.split('/').next().unwrap_or_default());
        if bucket.is_empty() {
            return Err("store.url names no bucket; write s3://bucket/prefix".to_owned());
        }
        if bucket.contains('@') {
            let place = "store.access_key_id and store.secret_access_key";
            return Err(format!("store.url contains an @; user and password belong to {place}"));
        }
        S3Config { bucket: bucket.to_owned(), ..self.s3.clone() }.check().map_err(told)
    }
}

fn told(error: Fault) -> String {
    error.to_string()
}
