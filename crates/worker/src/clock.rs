//! The time of day, as a value that tests can set.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

/// Tells the time of day.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(Timestamp::now))
    }

    /// A clock that always shows `time`.
    pub fn fixed(time: Timestamp) -> Self {
        Self(Arc::new(move || time))
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// A time, or what is left to the deadline if that is less.
    pub(crate) fn within(&self, limit: Duration, deadline: Option<Timestamp>) -> Duration {
        let left = deadline.map(|deadline| deadline.duration_since(self.now()));
        left.map_or(limit, |left| limit.min(Duration::try_from(left).unwrap_or_default()))
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_past(&self, deadline: Option<Timestamp>) -> bool {
        deadline.is_some_and(|deadline| deadline <= self.now())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}
