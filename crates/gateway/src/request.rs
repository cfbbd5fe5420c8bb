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
    json::read(bytes, &Bounds::MESSAGE).map_err(|error| match error {
        JsonError::Invalid(_) if json::read::<IgnoredAny>(bytes, &Bounds::MESSAGE).is_ok() => {
            Problem::field("", error.to_string())
        }
        JsonError::Invalid(_) => Problem::new(Kind::BadRequest, format!("this is not valid JSON: {error}")),
        other => Problem::new(Kind::BadRequest, other.to_string()),
    })
}
