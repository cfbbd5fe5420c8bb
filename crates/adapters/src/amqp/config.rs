//! How to reach the broker, and the limits of its queues.

use std::time::Duration;

use echogen_ports::PortError;
use lapin::uri::AMQPUri;
use serde::{Deserialize, Serialize};

/// The broker's settings.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:5672/vhost`, or `amqps:` for TLS. The virtual host `/` is written `%2f`.
    pub url: String,
    /// What the names of all exchanges and queues begin with: installations with different prefixes share a broker.
    pub prefix: String,
    /// Whether queues are quorum queues, replicated over the cluster's nodes. Classic queues know no delivery limit.
    pub quorum: bool,
    /// How many nodes a new quorum queue lives on; absent: the broker's default.
    pub initial_group_size: Option<u32>,
    /// How much each intake queue holds before producers are refused.
    pub intake: QueueLimits,
    /// How much each stage's queue, and each retry tier, holds.
    pub stage: QueueLimits,
    /// How much each queue of dead letters holds.
    pub dead: QueueLimits,
    /// How often a message may come back unsettled before the broker itself puts it among the dead letters. It is the
    /// last resort, so it is more than the workers' own limit (`max_redeliveries`).
    pub delivery_limit: u32,
    /// Bytes of a body that is published. RabbitMQ 4 refuses more than 16 MiB, and closes the channel over it.
    pub max_message_bytes: usize,
    /// Seconds that connecting and declaring may take.
    pub connect_timeout_seconds: f64,
    /// Seconds that the broker has to confirm a message.
    pub confirm_timeout_seconds: f64,
    /// Seconds between heartbeats; a silent connection is given up after two.
    pub heartbeat_seconds: u16,
}

/// Bounds of one queue; past either, publishing is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueLimits {
    /// Messages.
    pub max_length: u32,
    /// Bytes of all bodies together.
    pub max_length_bytes: u64,
}

const GIB: u64 = 1024 * 1024 * 1024;

impl Default for AmqpConfig {
    fn default() -> Self {
        // A million jobs of a batch fit into a lane with room to spare. What is behind the intake holds as much, since
        // an idle stage must not be refused while its neighbour is busy.
        let work = QueueLimits { max_length: 4_000_000, max_length_bytes: 16 * GIB };
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(),
            prefix: "echogen".to_owned(),
            quorum: true,
            initial_group_size: None,
            intake: work,
            stage: work,
            dead: QueueLimits { max_length: 1_000_000, max_length_bytes: 4 * GIB },
            delivery_limit: 30,
            max_message_bytes: 16 * 1024 * 1024,
            connect_timeout_seconds: 15.0,
            confirm_timeout_seconds: 30.0,
            heartbeat_seconds: 10,
        }
    }
}

impl std::fmt::Debug for AmqpConfig {
    /// Leaves out the address, which bears a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpConfig").field("prefix", &self.prefix).field("quorum", &self.quorum).finish_non_exhaustive()
    }
}

impl AmqpConfig {
    /// The longest prefix: with the longest name behind it, a queue's name stays below AMQP's 255 bytes.
    const MAX_PREFIX: usize = 100;

    /// Checks what can be checked without a broker; returns the address with its settings.
    pub(super) fn check(&self) -> Result<AMQPUri, PortError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.prefix.is_empty() || self.prefix.len() > Self::MAX_PREFIX || !self.prefix.chars().all(fits) {
            let rule = "1 to 100 letters, digits, `.`, `_`, `-`";
            return Err(PortError::permanent(format!("the prefix {:?} is not {rule}", self.prefix)));
        }
        // The address is left out of the message: it bears a password.
        let mut uri: AMQPUri = self.url.parse().map_err(|error| {
            PortError::permanent(format!("the broker's url is not like amqp://user:password@host:5672/%2f: {error}"))
        })?;
        uri.query.heartbeat = Some(self.heartbeat_seconds);
        Ok(uri)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        seconds(self.connect_timeout_seconds)
    }

    pub(super) fn confirm_timeout(&self) -> Duration {
        seconds(self.confirm_timeout_seconds)
    }
}

/// Nonsense in a configuration is a second.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_refused_without_telling_the_password() {
        assert!(AmqpConfig::default().check().is_ok());
        for prefix in ["", "a b", "é", &"x".repeat(101)] {
            let error = AmqpConfig { prefix: prefix.to_owned(), ..AmqpConfig::default() }.check().unwrap_err();
            assert!(error.is_permanent() && error.to_string().contains("prefix"), "{error}");
        }
        let config = AmqpConfig { url: "http://me:secret@host".to_owned(), ..AmqpConfig::default() };
        let error = config.check().unwrap_err();
        assert!(error.is_permanent() && !error.to_string().contains("secret"), "{error}");
        assert!(!format!("{config:?}").contains("secret"));
    }
}
