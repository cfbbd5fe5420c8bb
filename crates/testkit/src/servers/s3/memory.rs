//! A storage that keeps objects in memory: for measuring, so that a disk and the digests of files are not what is
//! measured. Only what EchoGen asks of a store is there; anything else is answered as not implemented.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use s3s::{
    Body, S3, S3Request, S3Response, S3Result,
    checksum::ChecksumHasher,
    dto::{
        self, DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput, HeadObjectInput,
        HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput, StreamingBlob,
        Timestamp,
    },
    s3_error,
};

/// The objects of one bucket.
#[derive(Default)]
pub(super) struct MemoryStorage {
    bucket: String,
    objects: Mutex<HashMap<String, Object>>,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    content_type: Option<String>,
    sha256: Option<String>,
    written: Timestamp,
}

impl MemoryStorage {
    pub(super) fn with_bucket(bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), objects: Mutex::default() }
    }

    fn find(&self, bucket: &str, key: &str) -> S3Result<Object> {
        self.check_bucket(bucket)?;
        self.lock().get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if bucket == self.bucket { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object {
    fn size(&self) -> i64 {
        i64::try_from(self.bytes.len()).unwrap_or(i64::MAX)
    }
}

#[async_trait::async_trait]
impl S3 for MemoryStorage {
    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let PutObjectInput { bucket, key, body, content_type, checksum_sha256, if_none_match, .. } = request.input;
        self.check_bucket(&bucket)?;
        let bytes = match body {
            Some(body) => whole(body).await?,
            None => Bytes::new(),
        };
        if checksum_sha256.is_some() && checksum_sha256 != sha256(&bytes) {
            return Err(s3_error!(BadDigest));
        }
        let object = Object { bytes, content_type, sha256: checksum_sha256, written: SystemTime::now().into() };
        let mut objects = self.lock();
        if if_none_match.is_some() && objects.contains_key(&key) {
            return Err(s3_error!(PreconditionFailed));
        }
        objects.insert(key, object);
        Ok(S3Response::new(PutObjectOutput::default()))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let object = self.find(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(object.size()),
            body: Some(StreamingBlob::from(Body::from(object.bytes))),
            content_type: object.content_type,
            checksum_sha256: object.sha256,
            last_modified: Some(object.written),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let object = self.find(&request.input.bucket, &request.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(object.size()),
            content_type: object.content_type,
            checksum_sha256: object.sha256,
            last_modified: Some(object.written),
            ..HeadObjectOutput::default()
        }))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        self.lock().remove(&request.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let ListObjectsV2Input { bucket, prefix, start_after, continuation_token, max_keys, .. } = request.input;
        self.check_bucket(&bucket)?;
        let prefix = prefix.unwrap_or_default();
        let after = continuation_token.or(start_after).unwrap_or_default();
        let wanted = usize::try_from(max_keys.unwrap_or(1_000)).unwrap_or(0);
        let mut keys: Vec<String> =
            self.lock().keys().filter(|key| key.starts_with(&prefix) && **key > after).cloned().collect();
        keys.sort_unstable();
        let is_truncated = keys.len() > wanted;
        keys.truncate(wanted);
        Ok(S3Response::new(ListObjectsV2Output {
            next_continuation_token: keys.last().filter(|_| is_truncated).cloned(),
            is_truncated: Some(is_truncated),
            contents: Some(keys.into_iter().map(|key| dto::Object { key: Some(key), ..Default::default() }).collect()),
            ..ListObjectsV2Output::default()
        }))
    }
}

/// The body in one piece; one that comes so is not copied.
async fn whole(mut body: StreamingBlob) -> S3Result<Bytes> {
    let broken = |_| s3_error!(IncompleteBody);
    let first = body.try_next().await.map_err(broken)?.unwrap_or_default();
    let Some(second) = body.try_next().await.map_err(broken)? else { return Ok(first) };
    let mut all = BytesMut::from(first);
    all.extend_from_slice(&second);
    while let Some(piece) = body.try_next().await.map_err(broken)? {
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

fn sha256(bytes: &[u8]) -> Option<String> {
    let mut sums = ChecksumHasher { sha256: Some(Default::default()), ..ChecksumHasher::default() };
    sums.update(bytes);
    sums.finalize().checksum_sha256
}
