//! Values, leases and limits in Redis.
//!
//! What it promises beyond [`Cache`]: every key has a time to live; while Redis is unreachable, one call waits for the
//! timeout and the calls of the next moment fail at once; a Redis that was restarted is connected to again without an
//! error. Deliberately absent: any durability. Everything here may be lost at any moment.
//!
//! There are two connections, because Redis answers the calls of one connection in their order. Leases, limits, counters
//! and the status of jobs use the first, and large values the second: a value of several MiB on a slow network would otherwise
//! delay every lease beyond its timeout, and a slow Redis would be taken for an unreachable one.

mod address;
mod config;
mod connection;
mod error;
mod quota;
mod scripts;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ::redis::{RedisError, ScriptInvocation, Value, aio::ConnectionManager, cmd};
use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Cache, Fault, FencingToken};
use echogen_telemetry::client_call;
use tokio::time::timeout;

use config::Checked;
pub use config::RedisConfig;
use connection::{SharedConnection, is_lost};
use error::{CLUSTER, REPLICA, port_error};

/// The longest time to live: Redis counts milliseconds in 63 bits, and nothing here is worth keeping longer.
const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);

/// How long the counter of a key's tokens outlives its last lease. It only guards against a server's clock that is
/// set back; after this time the clock would have to be set back by more than that.
const COUNTER_TTL: Duration = Duration::from_secs(86_400);

/// Bytes of the largest value on the connection of the leases: a slow network transfers it within a small part of the
/// shortest timeout.
const SMALL: u64 = 64 * 1024;

/// A large value has one response timeout more for each of these many bytes.
const BYTES_PER_TIMEOUT: u64 = 1024 * 1024;

/// The key of the value and of the lease that [`RedisCache::check`] uses, and how long they live.
const PROBE: &str = "probe";
const PROBE_TTL: Duration = Duration::from_secs(10);

/// A cache and a quota in Redis, or in a server with the same protocol.
pub struct RedisCache {
    /// For leases, and for values of at most [`SMALL`] bytes.
    small: SharedConnection,
    /// For larger values.
    large: SharedConnection,
    settings: Checked,
    /// Host and port, for error messages.
    place: String,
    /// The time until which calls fail at once.
    unavailable_until: Mutex<Option<Instant>>,
}

impl RedisCache {
    /// Checks the settings. Connects at the first call, so Redis need not be there yet.
    pub fn open(config: RedisConfig) -> Result<Self, Fault> {
        let settings = config.checked()?;
        crate::tls::install_ring();
        let (client, connect, response) =
            (settings.client.clone(), settings.connect_timeout, settings.response_timeout);
        Ok(Self {
            place: client.get_connection_info().addr().to_string(),
            small: SharedConnection::new(client.clone(), connect, Some(response)),
            large: SharedConnection::new(client, connect, None),
            settings,
            unavailable_until: Mutex::default(),
        })
    }

    fn value_key(&self, key: &str) -> String {
        format!("{}value:{key}", self.settings.prefix)
    }

    /// The keys of a lease and of its counter. The braces keep the two on one node of a Redis cluster.
    fn lease_keys(&self, key: &str) -> (String, String) {
        let prefix = &self.settings.prefix;
        (format!("{prefix}lease:{{{key}}}"), format!("{prefix}fence:{{{key}}}"))
    }

    /// A call whose request and response are small.
    async fn small<T, F>(&self, run: impl Fn(ConnectionManager) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        self.check_available()?;
        self.small.call(run).await.map_err(|error| self.failed(error))
    }

    /// A call that transfers a value of this many bytes. Its timeout does not mean that Redis is unreachable, so other calls
    /// do not fail because of it.
    async fn large<T, F>(
        &self,
        operation: &'static str,
        bytes: u64,
        run: impl Fn(ConnectionManager) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        self.check_available()?;
        let parts = u32::try_from(bytes / BYTES_PER_TIMEOUT).unwrap_or(u32::MAX).saturating_add(1);
        let limit = self.settings.response_timeout.saturating_mul(parts).saturating_add(self.settings.connect_timeout);
        let called = traced(operation, async { Ok(timeout(limit, self.large.call(run)).await) }).await?;
        match called {
            Ok(called) => called.map_err(|error| self.failed(error)),
            Err(_) => {
                // A new connection for the next large value: on the old one it would wait for the rest of this one.
                self.large.renew();
                let what =
                    format!("redis at {} did not transfer a value of {bytes} bytes within {limit:?}", self.place);
                Err(Fault::unavailable(what))
            }
        }
    }

    async fn script<T: ::redis::FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, Fault> {
        let called = self.small(|mut connection| async move { script.invoke_async(&mut connection).await });
        traced("EVALSHA", called).await
    }

