//! The one error of all ports; it answers the one question a caller has: may this be tried again?

use std::time::Duration;

/// A port's failure, classified by the adapter, where the cause is still known.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Trying again will not help: the request itself is wrong or refused.
    #[error("{message}")]
    Permanent {
        /// What happened and what to change.
        message: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Trying again may help: network, overload, out of space.
    #[error("{message}")]
    Transient {
        /// What happened.
        message: String,
        /// How long the other side asked to wait, where it said so.
        retry_after: Option<Duration>,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl PortError {
    /// Whether trying again cannot help.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Permanent { .. })
    }

    /// How long the other side asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Permanent { .. } => None,
            Self::Transient { retry_after, .. } => *retry_after,
        }
    }
}
