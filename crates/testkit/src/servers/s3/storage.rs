//! The storage of the private S3: `s3s-fs`, with three gaps closed.
//!
//! It takes objects into buckets that do not exist: here that is an error. Its conditional write looks first and writes then, so two writers at once could both win: here conditional writes
//! of one key come one after the other, as S3 promises. And it cannot keep keys whose encoded name is longer than a
//! file's name may be: here those lie under a short name.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use s3s::{
    S3, S3Request, S3Response, S3Result,
    dto::{
        DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
        HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput,
    },
};
use s3s_fs::FileSystem;

/// Longest key that the file system takes as it is: its name there is a third longer and has some more around it.
const LONGEST_KEY: usize = 120;

pub(super) struct Storage {
    files: FileSystem,
    root: PathBuf,
    /// One lock for each key that is being written conditionally.
    writing: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Storage {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let files = FileSystem::new(root).map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(Self { files, root: root.to_owned(), writing: Mutex::default() })
    }

    fn check_bucket(&self, bucket: &str) -> S3Result<()> {
        if self.root.join(bucket).is_dir() { Ok(()) } else { Err(s3s::s3_error!(NoSuchBucket)) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that is too long is cut, with its content's number at the end.
fn short(key: &mut String) {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    if key.len() > LONGEST_KEY {
        let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(&*key);
        let mut cut = LONGEST_KEY / 2;
        while !key.is_char_boundary(cut) {
            cut -= 1;
        }
        key.truncate(cut);
        key.push_str(&format!(".{number:016x}"));
    }
}

#[async_trait::async_trait]
impl S3 for Storage {
    async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        short(&mut request.input.key);
        if request.input.if_none_match.is_none() {
            return self.files.put_object(request).await;
        }
        let key = format!("{}/{}", request.input.bucket, request.input.key);
        let turn = Arc::clone(self.lock().entry(key.clone()).or_default());
        let done = {
            let _mine = turn.lock().await;
            self.files.put_object(request).await
        };
        drop(turn);
        let mut writing = self.lock();
        // Only the map's own reference is left; none is taken without the lock.
        if writing.get(&key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            writing.remove(&key);
        }
        done
    }

    async fn get_object(&self, mut request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        short(&mut request.input.key);
        self.files.get_object(request).await
    }

    async fn head_object(&self, mut request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        short(&mut request.input.key);
        self.files.head_object(request).await
    }

    async fn delete_object(
        &self,
        mut request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        short(&mut request.input.key);
        self.files.delete_object(request).await
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.files.list_objects_v2(request).await
    }
}