    async fn command<T: ::redis::FromRedisValue>(
        &self,
        operation: &'static str,
        command: &::redis::Cmd,
    ) -> Result<T, Fault> {
        let called = self.small(|mut connection| async move { command.query_async(&mut connection).await });
        traced(operation, called).await
    }

    fn check_available(&self) -> Result<(), Fault> {
        let mut until = self.unavailable_until();
        match *until {
            Some(end) if Instant::now() < end => {
                Err(Fault::unavailable(format!("redis at {} is unreachable", self.place)))
            }
            _ => {
                *until = None;
                Ok(())
            }
        }
    }

    /// The fault for an error. After a lost connection the next calls fail at once for a pause; the call after it connects
    /// again.
    fn failed(&self, error: RedisError) -> Fault {
        if is_lost(&error) {
            *self.unavailable_until() = Instant::now().checked_add(self.settings.pause);
        }
        port_error(&self.place, error)
    }

    fn unavailable_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.unavailable_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a call in a span, if it is part of a task.
async fn traced<T>(operation: &'static str, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let attributes = [("db.system.name", "redis"), ("db.operation.name", operation)];
    let error_type = |error: &Fault| if error.is_permanent() { "permanent" } else { "transient" };
    client_call(operation, &attributes, error_type, call).await
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache").field("place", &self.place).finish_non_exhaustive()
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        let key = self.value_key(key);
        match self.script(scripts::READ.key(&key).arg(SMALL)).await? {
            Value::BulkString(value) => Ok(Some(value.into())),
            Value::Int(size) => {
                let size = u64::try_from(size).unwrap_or(u64::MAX);
                if size > self.settings.max_value_bytes {
                    return Ok(None);
                }
                let command = &cmd("GET").arg(key).to_owned();
                let read = |mut connection| async move { command.query_async(&mut connection).await };
                let value: Option<Vec<u8>> = self.large("GET", size, read).await?;
                Ok(value.map(Bytes::from))
            }
            // No value: the two versions of the protocol encode it differently.
            _ => Ok(None),
        }
    }

    async fn contains(&self, key: &str) -> Result<bool, Fault> {
        self.command("EXISTS", cmd("EXISTS").arg(self.value_key(key))).await
    }

    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), Fault> {
        let size = value.len() as u64;
        if size > self.settings.max_value_bytes {
            return Ok(());
        }
        let mut command = cmd("SET");
        command.arg(self.value_key(key)).arg(&value[..]).arg("PX").arg(milliseconds(ttl));
        if size <= SMALL {
            return self.command("SET", &command).await;
        }
        let command = &command;
        self.large("SET", size, |mut connection| async move { command.query_async(&mut connection).await }).await
    }

    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, Fault> {
        let (lease, counter) = self.lease_keys(key);
        let (ttl, counter_ttl) = (milliseconds(ttl), milliseconds(ttl.saturating_add(COUNTER_TTL)));
        let token: Option<u64> =
            self.script(scripts::ACQUIRE.key(lease).key(counter).arg(ttl).arg(counter_ttl)).await?;
        Ok(token.map(FencingToken))
    }

    /// Calls everything that the other methods call.
    async fn check(&self) -> Result<(), Fault> {
        // A user may be forbidden to ask; then the calls below find out.
        if let Ok(info) = self.command::<String>("INFO", &cmd("INFO")).await
            && let Some(why) = unusable(&info)
        {
            return Err(Fault::refused(format!("redis at {} {why}", self.place)));
        }
        self.put(PROBE, Bytes::from_static(b"probe"), PROBE_TTL).await?;
        self.get(PROBE).await?;
        self.contains(PROBE).await?;
        // Another process may hold it for the moment.
        if let Some(token) = self.acquire_lease(PROBE, PROBE_TTL).await? {
            self.renew_lease(PROBE, token, PROBE_TTL).await?;
            self.release_lease(PROBE, token).await?;
        }
        Ok(())
    }

    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, Fault> {
        let (lease, _) = self.lease_keys(key);
        self.script(scripts::RENEW.key(lease).arg(token.0).arg(milliseconds(ttl))).await
    }

    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, Fault> {
        let (lease, _) = self.lease_keys(key);
        self.script(scripts::RELEASE.key(lease).arg(token.0)).await
    }
}

/// What a server says of itself that makes it unusable.
fn unusable(info: &str) -> Option<&'static str> {
    let says = |line: &str| info.lines().any(|found| found.trim_end() == line);
    if says("cluster_enabled:1") {
        return Some(CLUSTER);
    }
    says("role:slave").then_some(REPLICA)
}

fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.min(MAX_TTL).as_millis()).unwrap_or(u64::MAX).max(1)
}
