//! Settings that are written as text and parsed into a type of their own, for `#[serde(with)]`.

use std::{fmt::Display, str::FromStr};

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Parses a value by its [`FromStr`].
pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Serialises a value by its `Display`; only defaults are serialised.
pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Reads the address of a server that gets no user or password from it. One that contains them must not get as far as into a
/// configuration, which is shown.
pub(super) fn without_credentials<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let address = Option::<String>::deserialize(deserializer)?;
    if address.as_ref().is_some_and(|address| address.contains('@')) {
        return Err(D::Error::custom("contains an @; write it without user and password"));
    }
    Ok(address)
}

/// The same functions for a setting without a default.
pub(super) mod optional {
    use super::*;

    /// Parses a value by its [`FromStr`], or returns none.
    pub(in super::super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }

    /// Serialises a value by its `Display`, or as null.
    pub(in super::super) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }
}
