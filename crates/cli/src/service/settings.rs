//! From the options of the command line to the configuration.

use echogen_adapters::CallbackConfig;
use echogen_ports::Secret;
use echogen_service::config::{ModelConfig, RoleConcurrency, ServiceConfig};

use super::{
    arguments::{BatchOptions, BrokerOptions, CallbackOptions, FetchOptions, RoleArguments, StoreOptions, WorkOptions},
    watch_arguments::CanaryArguments,
};
use crate::model_options::ModelOptions;

/// The configuration of a command that speaks to the broker and the stores.
pub(crate) fn of_client(broker: &BrokerOptions, stores: &StoreOptions) -> ServiceConfig {
    let mut config = broker.config();
    stores.apply(&mut config);
    config
}

impl BrokerOptions {
    /// The configuration of a command that speaks to the broker alone.
    pub(crate) fn config(&self) -> ServiceConfig {
        let mut config = ServiceConfig::default();
        config.broker.url = self.amqp_url.as_deref().map(Secret::from);
        config.broker.prefix.clone_from(&self.amqp_prefix);
        config.broker.intake_max_messages = self.intake_limit;
        config.broker.stage_max_messages = self.stage_limit;
        config.cache.redis.prefix = format!("{}:", self.amqp_prefix);
        config
    }
}

impl StoreOptions {
    fn apply(&self, config: &mut ServiceConfig) {
        config.cache.redis.url = self.redis_url.as_deref().map(Secret::from);
        config.store.url.clone_from(&self.store);
        let s3 = &mut config.store.s3;
        s3.endpoint.clone_from(&self.s3_endpoint);
        s3.region.clone_from(&self.s3_region);
        s3.access_key_id = self.s3_access_key_id.as_deref().map(Secret::from);
        s3.secret_access_key = self.s3_secret_access_key.as_deref().map(Secret::from);
        s3.path_style = self.s3_path_style;
        s3.conditional_writes = self.s3_conditional_writes;
    }
}

impl FetchOptions {
    fn apply(&self, config: &mut ServiceConfig) {
        config.fetch.allowed_buckets.clone_from(&self.allow_buckets);
        config.fetch.subject_folder.clone_from(&self.subject_folder);
        config.fetch.max_image_bytes = self.max_image_bytes;
        config.fetch.http.allowed_hosts.clone_from(&self.allow_hosts);
        config.fetch.http.allowed_networks.clone_from(&self.allow_networks);
    }
}

impl CallbackOptions {
    fn apply(&self, fetch: &FetchOptions, config: &mut ServiceConfig) {
        config.callbacks = CallbackConfig {
            allowed_hosts: self.callback_hosts.clone(),
            allowed_networks: fetch.allow_networks.clone(),
            secret: self.callback_secret.clone(),
            timeout_seconds: self.callback_timeout,
            ..CallbackConfig::default()
        };
    }
}

impl WorkOptions {
    fn apply(&self, config: &mut ServiceConfig) {
        if let Some(all) = self.concurrency {
            config.worker.concurrency = RoleConcurrency { dispatcher: all, segmenter: all, encoder: all, sampler: all };
        }
        config.worker.lane_weights = self.lane_weights;
        config.worker.in_flight = self.in_flight;
        let common = &mut config.worker.common;
        common.max_attempts = self.max_attempts;
        common.task_timeout_seconds = self.task_timeout;
        common.grace_seconds = self.grace;
        common.backoff.first_seconds = self.retry_wait;
    }
}

impl BatchOptions {
    fn apply(&self, config: &mut ServiceConfig) {
        config.sampler = self.config();
    }
}

impl ModelOptions {
    /// Which networks, and where they compute.
    pub(crate) fn config(&self) -> ModelConfig {
        ModelConfig {
            bundle: self.bundle.clone(),
            bundles: self.bundles.clone(),
            threads: self.threads,
            device: self.device,
            dtype: self.dtype,
            ..ModelConfig::default()
        }
    }
}

impl RoleArguments {
    /// The configuration of a role.
    pub(crate) fn config(&self) -> ServiceConfig {
        let mut config = of_client(&self.broker, &self.stores);
        self.fetch.apply(&mut config);
        self.callbacks.apply(&self.fetch, &mut config);
        self.work.apply(&mut config);
        self.batch.apply(&mut config);
        config.model = self.model.config();
        config.finder = self.model.finder.config();
        config.telemetry.listen = self.watch.listen;
        config
    }
}

impl CanaryArguments {
    /// The configuration of the canary.
    pub(crate) fn config(&self) -> ServiceConfig {
        let mut config = self.broker.config();
        config.telemetry.listen = self.watch.listen;
        config
    }
}
