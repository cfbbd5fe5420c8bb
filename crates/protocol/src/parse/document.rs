//! A client's JSON in memory, read in one pass that also records duplicate fields.

use std::{collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::join;
use crate::limits;

/// A JSON document.
pub(super) struct Document {
    pub(super) value: Value,
    /// The paths of duplicate fields; the last one of each is kept.
    pub(super) repeated: HashSet<String>,
}

impl Document {
    pub(super) fn parse(json: &[u8]) -> serde_json::Result<Self> {
        let (mut path, mut repeated) = (String::new(), HashSet::new());
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let value = Node { path: &mut path, repeated: &mut repeated }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(Self { value, repeated })
    }
}

/// One value of the document.
struct Node<'a> {
    /// Its path.
    path: &'a mut String,
    repeated: &'a mut HashSet<String>,
}

impl Node<'_> {
    /// The value at `path`, below this one.
    fn below(&mut self, path: String) -> (Node<'_>, String) {
        let own = std::mem::replace(self.path, path);
        (Node { path: self.path, repeated: self.repeated }, own)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, list.len());
            let (item, own) = self.below(path);
            let item = items.next_element_seed(item)?;
            *self.path = own;
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = join(self.path, &name);
            let (value, own) = self.below(path);
            let value = fields.next_value_seed(value)?;
            let path = std::mem::replace(self.path, own);
            if map.insert(name, value).is_some() {
                self.repeated.insert(path);
            }
            // Each path may be as long as all names above it.
            if self.repeated.len() > limits::MAX_REPEATED_FIELDS {
                return Err(A::Error::custom("too many fields are given twice"));
            }
        }
        Ok(Value::Object(map))
    }
}
