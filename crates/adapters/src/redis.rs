//! Values and leases in Redis.
//!
//! What it promises beyond [`Cache`]: every key has a time to live; a Redis that is away costs its callers one short
//! timeout, after which calls fail at once for a moment instead of each waiting again; a Redis that was restarted is
//! found again without an error. Deliberately absent: any durability. Everything here may be lost at any moment.

mod config;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cmd,
};
use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Cache, FencingToken, PortError};

use config::Checked;
pub use config::RedisConfig;

/// The longest time to live: Redis counts milliseconds in 63 bits, and nothing here is worth keeping longer.
const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);

/// How long the counter of a key's tokens outlives its last lease. It only guards against a server's clock that is
/// set back; after this time the clock would have to be set back by more than that.
const COUNTER_TTL: Duration = Duration::from_secs(86_400);

/// Takes a lease. Tokens are the larger of the last one plus 1 and the server's time in microseconds, so they grow
/// also when the counter was lost. Both fit a Lua number, which is exact to 2^53.
const ACQUIRE: &str = "\
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local time = redis.call('TIME')
local token = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('GET', KEYS[2]) or 0)
if last >= token then token = last + 1 end
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text, 'PX', ARGV[2])
redis.call('SET', KEYS[1], text, 'PX', ARGV[1])
return text";

/// Renews a lease if the token still holds it.
const RENEW: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1";

/// Gives a lease back if the token still holds it.
const RELEASE: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1";

/// A cache in Redis, or in a server that speaks its language.
pub struct RedisCache {
    client: Client,
    settings: Checked,
    link: Mutex<Link>,
}

/// The connection, shared by all calls, and what is known of its health.
#[derive(Default)]
struct Link {
    manager: Option<ConnectionManager>,
    /// Counts connections, so that of many calls that fail together only the first drops the one they shared.
    number: u64,
    /// Until when calls fail at once.
    away_until: Option<Instant>,
}

impl RedisCache {
    /// Checks the settings. Connects at the first call, so Redis need not be there yet.
    pub fn open(config: RedisConfig) -> Result<Self, PortError> {
        let settings = config.checked()?;
        let info = settings.url.expose().into_connection_info();
        let client = info.and_then(Client::open).map_err(|error| {
            // The address may contain a password, so it is not shown.
            let message = "cache.url is no address of redis; write redis://host:6379/0, or rediss:// for TLS";
            PortError::permanent(message).because(error)
        })?;
        crate::tls::install_ring();
        Ok(Self { client, settings, link: Mutex::default() })
    }

    fn value_key(&self, key: &str) -> String {
        format!("{}value:{key}", self.settings.prefix)
    }

    /// The keys of a lease and of its counter. The braces keep the two on one node of a Redis cluster.
    fn lease_keys(&self, key: &str) -> (String, String) {
        let prefix = &self.settings.prefix;
        (format!("{prefix}lease:{{{key}}}"), format!("{prefix}fence:{{{key}}}"))
    }

    /// Sends a command, a second time if the connection turns out to have been closed meanwhile.
    async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, PortError> {
        let (mut manager, number) = self.connection()?;
        let error = match command.query_async(&mut manager).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !is_closed(&error) || error.is_connection_refusal() {
            return Err(self.failed(error, number));
        }
        self.drop_connection(number);
        let (mut manager, number) = self.connection()?;
        command.query_async(&mut manager).await.map_err(|error| self.failed(error, number))
    }

    /// The present connection and its number; a new one if there is none. Connecting itself is part of the first call.
    fn connection(&self) -> Result<(ConnectionManager, u64), PortError> {
        let mut link = self.lock();
        if let Some(until) = link.away_until {
            if Instant::now() < until {
                return Err(PortError::transient(format!("redis at {} is away", self.address())));
            }
            link.away_until = None;
        }
        if let Some(manager) = &link.manager {
            return Ok((manager.clone(), link.number));
        }
        // The pause between tries is ours: a caller of a cache does not wait for a second one.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(self.settings.connect_timeout))
            .set_response_timeout(Some(self.settings.response_timeout))
            .set_number_of_retries(0);
        let manager = ConnectionManager::new_lazy_with_config(self.client.clone(), config)
            .map_err(|error| PortError::permanent("the redis client cannot start").because(error))?;
        link.manager = Some(manager.clone());
        link.number += 1;
        Ok((manager, link.number))
    }

    fn drop_connection(&self, number: u64) {
        let mut link = self.lock();
        if link.number == number {
            link.manager = None;
        }
    }

    /// Says what happened. After a loss the next calls fail at once for a while, and then a new connection is made.
    fn failed(&self, error: RedisError, number: u64) -> PortError {
        if error.is_io_error() || error.is_timeout() || is_closed(&error) {
            self.drop_connection(number);
            let mut link = self.lock();
            link.away_until = Instant::now().checked_add(self.settings.pause);
        }
        port_error(&self.address(), error)
    }

    fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Link> {
        // Each change under this lock is complete before anything can panic.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache").field("address", &self.address()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, PortError> {
        let value: Option<Vec<u8>> = self.call(cmd("GET").arg(self.value_key(key))).await?;
        Ok(value.map(Bytes::from))
    }

    async fn contains(&self, key: &str) -> Result<bool, PortError> {
        self.call(cmd("EXISTS").arg(self.value_key(key))).await
    }

    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), PortError> {
        if value.len() as u64 > self.settings.max_value_bytes {
            return Ok(());
        }
        self.call(cmd("SET").arg(self.value_key(key)).arg(&value[..]).arg("PX").arg(milliseconds(ttl))).await
    }

    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, PortError> {
        let (lease, counter) = self.lease_keys(key);
        let (ttl, counter_ttl) = (milliseconds(ttl), milliseconds(ttl.saturating_add(COUNTER_TTL)));
        let mut command = cmd("EVAL");
        command.arg(ACQUIRE).arg(2).arg(lease).arg(counter).arg(ttl).arg(counter_ttl);
        let token: Option<u64> = self.call(&command).await?;
        Ok(token.map(FencingToken))
    }

    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, PortError> {
        let (lease, _) = self.lease_keys(key);
        self.call(cmd("EVAL").arg(RENEW).arg(1).arg(lease).arg(token.0).arg(milliseconds(ttl))).await
    }

    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, PortError> {
        let (lease, _) = self.lease_keys(key);
        self.call(cmd("EVAL").arg(RELEASE).arg(1).arg(lease).arg(token.0)).await
    }
}

fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.min(MAX_TTL).as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The connection is gone, as after a restart of the server, and not merely slow.
fn is_closed(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_timeout()
}

fn port_error(address: &str, error: RedisError) -> PortError {
    use ServerErrorKind::{NoPerm, ReadOnly};
    let what = format!("redis at {address}");
    let made = match error.kind() {
        _ if error.is_timeout() => PortError::transient(format!("{what} did not answer in time")),
        ErrorKind::AuthenticationFailed => {
            PortError::permanent(format!("{what} refused the user name or password: {error}; check cache.url"))
        }
        ErrorKind::Server(NoPerm) => {
            PortError::permanent(format!("{what} does not allow this: {error}; change the user's rules"))
        }
        ErrorKind::Server(ReadOnly) => {
            PortError::transient(format!("{what} is a read-only replica; name the primary in cache.url"))
        }
        // A key of another type, or a command that the server does not know, stays so.
        ErrorKind::UnexpectedReturnType | ErrorKind::InvalidClientConfig => {
            PortError::permanent(format!("{what}: {error}"))
        }
        _ => PortError::transient(format!("{what}: {error}")),
    };
    made.because(error)
}
