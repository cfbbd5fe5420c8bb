//! How the sampler forms its batches, and what it keeps and publishes.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The sampler's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// Pictures of one shape in a batch, at most.
    #[schemars(range(min = 1, max = 4_096))]
    pub max_batch: usize,
    /// Image tokens in a batch, at most: some fifteen pictures of 256 pixels, one of 768 or more. More is not faster on
    /// a CPU; a GPU can use more.
    #[schemars(range(min = 1))]
    pub max_batch_tokens: usize,
    /// Seconds that a job may wait for others of its shape while the networks are idle. While they are busy, arriving
    /// jobs form the next batch.
    pub max_wait_seconds: f64,
    /// Bytes that the key-value caches of a batch may take. One picture is always accepted.
    pub max_kv_bytes: u64,
    /// Size in bytes of the cache of conditions, the keys and values of prompts and subjects, on the device.
    pub condition_cache_bytes: u64,
    /// Size in bytes of the cache of encoded subjects. One of the largest size has about four million.
    pub subject_cache_bytes: u64,
    /// Pictures of one job that are encoded and stored at once.
    #[schemars(range(min = 1, max = 256))]
    pub stored_at_once: usize,
    /// Whether an event is published for each finished scale, about a dozen for a job; otherwise only one when sampling
    /// begins.
    pub scale_events: bool,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            max_batch: 16,
            max_batch_tokens: 8_192,
            max_wait_seconds: 0.01,
            max_kv_bytes: 4 << 30,
            condition_cache_bytes: 1 << 30,
            subject_cache_bytes: 64 << 20,
            stored_at_once: 4,
            scale_events: false,
        }
    }
}

impl SamplerConfig {
    /// The time that a job may wait for others; nonsense (negative, not a number) is no time at all, and a minute is the
    /// most.
    pub fn max_wait(&self) -> Duration {
        Duration::try_from_secs_f64(self.max_wait_seconds.min(60.0)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_reads_as_it_is_written_and_nonsense_is_no_crash() {
        let config: SamplerConfig =
            serde_json::from_str(r#"{"max_batch": 4, "max_wait_seconds": -1, "scale_events": true}"#).unwrap();
        assert_eq!((config.max_batch, config.scale_events), (4, true));
        assert_eq!(config.max_wait(), Duration::ZERO);
        assert_eq!(config.max_kv_bytes, SamplerConfig::default().max_kv_bytes);
        assert!(serde_json::from_str::<SamplerConfig>(r#"{"max_bach": 4}"#).is_err());
        let endless = SamplerConfig { max_wait_seconds: f64::INFINITY, ..SamplerConfig::default() };
        assert_eq!(endless.max_wait(), Duration::from_secs(60));
    }
}
