//! Durable bytes under keys.

use async_trait::async_trait;
use bytes::Bytes;
use echogen_protocol::{ContentHash, Job, KeyError, check_object_key};

use crate::Fault;

/// A key in the object store: parts of letters, digits, `.`, `_`, `-`, joined by `/`; no part is empty or begins with
/// a dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a key; see [`check_object_key`] for the rules.
    pub fn new(key: impl Into<String>) -> Result<Self, KeyError> {
        let key = key.into();
        check_object_key(&key)?;
        Ok(Self(key))
    }

    /// The key below this one: `self/part`; `part` may itself have parts.
    pub fn join(&self, part: &str) -> Result<Self, KeyError> {
        Self::new(format!("{}/{part}", self.0))
    }

    /// The key of bytes under their own hash: `<kind>/<two digits>/<hash>`. The two digits keep folders small.
    pub fn of_content(kind: &str, hash: &ContentHash) -> Result<Self, KeyError> {
        let hash = hash.to_string();
        Self::new(format!("{kind}/{}/{hash}", &hash[..2]))
    }

    /// The key of a job's `result.json`.
    pub fn of_result(job: &Job) -> Result<Self, KeyError> {
        Self::new(job.result_key())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(key: &str) -> Result<Self, KeyError> {
        Self::new(key)
    }
}

/// Durable storage of whole objects.
///
/// A key must not be a proper prefix of another (`a` and `a/b`): a directory cannot hold both.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Returns the object, or `None` if there is none. An object over `max_bytes` is a permanent error.
    async fn get(&self, key: &ObjectKey, max_bytes: u64) -> Result<Option<Bytes>, Fault>;

    /// Stores the object, replacing an existing one. Durable when it returns; a reader sees the whole object or none.
    /// Idempotent.
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), Fault>;

    /// Stores the object only if the key is free; returns whether it did. Of many simultaneous callers exactly one
    /// succeeds. After an error it may have been stored nevertheless: the caller calls again.
    async fn put_if_absent(&self, key: &ObjectKey, bytes: Bytes) -> Result<bool, Fault>;

    /// Returns whether the object exists.
    async fn exists(&self, key: &ObjectKey) -> Result<bool, Fault>;

    /// Removes the object if it exists. Idempotent.
    async fn delete(&self, key: &ObjectKey) -> Result<(), Fault>;
}

/// The error of an object over the limit, the same from every store.
pub fn object_too_large(key: &ObjectKey, size: u64, max_bytes: u64) -> Fault {
    Fault::too_large(format!("the object {key} has {size} bytes; the limit is {max_bytes}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_and_joined() {
        let key = ObjectKey::new("results/one").unwrap();
        assert_eq!(key.join("0.png").unwrap().as_str(), "results/one/0.png");
        for part in ["..", "/etc", "", "a//b"] {
            assert!(key.join(part).is_err(), "{part}");
        }
    }

    #[test]
    fn content_stands_under_its_hash() {
        let hash = ContentHash::of(b"dog");
        let key = ObjectKey::of_content("images", &hash).unwrap();
        assert_eq!(key.as_str(), format!("images/{}/{hash}", &hash.to_string()[..2]));
    }
}
