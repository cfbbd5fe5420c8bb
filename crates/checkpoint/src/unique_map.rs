//! A JSON object that rejects repeated keys, where serde would keep the last value.
//!
//! The key `__metadata__`, which safetensors reserves for free text, is skipped.

use echogen_protocol::text::quoted;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A map parsed from a JSON object without repeated keys.
pub(crate) struct UniqueMap<T>(pub(crate) BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for UniqueMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
    type Value = UniqueMap<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object without repeated keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            if key == "__metadata__" {
                access.next_value::<IgnoredAny>()?;
                continue;
            }
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the name {} is given twice", quoted(&key))));
            }
            map.insert(key, access.next_value()?);
        }
        Ok(UniqueMap(map))
    }
}
