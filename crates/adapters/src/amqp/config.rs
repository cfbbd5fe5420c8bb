//! How to reach the broker, and the limits of its queues.

use std::time::Duration;

use echogen_ports::{Fault, Secret, seconds};
use echogen_protocol::Partitions;
use lapin::uri::{AMQPUri, AMQPUserInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    address,
    servers::{self, Servers},
};
use crate::tls::Trust;

/// The settings of an [`AmqpBroker`](super::AmqpBroker).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AmqpConfig {
    /// Address of RabbitMQ: `amqp://user:password@host:5672/vhost`, or `amqps://` for TLS. The virtual host `/` is
    /// written `%2f` or omitted; the hosts of a cluster, separated by commas, are tried in turn. Absent: no broker is
    /// used.
    pub url: Option<Secret>,
    /// User, as it is, instead of the one in `broker.url`; then `broker.password` is needed too.
    pub user: Option<Secret>,
    /// Password of `broker.user`, as it is: in the address itself, characters such as `@`, `/` and `%` have to be encoded.
    pub password: Option<Secret>,
    /// Authorities whose certificates are trusted in addition to the system's, as PEM text or as the path of a PEM file.
    pub certificates: Option<String>,
    /// Prefix of the names of all exchanges and queues; installations with different prefixes can share a broker.
    pub prefix: String,
    /// Whether queues are quorum queues, which are replicated over the nodes of a cluster. Classic queues have no
    /// delivery limit.
    pub quorum: bool,
    /// Queues into which each lane is split at every stage, so that one tenant's backlog delays only the tenants in the same
    /// one; 1 does not split. Roles and clients need the same number. Before it is lowered, the queues that are no longer
    /// consumed must be empty.
    #[schemars(range(min = 1, max = 64))]
    pub partitions: u16,
    /// Number of nodes that a new quorum queue is replicated on. Absent: the broker's own default.
    pub initial_group_size: Option<u32>,
    /// Limit of each intake queue, in messages; beyond it publishing is refused.
    pub intake_max_messages: u32,
    /// Limit of each intake queue, in bytes of message bodies; beyond it publishing is refused.
    pub intake_max_bytes: u64,
    /// Limit of each queue of a stage and of each retry queue, in messages; beyond it the stage before waits.
    pub stage_max_messages: u32,
    /// Limit of each queue of a stage and of each retry queue, in bytes of message bodies; beyond it the stage before
    /// waits.
    pub stage_max_bytes: u64,
    /// Limit of each dead-letter queue, in messages.
    pub dead_letters_max_messages: u32,
    /// Limit of each dead-letter queue, in bytes of message bodies.
    pub dead_letters_max_bytes: u64,
    /// Redeliveries of a message without an acknowledgement before the broker itself parks it. It must be larger than
    /// `worker.max_redeliveries`.
    pub delivery_limit: u32,
    /// Largest message body that is published, in bytes. RabbitMQ 4 refuses more than 16 MiB and closes the channel.
    pub max_message_bytes: u64,
    /// Time limit in seconds for connecting and declaring.
    pub connect_timeout_seconds: f64,
    /// Time limit in seconds for the confirm of a published message.
    pub confirm_timeout_seconds: f64,
    /// Whole seconds between heartbeats; a connection without traffic for two of them is closed. `?heartbeat=` in the
    /// address takes precedence.
    pub heartbeat_seconds: u16,
}

/// Bounds of one queue; past either, publishing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueLimits {
    pub(super) max_messages: u32,
    pub(super) max_bytes: u64,
}

const GIB: u64 = 1024 * 1024 * 1024;

impl Default for AmqpConfig {
    fn default() -> Self {
        Self {
            url: None,
            user: None,
            password: None,
            certificates: None,
            prefix: "echogen".to_owned(),
            quorum: true,
            partitions: Partitions::default().count(),
            initial_group_size: None,
            intake_max_messages: 4_000_000,
            intake_max_bytes: 16 * GIB,
            stage_max_messages: 20_000,
            stage_max_bytes: 16 * GIB,
            dead_letters_max_messages: 1_000_000,
            dead_letters_max_bytes: 4 * GIB,
            delivery_limit: 30,
            max_message_bytes: 16 * 1024 * 1024,
            connect_timeout_seconds: 15.0,
            confirm_timeout_seconds: 30.0,
            heartbeat_seconds: 10,
        }
    }
}

/// Settings that have been checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) servers: Servers,
    pub(super) connect_timeout: Duration,
    pub(super) confirm_timeout: Duration,
    pub(super) max_message_bytes: usize,
}

impl AmqpConfig {
    /// The longest prefix: with the longest name behind it, a queue's name stays below AMQP's 255 bytes.
    const MAX_PREFIX: usize = 100;

    /// The settings for a broker, all else at its default.
    pub fn at(url: impl Into<Secret>) -> Self {
        Self { url: Some(url.into()), ..Self::default() }
    }

    /// Checks what can be checked without a broker. Errors begin with the setting's name.
    pub fn check(&self) -> Result<(), Fault> {
        self.checked().map(drop)
    }

