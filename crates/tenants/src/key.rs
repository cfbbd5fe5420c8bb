//! Keys: `eg_`, 8 characters that are the key's public id, `_`, and 32 random bytes in base64url.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use echogen_ports::{Fault, Secret};
use echogen_protocol::{ContentHash, text::quoted};
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use subtle::ConstantTimeEq;

use crate::Scope;

/// What every key begins with, so that scanners for leaked keys find it.
pub(crate) const PREFIX: &str = "eg_";
/// Characters of the id.
const ID_CHARS: usize = 8;
/// Characters of 32 bytes in base64url.
const SECRET_CHARS: usize = 43;
/// Characters of a key.
const KEY_CHARS: usize = PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS;

/// The public id of a key: 8 letters and digits. It is in logs, lists and sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct KeyId(String);

/// The text is not the id of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no id of a key; use 8 letters and digits")]
pub struct ParseKeyIdError(String);

impl KeyId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = ParseKeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != ID_CHARS || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            // Somebody may have given the whole key.
            return Err(ParseKeyIdError(if is_like_a_key(text) { "a whole key".to_owned() } else { quoted(text) }));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Whether a text begins as a key does: it is not shown.
pub(crate) fn is_like_a_key(text: &str) -> bool {
    text.trim().starts_with(PREFIX)
}

/// A whole key, which only its holder has.
#[derive(Clone, Debug)]
pub struct Key {
    id: KeyId,
    text: Secret,
}

impl Key {
    /// A new key from the operating system's random numbers.
    pub fn generate() -> Result<Self, Fault> {
        let random = SystemRandom::new();
        let mut secret = [0; 32];
        fill(&random, &mut secret)?;
        let id = KeyId(random_id(&random)?);
        let text = Secret::from(format!("{PREFIX}{id}_{}", BASE64_URL_SAFE_NO_PAD.encode(secret)));
        Ok(Self { id, text })
    }

    /// Reads a key. `None`: it has not the form of one. The text is not shown anywhere.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != KEY_CHARS || !text.is_ascii() {
            return None;
        }
        let (id, secret) = text.strip_prefix(PREFIX)?.split_at(ID_CHARS);
        let secret = BASE64_URL_SAFE_NO_PAD.decode(secret.strip_prefix('_')?).ok()?;
        if secret.len() != 32 {
            return None;
        }
        Some(Self { id: id.parse().ok()?, text: Secret::from(text) })
    }

    /// Its public id.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The key itself, for the one who is to have it.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// SHA-256 of the whole key: what is kept of it.
    pub fn sha256(&self) -> ContentHash {
        ContentHash::of(self.text.expose().as_bytes())
    }
}

fn fill(random: &SystemRandom, bytes: &mut [u8]) -> Result<(), Fault> {
    random.fill(bytes).map_err(|_| Fault::internal("the operating system gives no random numbers"))
}

/// Letters and digits, all equally likely.
fn random_id(random: &SystemRandom) -> Result<String, Fault> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    /// The greatest multiple of the alphabet's length in a byte: what is above it would favour the first letters.
    const EVEN: u8 = 248;
    let mut id = String::with_capacity(ID_CHARS);
    while id.len() < ID_CHARS {
        let mut byte = [0];
        fill(random, &mut byte)?;
        if byte[0] < EVEN {
            id.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(id)
}

/// What is known of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// Its public id.
    pub id: KeyId,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// When it ends. `None`: never.
    pub expires: Option<Timestamp>,
    sha256: ContentHash,
}

impl KeyEntry {
    /// The entry of a key with this SHA-256.
    pub fn new(id: KeyId, sha256: ContentHash, scopes: Vec<Scope>, expires: Option<Timestamp>) -> Self {
        Self { id, scopes, expires, sha256 }
    }

    /// Whether it has ended.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether this is the key, in a time that does not depend on where they differ.
    pub(crate) fn is_of(&self, key: &Key) -> bool {
        self.sha256.as_bytes().ct_eq(key.sha256().as_bytes()).into()
    }
}

impl fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, scopes, expires, .. } = self;
        let mut entry = f.debug_struct("KeyEntry");
        entry.field("id", id).field("scopes", scopes).field("expires", expires).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_read_and_is_not_shown() {
        let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
        assert_ne!(key.expose(), other.expose());
        let read = Key::parse(key.expose()).unwrap();
        assert_eq!((read.id(), read.sha256()), (key.id(), key.sha256()));
        let entry = KeyEntry::new(key.id().clone(), key.sha256(), vec![Scope::Jobs], None);
        assert!(entry.is_of(&key) && !entry.is_of(&other));
        let secret = &key.expose()[12..];
        for shown in [format!("{key:?}"), format!("{entry:?}")] {
            assert!(!shown.contains(secret) && !shown.contains(&key.sha256().to_string()), "{shown}");
        }
    }

    #[test]
    fn what_is_no_key_is_none() {
        let key = Key::generate().unwrap();
        let key = key.expose();
        for bad in [
            "",
            "eg_",
            &key[1..],
            &format!("{key}A"),
            &key.replacen("eg_", "sk_", 1),
            &format!("{}{}", &key[..54], "!"),
            &format!("{}-{}", &key[..11], &key[12..]),
            &format!("eg_{}_{}", "ABCDEF-H", &key[12..]),
            &"ä".repeat(28)[..],
            &format!(" {key}"),
        ] {
            assert!(Key::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_whole_key_in_place_of_its_id_is_not_shown() {
        let key = Key::generate().unwrap();
        let error = key.expose().parse::<KeyId>().unwrap_err().to_string();
        assert_eq!(error, "a whole key is no id of a key; use 8 letters and digits");
        assert!("".parse::<KeyId>().is_err() && "a-------".parse::<KeyId>().is_err());
    }
}
