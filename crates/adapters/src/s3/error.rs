//! The faults for the store's errors: which may be retried, and what to change.

use std::time::SystemTime;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use echogen_ports::{Fault, FaultKind};

use crate::retry_after::retry_after;

/// The kind of request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    Read,
    Write,
    Delete,
}

impl Access {
    fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }

    fn permission(self) -> &'static str {
        match self {
            // Without the right to list, S3 answers "denied" instead of "not found".
            Self::Read => "s3:GetObject and s3:ListBucket",
            Self::Write => "s3:PutObject",
            Self::Delete => "s3:DeleteObject",
        }
    }
}

/// The HTTP status of the answer, if there was one.
pub(super) fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// Whether the object does not exist. A missing bucket is a different error.
pub(super) fn is_absent<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    status(error) == Some(404) && error.code() != Some("NoSuchBucket")
}

/// Classifies an error.
pub(super) fn port_error<E>(bucket: &str, access: Access, name: &str, error: SdkError<E>) -> Fault
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let what = format!("cannot {} s3://{bucket}/{name}", access.verb());
    let made = match &error {
        SdkError::TimeoutError(_) => Fault::timed_out(format!("{what}: no answer in time")),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            Fault::timed_out(format!("{what}: no answer in time"))
        }
        SdkError::DispatchFailure(failure) if failure.is_user() => {
            Fault::refused(format!("{what}: the request cannot be sent; check the settings of the store"))
        }
        SdkError::DispatchFailure(_) => Fault::unavailable(format!("{what}: the server cannot be reached")),
        SdkError::ConstructionFailure(_) => {
            Fault::refused(format!("{what}: the request cannot be made; check the settings of the store"))
        }
        _ => answered(&what, bucket, access, &error),
    };
    made.because(error)
}

/// The fault for an error answer of the server.
fn answered<E: ProvideErrorMetadata>(what: &str, bucket: &str, access: Access, error: &SdkError<E>) -> Fault {
    use FaultKind::{NotFound, Refused, Throttled, Timeout, TooLarge, Unavailable};
    let status = status(error).unwrap_or(0);
    let code = error.code().unwrap_or("no reason given");
    let header = error.raw_response().and_then(|response| response.headers().get("retry-after"));
    let wait = header.and_then(|header| retry_after(header, SystemTime::now()));
    let transient = |kind: FaultKind, advice: &str| {
        let made = Fault::new(kind, format!("{what}: {code} ({status}){advice}"));
        match wait {
            Some(wait) => made.retry_in(wait),
            None => made,
        }
    };
    let permanent = |kind: FaultKind, advice: &str| Fault::new(kind, format!("{what}: {code} ({status}); {advice}"));
    match (code, status) {
        ("NoSuchBucket", _) => permanent(NotFound, &format!("create the bucket {bucket} or correct store.bucket")),
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch", _) => {
            permanent(Refused, "check store.access_key_id and store.secret_access_key")
        }
        ("RequestTimeTooSkewed", _) => transient(Unavailable, "; set this machine's clock"),
        // Transient: the provider of temporary keys renews them.
        ("ExpiredToken" | "TokenRefreshRequired", _) => transient(Unavailable, "; the temporary keys have run out"),
        ("SlowDown" | "ThrottlingException" | "Throttling", _) | (_, 429) => transient(Throttled, ""),
        ("RequestTimeout", _) | (_, 408) => transient(Timeout, ""),
        ("PermanentRedirect" | "AuthorizationHeaderMalformed", _) | (_, 301 | 307) => {
            permanent(Refused, "the bucket is elsewhere; correct store.region or store.endpoint")
        }
        ("EntityTooLarge", _) | (_, 413) => permanent(TooLarge, "raise the limit of the store"),
        (_, 401 | 403) => permanent(Refused, &format!("allow {} in {bucket}", access.permission())),
        (_, 409 | 425) => transient(Unavailable, ""),
        (_, 400..=499) => permanent(Refused, "check the settings of the store"),
        _ => transient(Unavailable, ""),
    }
}