    pub(super) fn checked(&self) -> Result<Checked, Fault> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.prefix.is_empty() || self.prefix.len() > Self::MAX_PREFIX || !self.prefix.chars().all(fits) {
            let rule = "1 to 100 letters, digits, `.`, `_`, `-`";
            return Err(Fault::refused(format!("broker.prefix is {:?}; it must have {rule}", self.prefix)));
        }
        let limit =
            |name: &str, value| seconds(value).map_err(|error| Fault::refused(format!("broker.{name} {error}")));
        let uris = self.uris()?;
        let trust = Trust::with(self.certificates.as_deref());
        let trust = trust.map_err(|why| Fault::refused(format!("broker.certificates {why}")))?;
        let asked = uris.first().and_then(|uri| uri.query.connection_timeout).filter(|asked| *asked > 0);
        let connect_timeout = limit("connect_timeout_seconds", self.connect_timeout_seconds)?;
        let connect_timeout = asked.map_or(connect_timeout, Duration::from_millis);
        Ok(Checked {
            servers: Servers::new(uris, &trust, connect_timeout)?,
            connect_timeout,
            confirm_timeout: limit("confirm_timeout_seconds", self.confirm_timeout_seconds)?,
            max_message_bytes: usize::try_from(self.max_message_bytes).unwrap_or(usize::MAX),
        })
    }

    /// The servers and the virtual host of the address, without user and password: where a message goes.
    pub fn place(&self) -> Result<String, Fault> {
        let uris = self.uris()?;
        let vhost = uris.first().map(|uri| uri.vhost.clone()).unwrap_or_default();
        Ok(format!("{}, virtual host {vhost:?}", servers::places(&uris)))
    }

    fn uris(&self) -> Result<Vec<AMQPUri>, Fault> {
        let url = self
            .url
            .as_ref()
            .filter(|url| !url.is_empty())
            .ok_or_else(|| Fault::refused("broker.url is not set; write amqp://user:password@host:5672/vhost"))?;
        let read = address::read(url.expose());
        let mut uris = read.map_err(|why| Fault::refused(format!("broker.url {why}")))?;
        let login = self.login()?;
        for uri in &mut uris {
            if let Some(login) = &login {
                uri.authority.userinfo = login.clone();
            }
            uri.query.heartbeat.get_or_insert(self.heartbeat_seconds);
        }
        Ok(uris)
    }

    /// User and password, if they are given beside the address.
    fn login(&self) -> Result<Option<AMQPUserInfo>, Fault> {
        let given = |secret: &Option<Secret>| secret.as_ref().map(Secret::expose).unwrap_or_default().to_owned();
        match (given(&self.user), given(&self.password)) {
            (user, password) if user.is_empty() && password.is_empty() => Ok(None),
            (user, _) if user.is_empty() => Err(Fault::refused("broker.password is set without broker.user")),
            (_, password) if password.is_empty() => Err(Fault::refused("broker.user is set without broker.password")),
            (username, password) => Ok(Some(AMQPUserInfo { username, password })),
        }
    }

    /// The partitions of tenants.
    pub fn partitions(&self) -> Partitions {
        Partitions::clamped(self.partitions)
    }

    pub(super) fn intake(&self) -> QueueLimits {
        QueueLimits { max_messages: self.intake_max_messages, max_bytes: self.intake_max_bytes }
    }

    pub(super) fn stage(&self) -> QueueLimits {
        QueueLimits { max_messages: self.stage_max_messages, max_bytes: self.stage_max_bytes }
    }

    pub(super) fn dead_letters(&self) -> QueueLimits {
        QueueLimits { max_messages: self.dead_letters_max_messages, max_bytes: self.dead_letters_max_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_refused_by_name_and_without_the_password() {
        let good = AmqpConfig::at("amqp://guest:guest@127.0.0.1:5672/%2f");
        assert!(good.check().is_ok());
        for prefix in ["", "a b", "é", &"x".repeat(101)] {
            let error = AmqpConfig { prefix: prefix.to_owned(), ..good.clone() }.check().unwrap_err();
            assert!(error.is_permanent() && error.to_string().starts_with("broker.prefix"), "{error}");
        }
        for wrong in [0.0, -1.0, f64::NAN, 1e9] {
            let error = AmqpConfig { confirm_timeout_seconds: wrong, ..good.clone() }.check().unwrap_err();
            assert!(error.is_permanent() && error.to_string().starts_with("broker.confirm_timeout_seconds"), "{error}");
        }
        for none in [None, Some("".into())] {
            let error = AmqpConfig { url: none, ..good.clone() }.check().unwrap_err();
            assert!(error.to_string().starts_with("broker.url is not set"), "{error}");
        }
        for (user, password) in [(Some("me".into()), None), (None, Some("secret".into()))] {
            let error = AmqpConfig { user, password, ..good.clone() }.check().unwrap_err();
            assert!(error.is_permanent() && error.to_string().contains("is set without"), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let config = AmqpConfig::at("http://me:secret@host");
        let error = config.check().unwrap_err();
        assert!(error.is_permanent() && !format!("{error:?}").contains("secret"), "{error}");
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn user_and_password_beside_the_address_are_taken_as_they_are() {
        let password = "p@ss:w/rd%2f?#&'\" $\\";
        for url in ["amqp://one,two/%2f", "amqp://guest:guest@one,two/%2f"] {
            let (user, password) = (Some("me@home".into()), Some(password.into()));
            let uris = AmqpConfig { user, password, ..AmqpConfig::at(url) }.uris().unwrap();
            assert_eq!(uris.len(), 2);
            for uri in uris {
                let AMQPUserInfo { username, password: given } = uri.authority.userinfo;
                assert_eq!((username.as_str(), given.as_str()), ("me@home", "p@ss:w/rd%2f?#&'\" $\\"));
            }
        }
        let empty = Some(Secret::from(""));
        let config = AmqpConfig { user: empty.clone(), password: empty, ..AmqpConfig::at("amqp://a:b@host") };
        assert_eq!(config.uris().unwrap()[0].authority.userinfo.username, "a");
    }
}
