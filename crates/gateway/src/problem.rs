//! Errors as problem details (RFC 9457): the closed list of their types, and how faults and invalid jobs become one.

use std::{borrow::Cow, time::Duration};

use axum::response::{IntoResponse, Response};
use echogen_ports::{Fault, FaultKind};
use echogen_protocol::{JobError, text};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

/// The media type of an error.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// The wait that a client is asked for when a server of ours cannot be used now.
const RETRY: Duration = Duration::from_secs(2);

/// An error as it is sent: `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemDetails {
    /// `/problems/` and the name of one of a closed list.
    #[serde(rename = "type")]
    pub kind: String,
    /// The type in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to change, in one line.
    pub detail: String,
    /// The fields that are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// The field, as a JSON Pointer (RFC 6901); empty for the body as a whole.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// Declares the closed list of problems.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = ($name:literal, $status:ident, $title:literal)),+ $(,)?) => {
        /// The types of problems.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $variant),+ }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name, which also labels the metric of refusals.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $name),+ } }

            /// Its HTTP status.
            pub const fn status(self) -> StatusCode { match self { $(Self::$variant => StatusCode::$status),+ } }

            /// It in a few words.
            pub const fn title(self) -> &'static str { match self { $(Self::$variant => $title),+ } }
        }
    };
}

kinds! {
    /// The request cannot be read.
    BadRequest = ("bad-request", BAD_REQUEST, "The request cannot be read"),
    /// No key, or one that is not valid.
    Unauthorized = ("unauthorized", UNAUTHORIZED, "A valid key is needed"),
    /// The key does not allow it, or the request came from a foreign page.
    Forbidden = ("forbidden", FORBIDDEN, "Not allowed"),
    /// There is no such thing, or it is another tenant's.
    NotFound = ("not-found", NOT_FOUND, "Not found"),
    /// The method does not exist here.
    MethodNotAllowed = ("method-not-allowed", METHOD_NOT_ALLOWED, "The method is not offered here"),
    /// The body came too slowly.
    TooSlow = ("too-slow", REQUEST_TIMEOUT, "The request came too slowly"),
    /// The state of the job does not allow it, or the id is taken.
    Conflict = ("conflict", CONFLICT, "A conflict with the present state"),
    /// The body has too many bytes.
    TooLarge = ("too-large", PAYLOAD_TOO_LARGE, "Too large"),
    /// The body is of another media type than asked for.
    MediaType = ("media-type", UNSUPPORTED_MEDIA_TYPE, "The media type is not accepted"),
    /// A field is wrong.
    Invalid = ("invalid", UNPROCESSABLE_ENTITY, "A field is wrong"),
    /// The safety check does not allow it.
    Withheld = ("withheld", UNPROCESSABLE_ENTITY, "Not allowed by the safety check"),
    /// Too many requests.
    RateLimited = ("rate-limited", TOO_MANY_REQUESTS, "Too many requests"),
    /// The tenant's bound of pictures, jobs, or streams is reached.
    QuotaExceeded = ("quota-exceeded", TOO_MANY_REQUESTS, "A limit of the tenant is reached"),
    /// A fault of ours.
    Internal = ("internal", INTERNAL_SERVER_ERROR, "A fault of the service"),
    /// A server of ours cannot be used now.
    Unavailable = ("unavailable", SERVICE_UNAVAILABLE, "Not available now"),
}

/// An error on its way to the client.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<Duration>,
}

/// The type of a problem that was sent, for metrics and logs; kept beside the response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent(pub(crate) Kind);

