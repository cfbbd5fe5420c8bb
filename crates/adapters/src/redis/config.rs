//! Where Redis is, and how long its callers wait.

use std::time::Duration;

use ::redis::{Client, ConnectionAddr, ConnectionInfo, TlsCertificates};
use echogen_ports::{Fault, Secret, seconds, seconds_or_zero};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::address;
use crate::tls::Trust;

/// The settings of a [`RedisCache`](super::RedisCache).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// Address of Redis or Valkey: `redis://user:password@host:6379/0`, or `rediss://` for TLS; user, password and the
    /// number of the database are optional. Absent: every process has a cache of its own.
    pub url: Option<Secret>,
    /// User, as it is, instead of the one in `cache.url`; then `cache.password` is needed too.
    pub user: Option<Secret>,
    /// Password, as it is, instead of the one in `cache.url`, where characters such as `@`, `/` and `%` have to be encoded.
    pub password: Option<Secret>,
    /// Authorities whose certificates are trusted in addition to the system's, as PEM text or as the path of a PEM file.
    pub certificates: Option<String>,
    /// Prefix of every key, so that several installations can share a server. Absent: `broker.prefix` and a colon.
    pub prefix: String,
    /// Largest value that is stored, in bytes; larger ones are not cached. An encoded subject has up to about 4 MiB.
    pub max_value_bytes: u64,
    /// Seconds to wait for a connection.
    pub connect_timeout_seconds: f64,
    /// Seconds to wait for a response; for a large value as many again for each MiB.
    pub response_timeout_seconds: f64,
    /// Seconds during which calls fail immediately after Redis was found unreachable; with 0 every call tries again.
    pub pause_seconds: f64,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            user: None,
            password: None,
            certificates: None,
            prefix: "echogen:".to_owned(),
            max_value_bytes: 8 << 20,
            connect_timeout_seconds: 1.0,
            response_timeout_seconds: 1.0,
            pause_seconds: 0.5,
        }
    }
}

/// Settings that have been checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) client: Client,
    pub(super) prefix: String,
    pub(super) max_value_bytes: u64,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) pause: Duration,
}

impl RedisConfig {
    /// The settings for a server, all else at its default.
    pub fn at(url: impl Into<Secret>) -> Self {
        Self { url: Some(url.into()), ..Self::default() }
    }

    /// Checks what can be checked without a server. Errors begin with the setting's name.
    pub fn check(&self) -> Result<(), Fault> {
        self.checked().map(drop)
    }

    pub(super) fn checked(&self) -> Result<Checked, Fault> {
        let limit =
            |name: &str, value: f64| seconds(value).map_err(|error| Fault::refused(format!("cache.{name} {error}")));
        let pause = seconds_or_zero(self.pause_seconds);
        Ok(Checked {
            client: self.client()?,
            prefix: self.prefix.clone(),
            max_value_bytes: self.max_value_bytes,
            connect_timeout: limit("connect_timeout_seconds", self.connect_timeout_seconds)?,
            response_timeout: limit("response_timeout_seconds", self.response_timeout_seconds)?,
            pause: pause.map_err(|error| Fault::refused(format!("cache.pause_seconds {error}")))?,
        })
    }

    /// The address with the user and the password that are given beside it.
    fn with_login(&self, info: ConnectionInfo) -> Result<ConnectionInfo, Fault> {
        let given = |secret: &Option<Secret>| secret.as_ref().map(Secret::expose).unwrap_or_default().to_owned();
        let (user, password) = (given(&self.user), given(&self.password));
        if password.is_empty() {
            let lacks = Fault::refused("cache.user is set without cache.password");
            return if user.is_empty() { Ok(info) } else { Err(lacks) };
        }
        let mut settings = info.redis_settings().clone().set_password(password);
        if !user.is_empty() {
            settings = settings.set_username(user);
        }
        Ok(info.set_redis_settings(settings))
    }

    /// The client library's handle; nothing is connected.
    fn client(&self) -> Result<Client, Fault> {
        let url = self.url.as_ref().filter(|url| !url.is_empty());
        let url = url.ok_or_else(|| Fault::refused("cache.url is not set; write redis://host:6379/0"))?;
        let info = address::read(url.expose()).map_err(|why| Fault::refused(format!("cache.url {why}")))?;
        let info = self.with_login(info)?;
        let trust = Trust::with(self.certificates.as_deref());
        let trust = trust.map_err(|why| Fault::refused(format!("cache.certificates {why}")))?;
        let made = match info.addr() {
            ConnectionAddr::TcpTls { .. } => {
                let root_cert = Some(trust.pem().into_bytes());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            _ => Client::open(info),
        };
        made.map_err(|error| Fault::refused("the redis client cannot be made").because(error))
    }
}
