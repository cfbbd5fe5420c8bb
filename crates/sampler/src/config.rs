//! The sampler's settings: how it forms batches, and what it caches and publishes.

use std::time::Duration;

use echogen_models::plan::{Limits, SetLimits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The sampler's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// Pictures of one shape in a batch, at most.
    #[schemars(range(min = 1, max = 4_096))]
    pub max_batch: usize,
    /// Image tokens in a batch, at most. Absent: 8,192 on a CPU, where more are not faster, some fifteen pictures of 256
    /// pixels or one of 768; on a GPU what its memory allows, as `echogen models plan` shows it.
    #[schemars(range(min = 1))]
    pub max_batch_tokens: Option<usize>,
    /// Seconds that a job may wait for others of its shape while the networks are idle. While they are busy, arriving
    /// jobs form the next batch.
    pub max_wait_seconds: f64,
    /// Bytes that the key-value caches of all batches in progress may take, an eighth of them interactive jobs alone. One
    /// picture is always accepted. Absent: what the device's memory allows. What cannot fit is refused at start.
    pub max_kv_bytes: Option<u64>,
    /// Size in bytes of the cache of conditions, the keys and values of prompts and subjects, on the device. Absent: what the
    /// device's memory allows, such that a batch's conditions have room. What cannot fit is refused at start.
    pub condition_cache_bytes: Option<u64>,
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
            max_batch_tokens: None,
            max_wait_seconds: 0.01,
            max_kv_bytes: None,
            condition_cache_bytes: None,
            subject_cache_bytes: 64 << 20,
            stored_at_once: 4,
            scale_events: false,
        }
    }
}

/// Image tokens in a batch without a plan.
const UNPLANNED_BATCH_TOKENS: usize = 8_192;

/// Bytes of key-value caches in a batch without a plan.
const UNPLANNED_KV_BYTES: u64 = 4 << 30;

impl SamplerConfig {
    /// Returns the limits that are set, which a plan keeps.
    pub fn set_limits(&self) -> SetLimits {
        SetLimits {
            max_batch_tokens: self.max_batch_tokens,
            max_kv_bytes: self.max_kv_bytes,
            condition_cache_bytes: self.condition_cache_bytes,
        }
    }

    /// Returns the settings with the limits of a plan, which was made with [`SamplerConfig::set_limits`].
    #[must_use]
    pub fn planned(&self, limits: &Limits) -> Self {
        Self {
            max_batch_tokens: limits.max_batch_tokens,
            max_kv_bytes: Some(limits.max_kv_bytes),
            condition_cache_bytes: Some(limits.condition_cache_bytes),
            ..self.clone()
        }
    }

    /// Returns the most image tokens in a batch, where no plan says how many pictures it has.
    pub fn batch_tokens(&self) -> usize {
        self.max_batch_tokens.unwrap_or(UNPLANNED_BATCH_TOKENS)
    }

    /// Returns the most bytes of key-value caches in a batch.
    pub fn kv_bytes(&self) -> u64 {
        self.max_kv_bytes.unwrap_or(UNPLANNED_KV_BYTES)
    }

    /// Returns the time that a job may wait for others; a negative or non-numeric value counts as zero, and one minute
    /// is the maximum.
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
        assert_eq!((config.max_kv_bytes, config.kv_bytes(), config.batch_tokens()), (None, 4 << 30, 8_192));
        assert!(serde_json::from_str::<SamplerConfig>(r#"{"max_bach": 4}"#).is_err());
        let endless = SamplerConfig { max_wait_seconds: f64::INFINITY, ..SamplerConfig::default() };
        assert_eq!(endless.max_wait(), Duration::from_secs(60));
    }

    #[test]
    fn a_plan_says_what_is_not_set() {
        let config = SamplerConfig { max_kv_bytes: Some(7), ..SamplerConfig::default() };
        assert_eq!(config.set_limits(), SetLimits { max_kv_bytes: Some(7), ..SetLimits::default() });
        let planned = config.planned(&Limits { max_batch_tokens: None, max_kv_bytes: 7, condition_cache_bytes: 5 });
        assert_eq!((planned.max_kv_bytes, planned.condition_cache_bytes), (Some(7), Some(5)));
        assert_eq!(planned.max_batch, config.max_batch);
    }
}
