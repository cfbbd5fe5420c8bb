//! What a jobs file is that is none: the forms in which editors, shells, spreadsheets and programs write their files.

use serde::de::IgnoredAny;

/// The first bytes of files that are no lines of UTF-8, and what they are.
const OTHER_FILES: &[(&[u8], &str)] = &[
    (b"\xff\xfe", "it is in UTF-16; save the file as UTF-8"),
    (b"\xfe\xff", "it is in UTF-16; save the file as UTF-8"),
    (b"\0", "it is in UTF-16 or UTF-32, or no text; save the file as UTF-8"),
    (b"{\0", "it is in UTF-16 or UTF-32; save the file as UTF-8"),
    (b"\x1f\x8b", "it is compressed with gzip; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it first"),
    (b"\xfd7zXZ", "it is compressed with xz; unpack it first"),
    (b"BZh", "it is compressed with bzip2; unpack it first"),
    (b"PK\x03\x04", "it is a zip archive or a spreadsheet; write one JSON object on each line of a text file"),
    (b"\xd0\xcf\x11\xe0", "it is a spreadsheet or document; write one JSON object on each line of a text file"),
    (b"SQLite format 3", "it is a database; write one JSON object on each line of a text file"),
    (b"PAR1", "it is a Parquet file; write one JSON object on each line of a text file"),
    (b"%PDF", "it is a PDF; write one JSON object on each line of a text file"),
    (b"{\\rtf", "it is rich text; save the file as plain text"),
];

/// Quotation marks of typesetting, which editors and word processors put in the place of `"`.
const TYPOGRAPHIC: &str = "\u{201c}\u{201d}\u{201e}\u{201f}\u{2018}\u{2019}\u{201a}\u{ab}\u{bb}\u{ff02}";

/// Returns what the file is whose first line this is, if it is no file of lines.
pub(super) fn other_file(first_line: &[u8]) -> Option<&'static str> {
    OTHER_FILES.iter().find(|(start, _)| first_line.starts_with(start)).map(|(_, what)| *what)
}

/// Returns what is wrong with the form of a line that was refused; `None` if it is one JSON object, or nothing better is
/// known than the parser's message. Continues a sentence: "the line ...".
pub(crate) fn wrong_form(line: &[u8]) -> Option<String> {
    let line = line.trim_ascii();
    if line.contains(&0) {
        return Some("has NUL bytes: it is in UTF-16, or damaged; save the file as UTF-8".to_owned());
    }
    let Ok(text) = std::str::from_utf8(line) else {
        return Some("is not in UTF-8; save the file as UTF-8".to_owned());
    };
    let error = serde_json::from_str::<IgnoredAny>(text).err();
    if text.starts_with('{') && error.is_none() {
        return None;
    }
    if let Some(what) = by_start(text) {
        return Some(what.to_owned());
    }
    if let Some(c) = odd_character(text) {
        return Some(match TYPOGRAPHIC.contains(c) {
            true => "has typographic quotation marks; write \"".to_owned(),
            false => format!("has the character U+{:04X} outside of any text; take it out", u32::from(c)),
        });
    }
    by_error(text, &error?).map(str::to_owned)
}

/// What the first characters say of a line that is no JSON object.
fn by_start(text: &str) -> Option<&'static str> {
    let list = "is part of a JSON list; write one object on each line: `jq -c '.[]' FILE` does";
    let second = text.get(1..).unwrap_or_default().trim_start();
    match text.chars().next()? {
        '[' | ']' => Some(list),
        '}' | ',' | ':' => Some("is part of an object; write each job on one line: `jq -c . FILE` does"),
        '#' | ';' => Some("is a comment; a jobs file has none, take it out"),
        '/' if text.starts_with("//") || text.starts_with("/*") => {
            Some("is a comment; a jobs file has none, take it out")
        }
        '<' => Some("is XML or HTML; write one JSON object on each line"),
        '{' if second.starts_with('\'') => Some("has single quotation marks; write \""),
        '{' => None,
        '"' if text.starts_with("\"{") => {
            Some("is an object in quotation marks, as spreadsheets write it; write the object alone")
        }
        '"' if text.ends_with([':', '{', '[']) || text.contains("\":") => {
            Some("is part of an object; write each job on one line: `jq -c . FILE` does")
        }
        _ if TYPOGRAPHIC.contains(text.chars().next()?) => None,
        _ if text.contains([',', ';', '\t']) => Some(
            "is no JSON object, but CSV or the like; write {\"subject\": {\"image\": ...}, \"prompt\": ...} on each line",
        ),
        _ => Some("is no JSON object; write {\"subject\": {\"image\": ...}, \"prompt\": ...} on each line"),
    }
}

/// What the parser's error says of a line that begins an object.
fn by_error(text: &str, error: &serde_json::Error) -> Option<&'static str> {
    if error.is_eof() {
        return Some("ends within its object; write each job on one line: `jq -c . FILE` does");
    }
    let end = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut values = end;
    let rest = values.next()?.ok().and_then(|_| text.get(values.byte_offset()..))?.trim_start();
    match rest.chars().next()? {
        ',' if rest.trim_end() == "," => Some("ends with a comma; take it out: each job is on a line of its own"),
        '{' | ',' => Some("has more than one job; write each on a line of its own"),
        '#' | '/' => Some("ends with a comment; a jobs file has none, take it out"),
        ']' => Some("is part of a JSON list; write one object on each line: `jq -c '.[]' FILE` does"),
        _ => Some("goes on after its object; take out what follows it"),
    }
}

/// Returns the first character outside of the texts of a line that is not ASCII.
fn odd_character(text: &str) -> Option<char> {
    let (mut in_text, mut is_escaped) = (false, false);
    text.chars().find(|c| {
        match (in_text, *c) {
            (true, _) if is_escaped => is_escaped = false,
            (true, '\\') => is_escaped = true,
            (_, '"') => in_text = !in_text,
            (false, c) => return !c.is_ascii(),
            (true, _) => {}
        }
        false
    })
}
