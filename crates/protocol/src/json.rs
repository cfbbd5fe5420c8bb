//! The one reader of JSON that comes from outside: messages, results, lines of jobs files, tables of contents.
//!
//! A few bytes of JSON can become hundreds in memory: `{"":{"":` costs a map for every five bytes. So before anything
//! is built, one pass over the bytes adds up what every list, object and value will take, and refuses a document whose
//! structure takes more than [`Bounds`] allow. The pass allocates nothing and reads each byte once. Text is not counted:
//! it takes as many bytes in memory as in the document.

use serde::de::DeserializeOwned;

use crate::{JobError, limits, text::one_line};

/// What a document may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the document.
    pub bytes: usize,
    /// Levels of lists and objects within each other.
    pub depth: usize,
    /// Bytes of memory that the structure of any document may take, however short it is.
    pub spare: usize,
    /// Bytes of memory that the structure may take in addition for each byte of the document.
    pub per_byte: usize,
}

impl Bounds {
    /// Of messages, results and lines of jobs files, all of which contain little but text. The structure of a result of 64
    /// pictures takes about 100 kB.
    pub const MESSAGE: Self = Self {
        bytes: limits::MAX_TASK_JSON_BYTES,
        depth: limits::MAX_JSON_DEPTH,
        spare: limits::MAX_JSON_STRUCTURE_BYTES,
        per_byte: 2,
    };

    /// Of tables of contents, whose names and numbers are read into types of their own and never into a tree.
    pub const fn table(bytes: usize) -> Self {
        Self { bytes, depth: limits::MAX_JSON_DEPTH, spare: limits::MAX_JSON_STRUCTURE_BYTES, per_byte: 48 }
    }
}

/// Why a document was not read. Each message is one short line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It has more bytes than allowed.
    #[error("it has {size} bytes; the limit is {limit}")]
    TooLong {
        /// Its bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Its lists and objects nest too deeply.
    #[error("its lists and objects nest deeper than {0} levels")]
    TooDeep(usize),
    /// It has too many values for its length.
    #[error("it has more values than any such document has")]
    TooManyValues,
    /// It is not valid JSON, or a field is missing or wrong.
    #[error("{0}")]
    Invalid(String),
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self::Invalid(one_line(&error.to_string()))
    }
}

impl From<JsonError> for JobError {
    fn from(error: JsonError) -> Self {
        Self::new("", error.to_string())
    }
}

/// Reads a document within bounds. A byte order mark at its beginning is skipped.
///
/// # Errors
/// The document exceeds a bound, is not valid JSON, or is not a `T`.
pub fn read<T: DeserializeOwned>(json: &[u8], bounds: &Bounds) -> Result<T, JsonError> {
    let json = without_mark(json);
    check(json, bounds)?;
    Ok(serde_json::from_slice(json)?)
}

/// Returns the document without the byte order mark that some editors put before it.
pub fn without_mark(json: &[u8]) -> &[u8] {
    json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json)
}

/// Checks that a document is within bounds. It need not be valid JSON.
///
/// # Errors
/// The document exceeds a bound.
pub fn check(json: &[u8], bounds: &Bounds) -> Result<(), JsonError> {
    if json.len() > bounds.bytes {
        return Err(JsonError::TooLong { size: json.len(), limit: bounds.bytes });
    }
    let allowed = json.len().saturating_mul(bounds.per_byte).saturating_add(bounds.spare);
    let (mut taken, mut depth, mut rest) = (0_usize, 0_usize, json);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        taken = taken.saturating_add(cost(*byte));
        match byte {
            b'"' => rest = after_text(rest),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > bounds.depth {
            return Err(JsonError::TooDeep(bounds.depth));
        }
        if taken > allowed {
            return Err(JsonError::TooManyValues);
        }
    }
    Ok(())
}

/// Bytes of memory that a byte outside of text stands for. A map is a B-tree of nodes with eleven places of 24 bytes for the
/// name and 32 for the value; a list has room for four values at first and doubles.
const fn cost(byte: u8) -> usize {
    match byte {
        b'{' => 640,
        b'[' => 128,
        // A further member of an object, in a node that is half full.
        b':' => 112,
        // A further value of a list that has just been enlarged, or the next member of an object.
        b',' => 64,
        // An allocation of its own.
        b'"' => 16,
        _ => 0,
    }
}

/// Returns what follows a text whose opening quotation mark has been read.
fn after_text(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let is_end = rest.get(at) == Some(&b'"');
        rest = rest.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
        if is_end {
            return rest;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn nested(open: &str, close: &str, levels: usize) -> String {
        format!("{}0{}", open.repeat(levels), close.repeat(levels))
    }

    #[test]
    fn structure_is_bounded_whatever_it_is_made_of() {
        let most = limits::MAX_JOB_JSON_BYTES;
        let deep =
            |open: &str, close: &str| format!("[{}0]", format!("{},", nested(open, close, 24)).repeat(most / 200));
        let flat = |unit: &str| format!("[{}0]", unit.repeat(most / unit.len() - 1));
        for (json, name) in [
            (deep(r#"{"":"#, "}"), "maps in maps"),
            (deep("[", "]"), "lists in lists"),
            (flat("0,"), "numbers"),
            (flat("[],"), "empty lists"),
            (flat("{},"), "empty maps"),
            (flat(r#"{"":0},"#), "maps of one"),
            (flat("\"\","), "empty texts"),
            (format!("{{{}\"\":0}}", (0..most / 12).map(|n| format!("\"{n:x}\":0,")).collect::<String>()), "members"),
            (format!(r#"{{"id":[{}0]}}"#, r#"{"":0},"#.repeat(most / 8)), "an id"),
        ] {
            assert_eq!(check(json.as_bytes(), &Bounds::MESSAGE), Err(JsonError::TooManyValues), "{name}");
        }
    }

    #[test]
    fn depth_is_bounded_and_text_does_not_count() {
        let most = Bounds::MESSAGE.depth;
        assert!(read::<Value>(nested("[", "]", most).as_bytes(), &Bounds::MESSAGE).is_ok());
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deep = nested(open, close, most + 1);
            assert_eq!(check(deep.as_bytes(), &Bounds::MESSAGE), Err(JsonError::TooDeep(most)));
        }
        let text = format!("{{\"a\":\"{}\\\"[[[[\"}}", "[{,:".repeat(1 << 20));
        assert_eq!(check(text.as_bytes(), &Bounds::MESSAGE), Ok(()));
        assert_eq!(check(b"\"\\", &Bounds::MESSAGE), Ok(()));
        assert_eq!(check(b"]]]]\"", &Bounds::MESSAGE), Ok(()));
    }

    #[test]
    fn an_error_is_one_short_line() {
        let long = format!("{{\"A\\n{}\":1}}", "\u{202e}".repeat(1 << 20));
        let error = read::<crate::ReplyTo>(long.as_bytes(), &Bounds::MESSAGE).unwrap_err().to_string();
        assert!(error.contains("missing field `queue`"), "{error}");
        let error = read::<crate::JobStatus>(format!("\"{}\"", "A\\n".repeat(1 << 20)).as_bytes(), &Bounds::MESSAGE);
        let error = error.unwrap_err().to_string();
        assert!(error.chars().count() <= crate::text::MAX_LINE_CHARS && !error.contains('\n'), "{error}");
        assert!(error.contains("expected one of `completed`"), "{error}");
    }
}
