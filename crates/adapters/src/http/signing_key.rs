//! The keys that callbacks and questions to the content gate are signed with, as Standard Webhooks specify
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use std::str::FromStr;

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_ports::{Fault, Secret};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// The keys of a setting called `name`: while several are given, receivers can change from one to another at any time.
pub(super) fn signing_keys(name: &str, secret: Option<&Secret>) -> Result<Vec<SigningKey>, Fault> {
    let Some(secret) = secret else { return Ok(Vec::new()) };
    secret.parts().map(|text| text.parse().map_err(|why| Fault::refused(format!("{name} {why}")))).collect()
}

/// The headers of a message, signed with every key.
pub(super) fn signed_headers(keys: &[SigningKey], id: &str, timestamp: u64, body: &[u8]) -> Result<HeaderMap, Fault> {
    let bad = |error| Fault::internal("the message's id does not fit into a header").because(error);
    let mut headers = HeaderMap::new();
    headers.insert(ID, HeaderValue::from_str(id).map_err(bad)?);
    headers.insert(TIMESTAMP, timestamp.into());
    let signatures = keys.iter().map(|key| key.sign(id, timestamp, body));
    let signatures = signatures.collect::<Result<Vec<_>, _>>()?.join(" ");
    if !signatures.is_empty() {
        headers.insert(SIGNATURE, HeaderValue::from_str(&signatures).map_err(bad)?);
    }
    Ok(headers)
}

/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";

/// Bytes of a secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A key that is shared with the receivers, written as `whsec_` and 24 to 64 bytes in base64.
#[derive(Clone, Debug)]
pub(super) struct SigningKey(SecretSlice<u8>);

impl FromStr for SigningKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The error never contains the text itself.
        let fault = "is no signing secret; write whsec_ and 24 to 64 random bytes in base64, as `openssl rand -base64 32` gives";
        let bytes = text.strip_prefix(SECRET_PREFIX).and_then(|bytes| BASE64_STANDARD.decode(bytes).ok());
        let bytes = bytes.filter(|bytes| SECRET_BYTES.contains(&bytes.len()));
        bytes.map(|bytes| Self(bytes.into())).ok_or_else(|| fault.to_owned())
    }
}

impl SigningKey {
    /// The signature of a message, as written in the header.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> Result<String, Fault> {
        let made = Hmac::<Sha256>::new_from_slice(self.0.expose_secret());
        let mut mac = made.map_err(|error| Fault::refused("the secret is of no use").because(error))?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        Ok(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The values were computed apart from this code, with Python's `hmac`.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret: SigningKey = SECRET.parse().unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#).unwrap();
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_bad_secret_is_refused_without_being_shown() {
        for bad in
            ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_AAAA", "whsec_!fKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
        {
            let error = bad.parse::<SigningKey>().unwrap_err();
            assert!(error.contains("openssl rand -base64 32"), "{error}");
            assert!(bad.len() < 10 || !error.contains(bad));
        }
        let long = format!("whsec_{}", BASE64_STANDARD.encode([7; 65]));
        assert!(long.parse::<SigningKey>().is_err());
        assert!(!format!("{:?}", SECRET.parse::<SigningKey>()).contains("MfKQ"));
    }
}
