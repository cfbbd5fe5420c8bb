//! Objects in S3, or in a store with the same API.
//!
//! Every job writes twice, so writes are kept cheap: connections are reused, the SHA-256 of an object is computed once for
//! both the signature and the checksum that the server verifies and stores, and no bytes are copied. Deliberately absent:
//! multipart uploads. The largest object here is a picture.

mod client;
mod config;
mod error;
mod image_fetcher;
mod listing;
mod presign;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    error::SdkError,
    operation::put_object::{PutObjectError, PutObjectOutput},
    primitives::ByteStream,
    types::ServerSideEncryption,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use echogen_ports::{Backoff, Fault, FaultKind, ObjectKey, ObjectStore, PresignedPut, object_too_large};
use echogen_protocol::ContentHash;
use sha2::{Digest, Sha256};

use client::Clients;
pub use config::{ChecksumCalculation, Encryption, S3Config, UploadChecksum};
use error::{Access, status};
pub use image_fetcher::S3ImageFetcher;

/// The longest pause before a conditional write is retried here; if the store asks for a longer one, the caller gets the
/// error.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The waits between tries of a conditional write.
const CONDITIONAL_WRITE: Backoff = Backoff::doubling(0.05, 3.2);

/// An object store in a bucket.
#[derive(Clone)]
pub struct S3ObjectStore {
    clients: Clients,
    config: S3Config,
}

impl S3ObjectStore {
    /// Checks the settings and finds the access keys. No request is sent to the bucket yet.
    pub async fn open(config: S3Config) -> Result<Self, Fault> {
        config.check_bucket()?;
        let clients = client::connect(&config).await?;
        Ok(Self { clients, config })
    }

    /// The key in the bucket.
    fn name(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.config.prefix)
    }

    fn writing(&self, if_absent: bool) -> Access {
        Access::Write { if_absent, checksum: self.config.upload_checksum == UploadChecksum::Sha256 }
    }

    fn error<E>(&self, access: Access, key: &ObjectKey, error: SdkError<E>) -> Fault
    where
        E: aws_sdk_s3::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        error::port_error(&self.config.bucket, access, &self.name(key), error)
    }

    async fn write(
        &self,
        client: &Client,
        key: &ObjectKey,
        bytes: Bytes,
        only_if_absent: Option<&str>,
    ) -> Result<PutObjectOutput, SdkError<PutObjectError>> {
        let with_checksum = self.config.upload_checksum == UploadChecksum::Sha256;
        // Computed once for the checksum and the signature.
        let sha256 = (with_checksum || self.config.sign_payload).then(|| Sha256::digest(&bytes));
        let request = client
            .put_object()
            .bucket(&self.config.bucket)
            .key(self.name(key))
            .content_type(content_type(key))
            .set_server_side_encryption(self.config.encryption.map(encryption_header))
            .set_ssekms_key_id(self.config.encryption_key.clone())
            .set_if_none_match(only_if_absent.map(str::to_owned))
            .set_checksum_sha256(sha256.filter(|_| with_checksum).map(|sum| BASE64_STANDARD.encode(sum)))
            .body(ByteStream::from(bytes))
            .customize();
        let request = match sha256 {
            Some(sum) if self.config.sign_payload => request.interceptor(client::KnownHash::new(&sum)),
            _ => request.disable_payload_signing(),
        };
        Box::pin(request.send()).await
    }

    /// For stores without conditional writes: of two concurrent writers both can return `true`.
    async fn check_then_put(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        if self.exists(key).await? {
            return Ok(false);
        }
        self.put(key, bytes).await?;
        Ok(true)
    }

    /// Whether the stored object is equal to what we tried to write.
    async fn holds(&self, key: &ObjectKey, bytes: &Bytes) -> Result<bool, Fault> {
        match self.get(key, bytes.len() as u64).await {
            Ok(found) => Ok(found.as_ref() == Some(bytes)),
            // One that is larger than ours is not ours.
            Err(fault) if fault.kind() == FaultKind::TooLarge => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for S3ObjectStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("S3ObjectStore").field(&self.config).finish()
    }
}

