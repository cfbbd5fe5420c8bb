//! Where Redis is, and how patient its callers are.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::time::seconds;

/// The settings of a [`RedisCache`](super::RedisCache).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://[user:password@]host:port/database`, or `rediss://` for TLS. Default: `redis://127.0.0.1:6379/0`.
    pub url: String,
    /// What every key begins with, so that several installations can share a server. Default: `echogen:`.
    pub prefix: String,
    /// Values over this are not stored. An encoded subject has up to about 4 MiB. Default: 8 MiB.
    pub max_value_bytes: u64,
    /// Seconds to wait for a connection. Default: 1.
    pub connect_timeout_seconds: f64,
    /// Seconds to wait for an answer. Default: 1.
    pub response_timeout_seconds: f64,
    /// Seconds for which calls fail at once after Redis was found to be away. Default: 0.5.
    pub pause_seconds: f64,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379/0".to_owned(),
            prefix: "echogen:".to_owned(),
            max_value_bytes: 8 << 20,
            connect_timeout_seconds: 1.0,
            response_timeout_seconds: 1.0,
            pause_seconds: 0.5,
        }
    }
}

impl RedisConfig {
    /// The settings for a server, all else at its default.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        seconds(self.connect_timeout_seconds)
    }

    pub(super) fn response_timeout(&self) -> Duration {
        seconds(self.response_timeout_seconds)
    }

    pub(super) fn pause(&self) -> Duration {
        seconds(self.pause_seconds)
    }
}

/// Without the address: it may carry a password.
impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
