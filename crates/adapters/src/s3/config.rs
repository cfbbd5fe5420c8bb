//! Which bucket, and how it is spoken to.

use std::{fmt, time::Duration};

use echogen_ports::PortError;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::time::seconds;

/// The settings of an [`S3ObjectStore`](super::S3ObjectStore).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// The server's address, such as `https://minio.example.org:9000`. Default: none, that is AWS itself.
    pub endpoint: Option<String>,
    /// Default: `us-east-1`.
    pub region: String,
    /// The bucket. There is no default.
    pub bucket: String,
    /// What every key in the bucket begins with; end it with `/` for a folder. Default: nothing.
    pub prefix: String,
    /// Whether the bucket is named in the path and not in the host's name. Default: yes with an `endpoint`, else no.
    pub path_style: Option<bool>,
    /// The access key. Default: what AWS's own tools would use (environment, profile, web identity, instance).
    pub access_key_id: Option<String>,
    /// The access key's secret.
    pub secret_access_key: Option<String>,
    /// The token of temporary keys.
    pub session_token: Option<String>,
    /// The checksum that is sent with an object and that the server verifies and keeps. Default: `sha256`.
    pub upload_checksum: UploadChecksum,
    /// Whether the signature covers an object's bytes. Without it only TLS guards them on the way, so that needs an
    /// `https://` endpoint; it saves a pass over the bytes only if `upload_checksum` is `none` too. Default: yes.
    pub sign_payload: bool,
    /// When the client library adds a checksum (CRC32 in a trailer) by itself. Many stores that are not AWS reject
    /// that. Default: `when_required` with an `endpoint`, else `when_supported`. It never adds one where
    /// `upload_checksum` gives one.
    pub checksum_calculation: Option<ChecksumCalculation>,
    /// Whether the store knows `If-None-Match: *` on PUT. Without, "create only if absent" looks first and writes then,
    /// and two workers at the same moment can both believe that they were first. Default: yes.
    pub conditional_writes: bool,
    /// Seconds to wait for a connection. Default: 3.
    pub connect_timeout_seconds: f64,
    /// Seconds that one try may take. Default: 20.
    pub attempt_timeout_seconds: f64,
    /// Seconds that a call may take with all its tries. Default: 60.
    pub operation_timeout_seconds: f64,
    /// Tries of one call. Default: 4.
    pub max_attempts: u32,
}

/// The checksum of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadChecksum {
    /// `x-amz-checksum-sha256`.
    Sha256,
    /// None of ours.
    None,
}

/// When the client library adds a checksum by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumCalculation {
    /// Only where S3 insists on one.
    WhenRequired,
    /// Wherever AWS takes one.
    WhenSupported,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: String::new(),
            prefix: String::new(),
            path_style: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            upload_checksum: UploadChecksum::Sha256,
            sign_payload: true,
            checksum_calculation: None,
            conditional_writes: true,
            connect_timeout_seconds: 3.0,
            attempt_timeout_seconds: 20.0,
            operation_timeout_seconds: 60.0,
            max_attempts: 4,
        }
    }
}

impl S3Config {
    /// Whether the bucket is named in the path.
    pub fn path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }

    /// When the client library adds a checksum by itself.
    pub fn checksum_calculation(&self) -> ChecksumCalculation {
        self.checksum_calculation.unwrap_or(match self.endpoint {
            Some(_) => ChecksumCalculation::WhenRequired,
            None => ChecksumCalculation::WhenSupported,
        })
    }

    pub(super) fn check_bucket(&self) -> Result<(), PortError> {
        let fault = |message: String| Err(PortError::permanent(message));
        if self.bucket.is_empty() || self.bucket.contains('/') {
            return fault(format!("s3.bucket is {:?}; name one bucket, without a path", self.bucket));
        }
        if self.prefix.starts_with('/') || self.prefix.split('/').any(|part| part == "." || part == "..") {
            return fault(format!("s3.prefix is {:?}; it must neither begin with / nor climb", self.prefix));
        }
        Ok(())
    }

    pub(super) fn check_server(&self) -> Result<(), PortError> {
        let fault = |message: String| Err(PortError::permanent(message));
        if self.access_key_id.is_some() != self.secret_access_key.is_some() {
            return fault("set both of s3.access_key_id and s3.secret_access_key, or none".to_owned());
        }
        let endpoint = self.endpoint.as_deref().map(Url::parse);
        let Some(endpoint) = endpoint else { return Ok(()) };
        match endpoint {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                if !self.sign_payload && url.scheme() == "http" {
                    return fault("s3.sign_payload = false needs an https:// endpoint".to_owned());
                }
                Ok(())
            }
            _ => fault("s3.endpoint is no address; write http://host:port or https://host".to_owned()),
        }
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        seconds(self.connect_timeout_seconds)
    }

    pub(super) fn attempt_timeout(&self) -> Duration {
        seconds(self.attempt_timeout_seconds)
    }

    pub(super) fn operation_timeout(&self) -> Duration {
        seconds(self.operation_timeout_seconds)
    }
}

/// Without the keys.
impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}
