//! The one error of all ports; it answers the one question a caller has: may this be tried again?

use std::time::Duration;

type Cause = Box<dyn std::error::Error + Send + Sync>;

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
        source: Option<Cause>,
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
        source: Option<Cause>,
    },
}

impl PortError {
    /// A failure that trying again does not mend.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::Permanent { message: message.into(), source: None }
    }

    /// A failure that trying again may mend.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::Transient { message: message.into(), retry_after: None, source: None }
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        match &mut self {
            Self::Permanent { source, .. } | Self::Transient { source, .. } => *source = Some(cause.into()),
        }
        self
    }

    /// The same failure, if it is transient, with the wait that the other side asked for.
    #[must_use]
    pub fn retry_in(mut self, wait: Duration) -> Self {
        if let Self::Transient { retry_after, .. } = &mut self {
            *retry_after = Some(wait);
        }
        self
    }

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

/// An error with its causes, each said once.
pub fn error_story(error: &dyn std::error::Error) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !story.contains(&text) {
            story = format!("{story}: {text}");
        }
        cause = error.source();
    }
    story
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn the_kind_the_wait_and_the_cause_are_kept() {
        let error = PortError::transient("store is busy").retry_in(Duration::from_secs(2)).because("503");
        assert!(!error.is_permanent());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("503"));
        let error = PortError::permanent("no such bucket").retry_in(Duration::from_secs(2));
        assert!(error.is_permanent());
        assert_eq!(error.retry_after(), None);
    }
}
