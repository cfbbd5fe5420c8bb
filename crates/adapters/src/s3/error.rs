//! The faults for the store's errors: which may be retried, what the store itself says, and what to change.
//!
//! Stores other than AWS refuse what they do not know in their own ways, so an error carries the store's own sentence,
//! bounded and on one line, and the setting that helps where one is known.

use std::{fmt::Write, time::SystemTime};

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use echogen_ports::{Fault, FaultKind};
use echogen_protocol::text;

use crate::retry_after::retry_after;

/// The kind of request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    Read,
    Write {
        /// Whether it has the header `If-None-Match`.
        if_absent: bool,
        /// Whether it has a checksum of ours.
        checksum: bool,
    },
    Delete,
    /// Lists keys.
    List,
}

impl Access {
    fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write { .. } => "write",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }

    /// What to allow if the request is denied.
    fn permission(self) -> &'static str {
        match self {
            // Without the right to list, S3 answers "denied" instead of "not found".
            Self::Read => "allow s3:GetObject and s3:ListBucket",
            Self::Write { .. } => {
                "allow s3:PutObject (or set store.encryption if the policy demands encryption headers)"
            }
            Self::Delete => "allow s3:DeleteObject",
            Self::List => "allow s3:ListBucket",
        }
    }

    /// What to set if a header of the request is refused.
    fn without_header(self) -> &'static str {
        match self {
            Self::Write { if_absent: true, checksum: true } => {
                "set store.conditional_writes = false, or store.upload_checksum = \"none\" if plain writes fail too"
            }
            Self::Write { if_absent: true, checksum: false } => "set store.conditional_writes = false",
            Self::Write { if_absent: false, checksum: true } => {
                "set store.upload_checksum = \"none\" and store.checksum_calculation = \"when_required\""
            }
            Self::Write { if_absent: false, checksum: false } => "set store.checksum_calculation = \"when_required\"",
            Self::Read | Self::Delete | Self::List => "check store.endpoint and store.path_style",
        }
    }
}

/// What the store has answered.
#[derive(Clone, Copy, Debug)]
struct Answer<'a> {
    status: u16,
    code: &'a str,
    sentence: &'a str,
    /// The region of the bucket, if the store names it.
    region: Option<&'a str>,
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
        // Without its cause, which repeats the store's words unbounded.
        SdkError::ServiceError(_) => return answered(&what, bucket, access, &error),
        _ => answered(&what, bucket, access, &error),
    };
    made.because(error)
}

/// The fault for an error answer of the server.
fn answered<E: ProvideErrorMetadata>(what: &str, bucket: &str, access: Access, error: &SdkError<E>) -> Fault {
    let header = |name| error.raw_response().and_then(|response| response.headers().get(name));
    let answer = Answer {
        status: status(error).unwrap_or(0),
        code: error.code().unwrap_or_default(),
        sentence: error.message().unwrap_or_default(),
        region: header("x-amz-bucket-region"),
    };
    let (kind, advice) = judge(answer, bucket, access);
    let mut message = format!("{what}: {}", answer.in_words());
    if !advice.is_empty() {
        message = format!("{message}; {advice}");
    }
    let fault = Fault::new(kind, message);
    match header("retry-after").and_then(|header| retry_after(header, SystemTime::now())) {
        Some(wait) => fault.retry_in(wait),
        None => fault,
    }
}

impl Answer<'_> {
    /// Code, status and sentence: `NoSuchBucket (404): The specified bucket does not exist`.
    fn in_words(&self) -> String {
        let code = if self.code.is_empty() { "no reason given" } else { self.code };
        let mut words = format!("{} ({})", text::one_line(code), self.status);
        let sentence = text::one_line(&words_of(self.sentence));
        if !sentence.is_empty() {
            // Writing into a string cannot fail.
            write!(words, ": {}", sentence.trim_end_matches('.')).ok();
        }
        words
    }

    fn names_encryption(&self) -> bool {
        let sentence = self.sentence.to_ascii_lowercase();
        self.code.starts_with("KMS.") || ["encrypt", "x-amz-server-side"].iter().any(|word| sentence.contains(word))
    }
}

/// What an answer means, and what to change.
fn judge(answer: Answer<'_>, bucket: &str, access: Access) -> (FaultKind, String) {
    use FaultKind::{NotFound, Refused, Throttled, Timeout, TooLarge, Unavailable};
    let is_write = matches!(access, Access::Write { .. });
    let (kind, advice) = match (answer.code, answer.status) {
        ("NoSuchBucket", _) => return (NotFound, format!("create the bucket {bucket} or correct store.url")),
        ("InvalidBucketName", _) => (Refused, "correct the bucket in store.url"),
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch", _) => {
            (Refused, "check store.access_key_id and store.secret_access_key")
        }
        ("InvalidToken", _) => (Refused, "check store.session_token"),
        ("RequestTimeTooSkewed", _) => (Unavailable, "set this machine's clock"),
        // Transient: the provider of temporary keys renews them.
        ("ExpiredToken" | "TokenRefreshRequired", _) => (Unavailable, "the temporary keys have run out"),
        ("SlowDown" | "ThrottlingException" | "Throttling", _) | (_, 429) => (Throttled, ""),
        ("RequestTimeout", _) | (_, 408) => (Timeout, ""),
        // Transient, as a full queue is: there is room again when somebody has removed objects.
        ("QuotaExceeded" | "XMinioStorageFull", _) | (_, 507) => (Unavailable, "make room in the store"),
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
        | (_, 301 | 307) => return (Refused, elsewhere(answer.region)),
        ("EntityTooLarge", _) | (_, 413) => (TooLarge, "raise the limit of the store"),
        (_, 400..=403) if is_write && answer.names_encryption() => {
            (Refused, "set store.encryption, and store.encryption_key, to what the bucket demands")
        }
        ("NotImplemented" | "MethodNotAllowed", _) | (_, 405 | 501) => (Refused, access.without_header()),
        ("InvalidArgument" | "InvalidRequest", 400) if is_write => (Refused, access.without_header()),
        (_, 401 | 403) => return (Refused, format!("{} in {bucket}", access.permission())),
        (_, 409 | 425) => (Unavailable, ""),
        (_, 400..=499) => (Refused, "check the settings of the store"),
        _ => (Unavailable, ""),
    };
    (kind, advice.to_owned())
}

fn elsewhere(region: Option<&str>) -> String {
    match region {
        Some(region) => format!("the bucket is elsewhere: set store.region = \"{}\"", text::one_line(region)),
        None => "the bucket is elsewhere; correct store.region or store.endpoint".to_owned(),
    }
}

/// Its words with one space between them: a server may send them on several lines.
fn words_of(sentence: &str) -> String {
    sentence.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
