//! The one error type of ports and stages. Its kind says what is wrong, and so whether a retry may succeed.

use std::{fmt, time::Duration};

use echogen_protocol::{FailureKind, JobError, KeyError, text::one_line};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An error, classified where its cause is known.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    kind: FaultKind,
    message: String,
    retry_after: Option<Duration>,
    #[source]
    source: Option<Cause>,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A field of the job is wrong.
    InvalidJob,
    /// The subject's picture is missing, unreadable, too large, or not accessible.
    BadImage,
    /// What is asked for is not offered here.
    Unsupported,
    /// The operator's content gate withholds it.
    Withheld,
    /// Not allowed: rights, authentication, configuration.
    Refused,
    /// More bytes than the limit allows.
    TooLarge,
    /// What was named does not exist.
    NotFound,
    /// A fault of EchoGen.
    Internal,
    /// The other side cannot be reached, or cannot do it now.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The other side asks for fewer requests.
    Throttled,
    /// The queue has no room; it will have when its consumers catch up.
    QueueFull,
    /// Not attempted, because the last attempts failed.
    CircuitOpen,
}

impl FaultKind {
    /// Whether a retry cannot succeed: the request itself is wrong, or somebody must change something first.
    pub fn is_permanent(self) -> bool {
        match self {
            Self::InvalidJob
            | Self::BadImage
            | Self::Unsupported
            | Self::Withheld
            | Self::Refused
            | Self::TooLarge
            | Self::NotFound
            | Self::Internal => true,
            Self::Unavailable | Self::Timeout | Self::Throttled | Self::QueueFull | Self::CircuitOpen => false,
        }
    }

    /// The kind of failure in the result of a job that failed with it; what the job did not cause is `internal`.
    pub fn failure(self) -> FailureKind {
        match self {
            Self::InvalidJob => FailureKind::InvalidJob,
            Self::BadImage => FailureKind::BadImage,
            Self::Unsupported => FailureKind::Unsupported,
            Self::Withheld => FailureKind::Withheld,
            _ => FailureKind::Internal,
        }
    }
}

/// Constructors by kind.
macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),+ $(,)?) => {
        impl Fault {
            $($(#[$doc])*
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(FaultKind::$kind, message)
            })+
        }
    };
}

constructors! {
    /// A field of the job is wrong.
    invalid_job => InvalidJob,
    /// The subject's picture is missing, unreadable, too large, or not accessible.
    bad_image => BadImage,
    /// What is asked for is not offered here.
    unsupported => Unsupported,
    /// The operator's content gate withholds it.
    withheld => Withheld,
    /// Not allowed: rights, authentication, configuration.
    refused => Refused,
    /// More bytes than the limit allows.
    too_large => TooLarge,
    /// What was named does not exist.
    not_found => NotFound,
    /// A fault of EchoGen.
    internal => Internal,
    /// The other side cannot be reached, or cannot do it now.
    unavailable => Unavailable,
    /// It took too long.
    timed_out => Timeout,
    /// The other side asks for fewer requests.
    throttled => Throttled,
    /// The queue has no room.
    queue_full => QueueFull,
    /// Not attempted, because the last attempts failed.
    circuit_open => CircuitOpen,
}

impl Fault {
    /// A fault of this kind. The message says what happened and what to change. It is put on one line of bounded length,
    /// as it may quote what a client or a server wrote.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: one_line(&message.into()), retry_after: None, source: None }
    }

    /// A fault of this kind with the message of its cause.
    pub fn from_error(kind: FaultKind, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(kind, cause.to_string()).because(cause)
    }

    /// The same fault with its cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cause>) -> Self {
        self.source = Some(cause.into());
        self
    }

    /// The same fault, if it is transient, with the wait that the server asked for.
    #[must_use]
    pub fn retry_in(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait).filter(|_| !self.is_permanent());
        self
    }

    /// The same fault with another kind, for a caller who knows what the error means for the request.
    #[must_use]
    pub fn of_kind(mut self, kind: FaultKind) -> Self {
        self.kind = kind;
        self
    }

    /// What is wrong.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// Whether a retry cannot succeed.
    pub fn is_permanent(&self) -> bool {
        self.kind.is_permanent()
    }

    /// How long the server asked to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The message with those of all causes, without repetition, on one line.
    pub fn story(&self) -> String {
        let mut story = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = one_line(&error.to_string());
            if !story.contains(&text) {
                story = format!("{story}: {text}");
            }
            cause = error.source();
        }
        one_line(&story)
    }
}

/// An invalid key is a permanent fault.
impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::internal(format!("the object key {error}"))
    }
}

impl From<JobError> for Fault {
    fn from(error: JobError) -> Self {
        Self::from_error(FaultKind::InvalidJob, error)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn the_kind_the_wait_and_the_cause_are_kept() {
        let fault = Fault::throttled("store is busy").retry_in(Duration::from_secs(2)).because("503");
        assert_eq!((fault.kind(), fault.is_permanent()), (FaultKind::Throttled, false));
        assert_eq!(fault.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(fault.source().map(ToString::to_string).as_deref(), Some("503"));
        assert_eq!((fault.to_string(), fault.story()), ("store is busy".to_owned(), "store is busy: 503".to_owned()));
        let fault = Fault::not_found("no such bucket").retry_in(Duration::from_secs(2));
        assert_eq!((fault.is_permanent(), fault.retry_after()), (true, None));
    }

    #[test]
    fn what_others_wrote_is_on_one_short_line() {
        let odd = "A\n\u{202e}".repeat(1 << 20);
        let fault = Fault::unavailable(odd.as_str()).because(odd.as_str());
        for text in [fault.to_string(), fault.story(), Fault::from(JobError::new(odd.as_str(), odd.as_str())).story()] {
            assert!(text.chars().count() <= 1_000 && !text.contains(['\n', '\u{202e}']), "{text}");
        }
    }

    #[test]
    fn a_result_says_whose_fault_it_was() {
        assert_eq!(Fault::bad_image("").kind().failure(), FailureKind::BadImage);
        assert_eq!(Fault::withheld("").kind().failure(), FailureKind::Withheld);
        assert_eq!(Fault::from(JobError::new("prompt", "is empty")).kind().failure(), FailureKind::InvalidJob);
        for ours in [FaultKind::Refused, FaultKind::TooLarge, FaultKind::NotFound, FaultKind::Internal] {
            assert_eq!(ours.failure(), FailureKind::Internal, "{ours}");
        }
    }
}
