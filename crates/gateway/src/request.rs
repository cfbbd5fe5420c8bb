//! Reading of JSON bodies other than jobs.

use echogen_protocol::json::{self, Bounds, JsonError};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::problem::{Kind, Problem};

/// Reads a small JSON body.
///
/// # Errors
///
/// It is no JSON, or a field is missing, unknown or wrong; the detail says which.
pub(crate) fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let read = json::read(bytes, &Bounds::MESSAGE);
    // Fields would also be read from an array, by their order.
    if bytes.trim_ascii_start().first() == Some(&b'[') && read.is_ok() {
        return Err(Problem::field("", "is an array; send an object"));
    }
    read.map_err(|error| match error {
        JsonError::Invalid(_) if json::read::<IgnoredAny>(bytes, &Bounds::MESSAGE).is_ok() => {
            Problem::field("", error.to_string())
        }
        JsonError::Invalid(_) => Problem::new(Kind::BadRequest, format!("this is not valid JSON: {error}")),
        other => Problem::new(Kind::BadRequest, other.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Pair {
        #[expect(dead_code, reason = "only read")]
        a: Option<u8>,
    }

    #[test]
    fn only_an_object_has_fields() {
        assert!(parsed::<Pair>(b" {\"a\": null}").is_ok() && parsed::<Pair>(b"{}").is_ok());
        for wrong in [&b"[null]"[..], b" \n[1]", b"null", b"1", b"[", b""] {
            assert!(parsed::<Pair>(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
