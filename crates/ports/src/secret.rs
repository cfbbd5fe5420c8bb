//! Secrets of the configuration: passwords, keys, and addresses that contain one.

use std::{borrow::Cow, convert::Infallible, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is neither printed nor serialised, and is erased from memory when it is dropped.
///
/// White space around it is removed: a secret that is mounted as a file ends with a newline. Debug and Serialize show
/// only whether it is set, so a configuration can be shown whole.
#[derive(Clone, Default)]
pub struct Secret(SecretString);

impl Secret {
    /// What Debug and Serialize show in place of a text.
    const SET: &'static str = "(set)";

    /// What they show in place of an empty one.
    const EMPTY: &'static str = "(empty)";

    /// The text unchanged, with white space around it: a part of an address, in which white space is encoded.
    pub fn verbatim(text: String) -> Self {
        Self(text.into())
    }

    /// The text itself. Every use of this method must not let it reach a log or a message.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The secrets of a setting that may hold several, separated by commas or lines: during a rotation the old and the new one.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.expose().split([',', '\n']).map(str::trim).filter(|text| !text.is_empty())
    }

    /// Whether there is no text. An empty secret counts as not given.
    pub fn is_empty(&self) -> bool {
        self.expose().is_empty()
    }

    /// What is shown of it.
    fn shown(&self) -> &'static str {
        if self.is_empty() { Self::EMPTY } else { Self::SET }
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.trim().into())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        let is_trimmed = text.trim().len() == text.len();
        // The owned text becomes the secret, so that no copy of it stays behind in memory.
        let whole = SecretString::from(text);
        if is_trimmed { Self(whole) } else { Self(whole.expose_secret().trim().into()) }
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl PartialEq for Secret {
    /// Compares configurations. Not for checking a received secret: the comparison does not take constant time.
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Secret {
    /// Writes whether it is set, never the text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error of a wrong type would quote the value.
        let text = String::deserialize(deserializer);
        text.map(Self::from).map_err(|_| serde::de::Error::custom("a secret is a text in quotation marks"))
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "password", "writeOnly": true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_as_set_and_never_as_its_text() {
        let secret = Secret::from("hunter2");
        assert_eq!((format!("{secret:?}"), secret.expose()), ("(set)".to_owned(), "hunter2"));
        assert_eq!(serde_json::to_string(&Some(secret)).unwrap(), r#""(set)""#);
        assert_eq!(format!("{:?}", Secret::default()), "(empty)");
    }

    #[test]
    fn white_space_around_it_is_removed() {
        for text in ["hunter2", "hunter2\n", " \thunter2\r\n"] {
            let quoted = serde_json::to_string(text).unwrap();
            for secret in [Secret::from(text), Secret::from(text.to_owned()), text.parse().unwrap()] {
                assert_eq!(secret.expose(), "hunter2", "{text:?}");
            }
            assert_eq!(serde_json::from_str::<Secret>(&quoted).unwrap().expose(), "hunter2");
        }
        assert_eq!(Secret::from("two words").expose(), "two words");
        assert!(Secret::from(" \n").is_empty());
    }

    #[test]
    fn a_wrong_type_is_refused_without_being_quoted() {
        for json in ["417417", "[417417]", r#"{"a":417417}"#, "true"] {
            let error = serde_json::from_str::<Secret>(json).unwrap_err().to_string();
            assert!(error.contains("in quotation marks") && !error.contains("417417"), "{error}");
        }
    }
}
