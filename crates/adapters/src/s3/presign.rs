//! Addresses by which anybody can read or write one object for a while.
//!
//! They name the public endpoint, if there is one, and are made without asking the server.

use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_ports::{Fault, ObjectKey, PresignedPut};
use echogen_protocol::ContentHash;

use super::{Access, S3ObjectStore, encryption_header};

/// The longest that S3 lets a presigned address live.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// What may be written to a presigned address.
pub(super) struct Content<'a> {
    pub(super) length: u64,
    pub(super) sha256: &'a ContentHash,
    pub(super) content_type: &'a str,
}

/// An address for reading, for a week at most.
pub(super) async fn get(store: &S3ObjectStore, key: &ObjectKey, valid: Duration) -> Result<String, Fault> {
    let request = store.clients.public.get_object().bucket(&store.config.bucket).key(store.name(key));
    let signed = request.presigned(settings(valid)?).await.map_err(|error| store.error(Access::Read, key, error))?;
    Ok(signed.uri().to_owned())
}

/// A request for writing, for a week at most. Length, hash and type are headers that the signature covers, so a client can
/// send no others. The hash is sent whatever `store.upload_checksum` says: it is what binds the address to the bytes.
pub(super) async fn put(
    store: &S3ObjectStore,
    key: &ObjectKey,
    valid: Duration,
    content: Content<'_>,
) -> Result<PresignedPut, Fault> {
    let too_large = |_| Fault::too_large(format!("{} bytes are more than an object may have", content.length));
    let request = store
        .clients
        .public
        .put_object()
        .bucket(&store.config.bucket)
        .key(store.name(key))
        .content_type(content.content_type)
        .content_length(i64::try_from(content.length).map_err(too_large)?)
        .checksum_sha256(BASE64_STANDARD.encode(content.sha256.as_bytes()))
        .set_server_side_encryption(store.config.encryption.map(encryption_header))
        .set_ssekms_key_id(store.config.encryption_key.clone());
    let signed = request.presigned(settings(valid)?).await;
    let signed = signed.map_err(|error| store.error(store.writing(false), key, error))?;
    let headers = signed.headers().filter(|(name, _)| !name.eq_ignore_ascii_case("host"));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Ok(PresignedPut { url: signed.uri().to_owned(), headers })
}

fn settings(valid: Duration) -> Result<PresigningConfig, Fault> {
    PresigningConfig::expires_in(valid.clamp(Duration::from_secs(1), LONGEST))
        .map_err(|error| Fault::internal("the time of a presigned address is out of range").because(error))
}
