//! Which bucket, and how its server is used.

use std::time::Duration;

use echogen_ports::{Fault, Secret, seconds};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::{
    address::{Address, Form, Refusal},
    tls::Trust,
};

/// The settings of an [`S3ObjectStore`](super::S3ObjectStore).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// Address of an S3-compatible server, such as `https://minio.example.org:9000`. Absent: AWS itself.
    #[serde(deserialize_with = "without_credentials")]
    pub endpoint: Option<String>,
    /// Address of the same server for clients, such as `https://pictures.example.org`: what presigned links name. Absent:
    /// `endpoint`.
    #[serde(deserialize_with = "without_credentials")]
    pub public_endpoint: Option<String>,
    /// Authorities whose certificates are trusted in addition to the system's, as PEM text or as the path of a PEM file.
    pub certificates: Option<String>,
    /// Region of the bucket.
    pub region: String,
    /// Name of the bucket. No setting by itself: the service reads it out of `store.url`.
    #[serde(skip)]
    pub bucket: String,
    /// What every key in the bucket begins with; it ends with `/` for a folder. No setting by itself either.
    #[serde(skip)]
    pub prefix: String,
    /// Whether the bucket is in the path of a request instead of the host name. Absent: yes with an `endpoint`, no
    /// without.
    pub path_style: Option<bool>,
    /// Access key. Absent: what AWS's own tools would use (environment, profile, web identity, instance).
    pub access_key_id: Option<Secret>,
    /// Secret of the access key; set together with `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// Session token of temporary access keys.
    pub session_token: Option<Secret>,
    /// Checksum that is sent with an object; the server verifies and keeps it.
    pub upload_checksum: UploadChecksum,
    /// Whether the signature of a request covers the object's bytes. Without it only TLS protects them in transit, so
    /// it requires an `https://` endpoint; it saves a pass over the bytes only if `upload_checksum` is `none` too.
    pub sign_payload: bool,
    /// When the client library adds a checksum (CRC32 in a trailer) by itself, which many stores other than AWS reject.
    /// It never does so where `upload_checksum` adds one. Absent: `when_required` with an `endpoint`, `when_supported`
    /// without.
    pub checksum_calculation: Option<ChecksumCalculation>,
    /// Whether the store supports `If-None-Match: *` on writes. Without it, "create only if absent" first checks and
    /// then writes, and two simultaneous workers can both believe that they were first.
    pub conditional_writes: bool,
    /// Encryption at rest that is asked for with every object. Absent: what the bucket does by default.
    pub encryption: Option<Encryption>,
    /// Id of the key for `encryption = "aws_kms"`. Absent: the account's own key for S3.
    pub encryption_key: Option<String>,
    /// Seconds to wait for a connection.
    pub connect_timeout_seconds: f64,
    /// Time limit in seconds for one attempt of a call.
    pub attempt_timeout_seconds: f64,
    /// Time limit in seconds for a call with all its attempts.
    pub operation_timeout_seconds: f64,
    /// Attempts of one call, at least 1.
    pub max_attempts: u32,
}

/// The checksum of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadChecksum {
    /// `x-amz-checksum-sha256`.
    Sha256,
    /// No checksum.
    None,
}

/// Encryption at rest, by the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// With keys of the store: `x-amz-server-side-encryption: AES256`.
    Aes256,
    /// With keys of a key management service: `x-amz-server-side-encryption: aws:kms`.
    AwsKms,
}

