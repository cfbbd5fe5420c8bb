//! The rules for keys in the object store; a job's destination is the beginning of one.

use crate::{limits, text::quoted};

/// The text cannot be an object key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// Checks an object key: parts of letters, digits, `.`, `_`, `-`, joined by `/`. No part is empty or begins with a dot,
/// so a key never contains `..`, is never absolute, and never equals a store's temporary file.
pub fn check_object_key(key: &str) -> Result<(), KeyError> {
    if key.len() > limits::MAX_KEY_BYTES {
        return Err(KeyError(format!("has {} bytes; the limit is {}", key.len(), limits::MAX_KEY_BYTES)));
    }
    key.split('/').try_for_each(|part| check_part(key, part))
}

fn check_part(key: &str, part: &str) -> Result<(), KeyError> {
    let shown = || quoted(key);
    if part.is_empty() {
        return Err(KeyError(format!("{} has an empty part; no leading, trailing or double \"/\"", shown())));
    }
    if part.starts_with('.') {
        return Err(KeyError(format!(
            "{} has a part that begins with a dot; start it with a letter or digit",
            shown()
        )));
    }
    if part.len() > limits::MAX_KEY_PART_BYTES {
        let limit = limits::MAX_KEY_PART_BYTES;
        return Err(KeyError(format!("{} has a part of {} bytes; the limit is {limit}", shown(), part.len())));
    }
    if let Some(bad) = part.chars().find(|&c| !is_key_char(c)) {
        return Err(KeyError(format!(
            "{} contains {bad:?}; use letters, digits, \".\", \"_\", \"-\" and \"/\"",
            shown()
        )));
    }
    Ok(())
}

/// Whether a key, an id or a tenant's name may contain `c`.
pub(crate) fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_keys_pass() {
        for key in ["a", "results/job-1/0.png", "a_b-c.d/E9"] {
            assert_eq!(check_object_key(key), Ok(()), "{key}");
        }
    }

    #[test]
    fn climbing_rooted_and_odd_keys_are_refused() {
        let long_part = "x".repeat(limits::MAX_KEY_PART_BYTES + 1);
        let long_key = "abc/".repeat(limits::MAX_KEY_BYTES / 4) + "abcd";
        for key in
            ["", "/a", "a/", "a//b", "..", "a/../b", "a/.b", ".", "a b", "a\\b", "a\0", "ä", &long_part, &long_key]
        {
            assert!(check_object_key(key).is_err(), "{key:?}");
        }
    }
}
