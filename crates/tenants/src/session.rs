//! The console's sessions: a sealed cookie, so that gateways keep no list of them.
//!
//! `v1.` and base64url of 16 random bytes and a sealed text: the key's id, the tenant, and when the session began and ends.
//! Key and nonce of the seal (ChaCha20-Poly1305) are derived from the sealing secret and the random bytes by HKDF-SHA-256, so
//! each is used once. A session ends with its time, or when its key is gone from the tenants or has ended.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use echogen_ports::{Fault, Secret};
use echogen_protocol::json::{self, Bounds};
use jiff::Timestamp;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};

use crate::{Authenticated, KeyId, TenantName, Tenants};

/// The format's name in front of a cookie's value.
const VERSION: &str = "v1.";
/// Separates this use of the secret from any other, and is authenticated with each text.
const LABEL: &[u8] = b"echogen session v1";
/// Random bytes of each cookie.
const SALT_BYTES: usize = 16;
/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// The fewest characters of a secret.
const MIN_SECRET_CHARS: usize = 32;
/// Longer values are not even decoded. Those that are sealed here have about 250.
const MAX_CHARS: usize = 1_024;

/// Seals and opens sessions with one secret.
#[derive(Clone, Debug)]
pub struct Sessions {
    secret: Secret,
    random: SystemRandom,
}

/// A session that is valid now.
#[derive(Clone, Debug)]
pub struct OpenedSession {
    /// Whose key opened it.
    pub caller: Authenticated,
    /// When it began.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
}

/// What is sealed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Content {
    key: String,
    tenant: TenantName,
    issued: i64,
    expires: i64,
}

/// The length of what is derived, as the library wants it.
struct Derived;

impl KeyType for Derived {
    fn len(&self) -> usize {
        KEY_BYTES + NONCE_LEN
    }
}

impl Sessions {
    /// Sessions that are sealed with this secret. All gateways of an installation have the same, and it outlives them.
    pub fn new(secret: &Secret) -> Result<Self, Fault> {
        let length = secret.expose().chars().count();
        if length < MIN_SECRET_CHARS {
            let advice = "as `openssl rand -base64 32` gives";
            let message =
                format!("the sealing secret has {length} characters; write at least {MIN_SECRET_CHARS}, {advice}");
            return Err(Fault::refused(message));
        }
        Ok(Self { secret: secret.clone(), random: SystemRandom::new() })
    }

