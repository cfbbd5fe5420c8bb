//! The secrets that a tenant's callbacks are signed with.

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::Secret;

/// Separates this use of the installation's secret from any other.
const LABEL: &str = "echogen callback secret v1 ";

/// Derives a tenant's secrets from those of the installation, one from each [part](Secret::parts), in the form that Standard
/// Webhooks prescribe: `whsec_` and 32 bytes in base64. Nobody can derive the installation's or another tenant's from them.
pub fn callback_secrets_of(installation: &Secret, tenant: &str) -> Vec<Secret> {
    installation.parts().filter_map(|part| derive(part, tenant)).collect()
}

/// HMAC takes keys of any length: it is never `None`.
fn derive(secret: &str, tenant: &str) -> Option<Secret> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(LABEL.as_bytes());
    mac.update(tenant.as_bytes());
    Some(format!("whsec_{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value was computed apart from this code, with Python's `hmac`.
    #[test]
    fn each_tenant_has_its_own() {
        let one = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let of = |installation: &str, tenant| callback_secrets_of(&Secret::from(installation), tenant);
        let acme = of(one, "acme");
        assert_eq!(acme[0].expose(), "whsec_USIFTYFjp1s1AoWnaWurvsm7HZXXM8oVsB13ROKss00=");
        assert_ne!(acme, of(one, "acme-2"));
        assert_ne!(acme, of("other", "acme"));
        assert!(of("", "acme").is_empty());
    }

    #[test]
    fn during_a_rotation_there_are_two() {
        let of = |installation: &str| callback_secrets_of(&Secret::from(installation), "acme");
        assert_eq!(of("old, new"), [of("old"), of("new")].concat());
    }
}
