//! The secret that a tenant's callbacks are signed with.

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_ports::Secret;
use ring::hmac;

use crate::TenantName;

/// Separates this use of the installation's secret from any other.
const LABEL: &str = "echogen callback secret v1 ";

/// Derives a tenant's secret from the installation's, in the form that Standard Webhooks prescribe: `whsec_` and 32 bytes in
/// base64. Nobody can derive the installation's or another tenant's from it. `None` if the installation has none.
pub fn callback_secret(root: &Secret, tenant: &TenantName) -> Option<Secret> {
    if root.is_empty() {
        return None;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, root.expose().as_bytes());
    let tag = hmac::sign(&key, format!("{LABEL}{tenant}").as_bytes());
    Some(format!("whsec_{}", BASE64_STANDARD.encode(tag)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value was computed apart from this code, with Python's `hmac`.
    #[test]
    fn each_tenant_has_its_own() {
        let root = Secret::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let of = |name: &str| callback_secret(&root, &name.parse().unwrap()).unwrap();
        assert_eq!(of("acme").expose(), "whsec_USIFTYFjp1s1AoWnaWurvsm7HZXXM8oVsB13ROKss00=");
        assert_ne!(of("acme"), of("acme-2"));
        assert_ne!(of("acme"), callback_secret(&Secret::from("other"), &"acme".parse().unwrap()).unwrap());
        assert!(callback_secret(&Secret::default(), &"acme".parse().unwrap()).is_none());
    }
}