/// When the client library adds a checksum by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
            public_endpoint: None,
            certificates: None,
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
            encryption: None,
            encryption_key: None,
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
        self.path_style.unwrap_or(self.has_endpoint())
    }

    /// When the client library adds a checksum by itself.
    pub fn checksum_calculation(&self) -> ChecksumCalculation {
        self.checksum_calculation.unwrap_or(match self.has_endpoint() {
            true => ChecksumCalculation::WhenRequired,
            false => ChecksumCalculation::WhenSupported,
        })
    }

    fn has_endpoint(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| !endpoint.trim().is_empty())
    }

    /// Checks what can be checked without a server. Errors begin with the setting's name.
    pub fn check(&self) -> Result<(), Fault> {
        self.check_bucket()?;
        self.check_server().map(drop)
    }

    pub(super) fn check_bucket(&self) -> Result<(), Fault> {
        let fault = |message: String| Err(Fault::refused(message));
        if self.bucket.is_empty() || self.bucket.contains('/') {
            return fault(format!("store.bucket is {:?}; name one bucket, without a path", self.bucket));
        }
        if self.prefix.starts_with('/') || self.prefix.split('/').any(|part| part == "." || part == "..") {
            return fault(format!(
                "store.prefix is {:?}; it must neither begin with / nor contain . or ..",
                self.prefix
            ));
        }
        Ok(())
    }

    pub(super) fn check_server(&self) -> Result<Checked, Fault> {
        let limit =
            |name: &str, value: f64| seconds(value).map_err(|error| Fault::refused(format!("store.{name} {error}")));
        if self.max_attempts == 0 {
            return Err(Fault::refused("store.max_attempts is 0; a call needs at least 1"));
        }
        let trust = Trust::with(self.certificates.as_deref());
        let endpoint = checked_address("endpoint", self.endpoint.as_deref())?;
        if !self.sign_payload && endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
            return Err(Fault::refused("store.sign_payload = false needs an https:// endpoint"));
        }
        if self.encryption_key.is_some() && self.encryption != Some(Encryption::AwsKms) {
            return Err(Fault::refused("store.encryption_key is set without store.encryption = \"aws_kms\""));
        }
        Ok(Checked {
            endpoint,
            public_endpoint: checked_address("public_endpoint", self.public_endpoint.as_deref())?,
            trust: trust.map_err(|why| Fault::refused(format!("store.certificates {why}")))?,
            keys: self.keys()?,
            connect_timeout: limit("connect_timeout_seconds", self.connect_timeout_seconds)?,
            attempt_timeout: limit("attempt_timeout_seconds", self.attempt_timeout_seconds)?,
            operation_timeout: limit("operation_timeout_seconds", self.operation_timeout_seconds)?,
        })
    }

    fn keys(&self) -> Result<Option<Keys>, Fault> {
        let given = |secret: &Option<Secret>| secret.clone().filter(|secret| !secret.is_empty());
        match (given(&self.access_key_id), given(&self.secret_access_key)) {
            (Some(id), Some(secret)) => Ok(Some(Keys { id, secret, token: given(&self.session_token) })),
            (None, None) => Ok(None),
            _ => Err(Fault::refused("set both of store.access_key_id and store.secret_access_key, or none")),
        }
    }
}

/// An address of the server, as the setting of that name gives it; `None` if it is absent or empty.
fn checked_address(name: &str, text: Option<&str>) -> Result<Option<String>, Fault> {
    let fault = |why: &str| Fault::refused(format!("store.{name} {why}"));
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.starts_with("s3://") {
        return Err(fault("names a bucket; write the address of its server, such as https://host:9000"));
    }
    let address = FORM.read(text).map_err(|why| fault(&why))?;
    let server = address.servers.first().ok_or_else(|| fault("names no host"))?;
    let path = address.path.unwrap_or_default();
    let path = path.trim_end_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    Ok(Some(format!("{}://{server}{slash}{path}", address.scheme)))
}

const FORM: Form =
    Form { schemes: &["http", "https"], example: "https://host:9000", other_ports: &[], is_meant: is_one_server };

fn is_one_server(address: &Address) -> Result<(), Refusal> {
    if address.user.is_some() {
        return Err("contains a user or password, which belong to access_key_id and secret_access_key".to_owned());
    }
    if address.servers.len() > 1 {
        return Err("names several hosts; name one, or what stands before them".to_owned());
    }
    let is_plain = address.options.is_empty() && address.fragment.is_none();
    if is_plain { Ok(()) } else { Err("has a ? or # behind the host".to_owned()) }
}

/// Reads an endpoint. One that contains a password must not get as far as into a configuration, which is shown.
fn without_credentials<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let endpoint = Option::<String>::deserialize(deserializer)?;
    if endpoint.as_ref().is_some_and(|text| text.contains('@')) {
        return Err(D::Error::custom("contains an @; user and password belong to access_key_id and secret_access_key"));
    }
    Ok(endpoint)
}

/// Settings of the server that have been checked.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub(super) endpoint: Option<String>,
    pub(super) public_endpoint: Option<String>,
    pub(super) trust: Trust,
    pub(super) keys: Option<Keys>,
    pub(super) connect_timeout: Duration,
    pub(super) attempt_timeout: Duration,
    pub(super) operation_timeout: Duration,
}

/// Access keys that are given in the settings.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) id: Secret,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
}