#[async_trait]
impl ObjectStore for S3ObjectStore {
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault> {
        match read_object(&self.clients, &self.config.bucket, &self.name(key), max_bytes).await? {
            Fetched::Whole(bytes) => Ok(Some(bytes)),
            Fetched::Absent => Ok(None),
            Fetched::TooLarge(size) => Err(object_too_large(key, size, max_bytes)),
        }
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault> {
        let written = self.write(&self.clients.client, key, bytes, None).await;
        written.map(drop).map_err(|error| self.error(self.writing(false), key, error))
    }

    /// Retries here and not in the library: after a failed attempt that may nevertheless have written the object, "it exists"
    /// can mean that our own write succeeded, and the library's retries do not tell the two cases apart.
    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault> {
        if !self.config.conditional_writes {
            return self.check_then_put(key, bytes).await;
        }
        let mut may_be_ours = false;
        let mut tries = 0;
        loop {
            let error = match self.write(&self.clients.single_try, key, bytes.clone(), Some("*")).await {
                Ok(_) => return Ok(true),
                Err(error) => error,
            };
            if status(&error) == Some(412) {
                return if may_be_ours { self.holds(key, &bytes).await } else { Ok(false) };
            }
            tries += 1;
            // A conflict (409) means that another write is in progress and that ours was not done.
            may_be_ours |= status(&error) != Some(409);
            let error = self.error(self.writing(true), key, error);
            let pause = CONDITIONAL_WRITE.wait_asked(error.retry_after(), tries);
            if error.is_permanent() || tries >= self.config.max_attempts || pause > LONGEST_PAUSE {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault> {
        let request = self.clients.client.head_object().bucket(&self.config.bucket).key(self.name(key));
        match Box::pin(request.send()).await {
            Ok(_) => Ok(true),
            Err(error) if error::is_absent(&error) => Ok(false),
            Err(error) => Err(self.error(Access::Read, key, error)),
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault> {
        let request = self.clients.client.delete_object().bucket(&self.config.bucket).key(self.name(key));
        match Box::pin(request.send()).await {
            Ok(_) => Ok(()),
            // S3 itself reports no such error, other stores do.
            Err(error) if error::is_absent(&error) => Ok(()),
            Err(error) => Err(self.error(Access::Delete, key, error)),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault> {
        listing::list(self, prefix, after, limit).await
    }

    async fn presign_get(&self, key: &ObjectKey, valid: Duration) -> Result<Option<String>, Fault> {
        presign::get(self, key, valid).await.map(Some)
    }

    async fn presign_put(
        &self,
        key: &ObjectKey,
        valid: Duration,
        content_length: u64,
        sha256: &ContentHash,
        content_type: &str,
    ) -> Result<Option<PresignedPut>, Fault> {
        presign::put(self, key, valid, presign::Content { length: content_length, sha256, content_type })
            .await
            .map(Some)
    }
}

/// The outcome of a read.
enum Fetched {
    Whole(Bytes),
    Absent,
    /// Larger than the limit; it has at least this many bytes.
    TooLarge(u64),
}

/// Reads an object whole or not at all. Its length is checked before its body is read.
async fn read_object(clients: &Clients, bucket: &str, name: &str, max_bytes: u64) -> Result<Fetched, Fault> {
    let request = clients.client.get_object().bucket(bucket).key(name);
    let answer = match Box::pin(request.send()).await {
        Ok(answer) => answer,
        Err(error) if error::is_absent(&error) => return Ok(Fetched::Absent),
        Err(error) => return Err(error::port_error(bucket, Access::Read, name, error)),
    };
    let size = answer.content_length.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
    if size > max_bytes {
        return Ok(Fetched::TooLarge(size));
    }
    let cannot = |why: &str| Fault::unavailable(format!("cannot read s3://{bucket}/{name}: {why}"));
    match tokio::time::timeout(clients.operation_timeout, read_bounded(answer.body, size, max_bytes)).await {
        Ok(Ok(Some(bytes))) => Ok(Fetched::Whole(bytes)),
        Ok(Ok(None)) => Ok(Fetched::TooLarge(max_bytes.saturating_add(1))),
        Ok(Err(error)) => Err(cannot("the connection broke").because(error)),
        Err(_) => Err(cannot("the object did not come in time")),
    }
}

/// Reads a body of about `size` bytes; `None` if it exceeds the limit. A body that arrives in one piece is not copied.
async fn read_bounded(
    mut body: ByteStream,
    size: u64,
    max_bytes: u64,
) -> Result<Option<Bytes>, aws_sdk_s3::primitives::ByteStreamError> {
    let Some(first) = body.try_next().await? else { return Ok(Some(Bytes::new())) };
    if first.len() as u64 == size {
        return Ok(Some(first));
    }
    let mut all = BytesMut::with_capacity(usize::try_from(size).unwrap_or(0));
    let mut next = Some(first);
    while let Some(piece) = next {
        if (all.len() + piece.len()) as u64 > max_bytes {
            return Ok(None);
        }
        all.extend_from_slice(&piece);
        next = body.try_next().await?;
    }
    Ok(Some(all.freeze()))
}

fn encryption_header(encryption: Encryption) -> ServerSideEncryption {
    match encryption {
        Encryption::Aes256 => ServerSideEncryption::Aes256,
        Encryption::AwsKms => ServerSideEncryption::AwsKms,
    }
}

/// The content type of an object, for browsers.
fn content_type(key: &ObjectKey) -> &'static str {
    match key.as_str().rsplit_once('.').map(|(_, extension)| extension) {
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("webp") => "image/webp",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}