    /// Seals a session into a cookie's value.
    pub fn seal(
        &self,
        key: &KeyId,
        tenant: &TenantName,
        issued: Timestamp,
        expires: Timestamp,
    ) -> Result<String, Fault> {
        let content = Content {
            key: key.to_string(),
            tenant: tenant.clone(),
            issued: issued.as_second(),
            expires: expires.as_second(),
        };
        let text = serde_json::to_vec(&content)
            .map_err(|error| Fault::internal("a session cannot be written as JSON").because(error))?;
        let sealed = self.seal_bytes(text).map_err(|_| Fault::internal("a session cannot be sealed"))?;
        Ok(format!("{VERSION}{}", BASE64_URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Opens a cookie's value. `None`: it was not sealed here, the session has ended, or its key is not the tenant's any more.
    pub fn open(&self, value: &str, tenants: &Tenants, now: Timestamp) -> Option<OpenedSession> {
        let content = self.content(value)?;
        let (issued, expires) =
            (Timestamp::from_second(content.issued).ok()?, Timestamp::from_second(content.expires).ok()?);
        if expires <= now {
            return None;
        }
        let caller = tenants.find(&content.key.parse().ok()?, now)?;
        // An id may have been given to another tenant's key since.
        (caller.name == content.tenant).then_some(OpenedSession { caller, issued, expires })
    }

    fn content(&self, value: &str) -> Option<Content> {
        if value.len() > MAX_CHARS {
            return None;
        }
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(value.strip_prefix(VERSION)?).ok()?;
        let (salt, sealed) = sealed.split_at_checked(SALT_BYTES)?;
        let (key, nonce) = self.derive(salt).ok()?;
        let mut sealed = sealed.to_vec();
        let text = key.open_in_place(nonce, Aad::from(LABEL), &mut sealed).ok()?;
        json::read(text, &Bounds::MESSAGE).ok()
    }

    fn seal_bytes(&self, mut text: Vec<u8>) -> Result<Vec<u8>, Unspecified> {
        let mut sealed = vec![0; SALT_BYTES];
        self.random.fill(&mut sealed)?;
        let (key, nonce) = self.derive(&sealed)?;
        key.seal_in_place_append_tag(nonce, Aad::from(LABEL), &mut text)?;
        sealed.append(&mut text);
        Ok(sealed)
    }

    fn derive(&self, salt: &[u8]) -> Result<(LessSafeKey, Nonce), Unspecified> {
        let mut derived = [0; KEY_BYTES + NONCE_LEN];
        let secret = Salt::new(HKDF_SHA256, salt).extract(self.secret.expose().as_bytes());
        secret.expand(&[LABEL], Derived)?.fill(&mut derived)?;
        let (key, nonce) = derived.split_at(KEY_BYTES);
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key)?);
        Ok((key, Nonce::try_assume_unique_for_key(nonce)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Key;

    struct Bench {
        sessions: Sessions,
        tenants: Tenants,
        key: Key,
        name: TenantName,
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn bench() -> Bench {
        let (key, name): (_, TenantName) = (Key::generate().unwrap(), "acme".parse().unwrap());
        let sessions = Sessions::new(&"0123456789abcdef0123456789abcdef".into()).unwrap();
        Bench { sessions, tenants: Tenants::single(name.clone(), &key), key, name }
    }

    impl Bench {
        fn seal(&self) -> String {
            self.sessions.seal(self.key.id(), &self.name, at(100), at(200)).unwrap()
        }

        fn opens(&self, value: &str) -> bool {
            self.sessions.open(value, &self.tenants, at(150)).is_some()
        }
    }

    #[test]
    fn a_session_is_opened_until_it_ends() {
        let bench = bench();
        let value = bench.seal();
        let session = bench.sessions.open(&value, &bench.tenants, at(199)).unwrap();
        assert_eq!((session.issued, session.expires), (at(100), at(200)));
        assert_eq!((&session.caller.name, &session.caller.key.id), (&bench.name, bench.key.id()));
        assert!(bench.sessions.open(&value, &bench.tenants, at(200)).is_none());
        assert_ne!(value, bench.seal(), "no two are alike");
        assert!(value.len() < 300, "{}", value.len());
    }

    #[test]
    fn a_session_ends_with_its_key() {
        let bench = bench();
        let value = bench.seal();
        let others = Tenants::single(bench.name.clone(), &Key::generate().unwrap());
        assert!(bench.sessions.open(&value, &others, at(150)).is_none(), "the key is gone");
        let moved = Tenants::single("other".parse().unwrap(), &bench.key);
        assert!(bench.sessions.open(&value, &moved, at(150)).is_none(), "the key is another tenant's");
    }

    #[test]
    fn a_session_that_was_tampered_with_is_none() {
        let bench = bench();
        let value = bench.seal();
        assert!(bench.opens(&value));
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(&value[VERSION.len()..]).unwrap();
        for at in 0..sealed.len() {
            for flip in [1, 0x80, 0xff] {
                let mut sealed = sealed.clone();
                sealed[at] ^= flip;
                assert!(!bench.opens(&format!("{VERSION}{}", BASE64_URL_SAFE_NO_PAD.encode(sealed))), "byte {at}");
            }
            assert!(!bench.opens(&format!("{VERSION}{}", BASE64_URL_SAFE_NO_PAD.encode(&sealed[..at]))), "cut at {at}");
        }
        for at in 0..value.len() {
            let mut bytes = value.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(!bench.opens(std::str::from_utf8(&bytes).unwrap()), "character {at}");
        }
        for wrong in ["", "v1.", "v2.", &value[3..], &format!("v2.{}", &value[3..]), &format!("{value}A")] {
            assert!(!bench.opens(wrong), "{wrong}");
        }
    }

    #[test]
    fn another_secret_opens_nothing_and_a_short_one_is_refused() {
        let bench = bench();
        let other = Sessions::new(&"0123456789abcdef0123456789abcdeF".into()).unwrap();
        assert!(other.open(&bench.seal(), &bench.tenants, at(150)).is_none());
        for short in ["", "hunter2", &"x".repeat(31)] {
            let error = Sessions::new(&short.into()).unwrap_err().to_string();
            assert!(error.contains("write at least 32") && !error.contains("hunter2"), "{error}");
        }
        assert!(!format!("{:?}", bench.sessions).contains("0123456789"));
    }

    proptest! {
        #[test]
        fn whatever_is_sealed_is_opened(tenant in "[a-z0-9-]{1,63}", issued in 0..4_000_000_000_i64, life in 1..10_000_000_i64) {
            let Bench { sessions, key, .. } = bench();
            let name: TenantName = tenant.parse().unwrap();
            let tenants = Tenants::single(name.clone(), &key);
            let value = sessions.seal(key.id(), &name, at(issued), at(issued + life)).unwrap();
            let opened = sessions.open(&value, &tenants, at(issued)).unwrap();
            prop_assert_eq!((opened.caller.name, opened.expires), (name, at(issued + life)));
            prop_assert!(sessions.open(&value, &tenants, at(issued + life)).is_none());
        }

        #[test]
        fn what_was_never_sealed_is_none(value in "(v1\\.)?[A-Za-z0-9_-]{0,300}", junk in ".*") {
            let bench = bench();
            prop_assert!(!bench.opens(&value) && !bench.opens(&junk));
        }
    }
}
