//! How products are kept, and how several processes agree on who makes one.

use std::time::Duration;

use echogen_ports::{Backoff, seconds, seconds_or_zero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings for what stages make and keep: pictures, segmentations, encoded subjects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProductsConfig {
    /// Seconds that an object stays in the cache after it was stored or read from the store; 0 caches nothing, also no
    /// segmentations.
    pub cache_seconds: f64,
    /// Seconds until a lease expires, so that another process computes the product of a process that died. Leases in
    /// use are renewed three times as often; a short time costs calls to the cache only.
    pub lease_seconds: f64,
    /// Seconds before a process first checks for a product that another process is computing. Each further wait is 1.5
    /// times as long.
    pub first_lookup_seconds: f64,
    /// Seconds at most between two checks for a product that another process is computing.
    pub max_lookup_seconds: f64,
    /// Bytes that the decoded pictures of all tasks of a segmenter or an encoder may take together; further tasks wait.
    /// The default is enough for one picture of the largest size, or five of twelve megapixels.
    pub picture_memory_bytes: u64,
}

impl Default for ProductsConfig {
    fn default() -> Self {
        Self {
            cache_seconds: 3_600.0,
            lease_seconds: 10.0,
            // The stages take between 30 ms and a second or two: soon enough for the first, few calls for the second.
            first_lookup_seconds: 0.02,
            max_lookup_seconds: 0.5,
            picture_memory_bytes: 1024 * 1024 * 1024,
        }
    }
}

impl ProductsConfig {
    /// The time that an object stays in the cache; nonsense (negative, not a number) is no time at all.
    pub fn cache_ttl(&self) -> Duration {
        seconds_or_zero(self.cache_seconds).unwrap_or_default()
    }

    /// The time after which a lease that is not renewed runs out.
    pub(crate) fn lease_ttl(&self) -> Duration {
        let shortest = Duration::from_millis(10);
        seconds(self.lease_seconds).unwrap_or(shortest).max(shortest)
    }

    /// The waits between looks for a product that another process is making.
    pub(crate) fn lookups(&self) -> Backoff {
        Backoff { first_seconds: self.first_lookup_seconds, factor: 1.5, max_seconds: self.max_lookup_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_no_crash_and_a_lease_is_never_shorter_than_its_renewal() {
        for seconds in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            let config = ProductsConfig { cache_seconds: seconds, lease_seconds: seconds, ..ProductsConfig::default() };
            assert_eq!((config.cache_ttl(), config.lease_ttl()), (Duration::ZERO, Duration::from_millis(10)));
        }
        assert!(serde_json::from_str::<ProductsConfig>(r#"{"lease_second": 1}"#).is_err());
    }
}
