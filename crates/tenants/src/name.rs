//! Names of tenants.

use std::{borrow::Cow, fmt, str::FromStr};

use echogen_protocol::text::quoted;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Most characters of a name: as many as a part of a host name has.
const MAX_CHARS: usize = 63;

/// A tenant's name: 1 to 63 of `a` to `z`, `0` to `9` and `-`. It contains no dot, so `TENANT.ID` has one reading.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(String);

/// The text is not a tenant's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no tenant's name; use 1 to 63 lower-case letters, digits and -")]
pub struct ParseTenantNameError(String);

impl TenantName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantName {
    type Err = ParseTenantNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if !(1..=MAX_CHARS).contains(&text.len()) || !text.bytes().all(is_allowed) {
            return Err(ParseTenantNameError(quoted(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for TenantName {
    type Error = ParseTenantNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TenantName> for String {
    fn from(name: TenantName) -> Self {
        name.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl JsonSchema for TenantName {
    fn schema_name() -> Cow<'static, str> {
        "TenantName".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9-]{1,63}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parts_of_host_names() {
        for good in ["acme", "a", "0", "-", "team-7", &"x".repeat(63)] {
            assert_eq!(good.parse::<TenantName>().unwrap().to_string(), good);
        }
        for bad in ["", "Acme", "a.b", "a_b", "a/b", "..", "ä", "a b", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<TenantName>().unwrap_err().to_string().contains("is no tenant's name"), "{bad}");
        }
    }
}
