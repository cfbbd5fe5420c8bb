//! Durable bytes under keys.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_protocol::{ContentHash, Job, KeyError, check_object_key, text::quoted};

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

/// Keys are ordered as their texts are.
impl std::borrow::Borrow<str> for ObjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
pub trait ObjectStore: Send + Sync + fmt::Debug {
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

    /// Returns the keys below `prefix`, in the order of their bytes and strictly after `after`, at most `limit` of them:
    /// fewer only if there are no more. The prefix is a folder with its `/`, or empty for all keys; see
    /// [`check_list_prefix`]. An object is listed as soon as its write has returned, and no longer once its deletion has.
    async fn list(&self, prefix: &str, after: Option<&ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Fault>;

    /// Returns an address with which anybody can read the object for the time `valid`, or `None` if the store has no such
    /// addresses. Whether the object exists is not checked.
    async fn presign_get(&self, key: &ObjectKey, valid: Duration) -> Result<Option<String>, Fault> {
        let (_, _) = (key, valid);
        Ok(None)
    }

    /// Returns a request with which anybody can write exactly these bytes to the key for the time `valid`, or `None` if
    /// the store has no such requests. Not every server verifies the hash, so whoever uses the object verifies it again.
    async fn presign_put(
        &self,
        key: &ObjectKey,
        valid: Duration,
        content_length: u64,
        sha256: &ContentHash,
        content_type: &str,
    ) -> Result<Option<PresignedPut>, Fault> {
        let (_, _, _, _, _) = (key, valid, content_length, sha256, content_type);
        Ok(None)
    }
}

/// A `PUT` that needs no keys.
#[derive(Clone, PartialEq, Eq)]
pub struct PresignedPut {
    /// The signed address: whoever has it can write.
    pub url: String,
    /// The headers that belong to the signature and so must be sent as they are, by their names in lower case. `host` is
    /// not among them.
    pub headers: BTreeMap<String, String>,
}

impl fmt::Debug for PresignedPut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresignedPut").field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// Checks a prefix of [`ObjectStore::list`]: empty, or a key with a `/` behind it.
pub fn check_list_prefix(prefix: &str) -> Result<(), Fault> {
    if prefix.is_empty() || prefix.strip_suffix('/').is_some_and(|folder| check_object_key(folder).is_ok()) {
        return Ok(());
    }
    Err(Fault::internal(format!("{} is no folder of keys; it needs the form a/b/", quoted(prefix))))
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
    fn a_prefix_is_a_folder() {
        for good in ["", "a/", "records/acme/"] {
            check_list_prefix(good).unwrap();
        }
        for bad in ["a", "/", "a//", "/a/", "../", "a/.b/", "a b/"] {
            assert!(check_list_prefix(bad).unwrap_err().is_permanent(), "{bad}");
        }
    }

    #[test]
    fn a_signed_address_is_not_shown() {
        let put = PresignedPut { url: "https://s3/a?X-Amz-Signature=abc".into(), headers: BTreeMap::default() };
        assert!(!format!("{put:?}").contains("Signature"));
    }

    #[test]
    fn content_stands_under_its_hash() {
        let hash = ContentHash::of(b"dog");
        let key = ObjectKey::of_content("images", &hash).unwrap();
        assert_eq!(key.as_str(), format!("images/{}/{hash}", &hash.to_string()[..2]));
    }
}
