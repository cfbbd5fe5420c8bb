//! Finds misspelt architecture parameters in a manifest's `config` table.
//!
//! A table may hold published parameters that no network here reads, so a name that is unknown is no error by itself. One that
//! is nearly the name of a parameter that the table lacks is: the network would take that parameter's default.

use serde::de::{DeserializeOwned, Deserializer, Visitor, value::Error};
use serde::forward_to_deserialize_any;

/// Returns the first name in `table` that `T` does not have and that is nearly one of `T`'s parameters which `table` lacks,
/// with that parameter.
pub(super) fn misspelt<T: DeserializeOwned>(table: &toml::Table) -> Option<(&str, &'static str)> {
    let known = parameters_of::<T>();
    let lacking = || known.iter().filter(|known| !table.contains_key(**known));
    let unknown = table.keys().filter(|name| !known.contains(&name.as_str()));
    unknown
        .flat_map(|name| lacking().map(move |known| (name.as_str(), *known)))
        .find(|(name, known)| nearly(name, known))
}

/// Short names differ in little anyway: `d_kv` and `d_ff` are two letters apart.
fn nearly(name: &str, known: &str) -> bool {
    strsim::damerau_levenshtein(name, known) <= if known.len() < 8 { 1 } else { 2 }
}

/// Returns the names of `T`'s fields, as its `Deserialize` announces them; none if it is no struct.
fn parameters_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Fails always: what is wanted is known before a value is.
    drop(T::deserialize(Announced(&mut names)));
    names
}

/// Notes the fields that are asked for, and has no value for them.
struct Announced<'n>(&'n mut &'static [&'static str]);

fn no_value() -> Error {
    serde::de::Error::custom("only the names are read")
}

impl<'de> Deserializer<'de> for Announced<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(no_value())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(no_value())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