impl Problem {
    /// A problem with its detail.
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None }
    }

    /// A field that is wrong.
    pub(crate) fn field(pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let error = FieldError { pointer: pointer.to_owned(), detail: detail.clone() };
        Self { errors: vec![error], ..Self::new(Kind::Invalid, detail) }
    }

    /// Nothing of that name, as far as this tenant can see.
    pub(crate) fn not_found(what: &'static str) -> Self {
        Self::new(Kind::NotFound, what)
    }

    /// The same problem, with the time after which a try makes sense.
    #[must_use]
    pub(crate) fn retry_in(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The time after which a try makes sense.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Its type.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// As it is sent.
    pub(crate) fn details(&self) -> ProblemDetails {
        ProblemDetails {
            kind: format!("/problems/{}", self.kind.as_str()),
            title: self.kind.title().to_owned(),
            status: self.kind.status().as_u16(),
            detail: self.detail.clone().into_owned(),
            errors: self.errors.clone(),
        }
    }
}

/// What a server of ours says is logged here and not sent: it names buckets, queues and hosts.
impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match fault.kind() {
            FaultKind::InvalidJob | FaultKind::BadImage | FaultKind::Unsupported => {
                Self::new(Kind::Invalid, fault.to_string())
            }
            FaultKind::TooLarge => Self::new(Kind::TooLarge, fault.to_string()),
            kind if kind.is_permanent() => {
                error!(error = %fault.story(), "a request failed");
                Self::new(Kind::Internal, "the request failed by a fault of the service; it is logged")
            }
            kind => {
                warn!(error = %fault.story(), "a request failed for now");
                let detail = match kind {
                    FaultKind::QueueFull => "the queue is full; try again later",
                    _ => {
                        "a server that is needed cannot be used now; send the request again, with the same Idempotency-Key"
                    }
                };
                Self::new(Kind::Unavailable, detail).retry_in(fault.retry_after().unwrap_or(RETRY))
            }
        }
    }
}

impl From<JobError> for Problem {
    fn from(error: JobError) -> Self {
        if error.field.is_empty() && error.message.starts_with("this is not valid JSON") {
            return Self::new(Kind::BadRequest, error.message);
        }
        let detail = error.to_string();
        let errors = vec![FieldError { pointer: pointer(&error.field), detail: error.message }];
        Self { errors, ..Self::new(Kind::Invalid, detail) }
    }
}

/// A path such as `seeds[3].first` as a JSON Pointer.
fn pointer(field: &str) -> String {
    let parts = field.split(['.', '[', ']']).filter(|part| !part.is_empty());
    parts.map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.details()).unwrap_or_default();
        let mut response = (self.kind.status(), body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(wait) = self.retry_after {
            // Rounded up, so that whoever waits as long is not refused again.
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(1)));
        }
        if self.kind == Kind::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Sent(self.kind));
        response
    }
}

/// A text of the client's in an error.
pub(crate) fn quoted(text: &str) -> String {
    text::quoted(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn fields_become_pointers() {
        assert_eq!(pointer("subject.box.left"), "/subject/box/left");
        assert_eq!(pointer("seeds[3]"), "/seeds/3");
        assert_eq!(pointer("metadata.a/b~c"), "/metadata/a~1b~0c");
        assert_eq!(pointer(""), "");
    }

    #[test]
    fn names_are_distinct_and_statuses_are_errors() {
        let names: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|kind| kind.status().as_u16() >= 400));
    }

    #[test]
    fn what_servers_say_is_not_sent() {
        let fault = Fault::refused("access to s3://secret-bucket/key denied");
        assert!(!serde_json::to_string(&Problem::from(fault).details()).unwrap().contains("secret-bucket"));
        let problem = Problem::from(Fault::throttled("slow down at host-1").retry_in(Duration::from_millis(2_500)));
        assert!(!problem.details().detail.contains("host-1"));
        let response = problem.into_response();
        assert_eq!(
            (response.status().as_u16(), response.headers()[header::RETRY_AFTER].to_str().ok()),
            (503, Some("3"))
        );
    }

    #[test]
    fn an_invalid_field_is_named() {
        let details = Problem::from(JobError::new("seeds[3]", "is too large")).details();
        assert_eq!((details.status, details.kind.as_str()), (422, "/problems/invalid"));
        assert_eq!(details.errors, [FieldError { pointer: "/seeds/3".into(), detail: "is too large".into() }]);
    }
}
