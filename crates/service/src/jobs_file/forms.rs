//! Jobs files as editors, shells, spreadsheets and programs write them, each with what becomes of its lines. The tests of
//! `batch` and of `submit --batch` walk through them.

/// A job with the default fields; `{}` is its picture.
const JOB: &str = r#"{"subject": {"image": "data:,PICTURE"}, "prompt": "a dog"}"#;

/// One form of a file.
pub(crate) struct FileForm {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// What becomes of it.
    pub(crate) becomes: Becomes,
}

/// What becomes of a file.
pub(crate) enum Becomes {
    /// The numbers of the lines that are jobs, and those of the lines that are refused, each with a word of the reason.
    Lines(Vec<u64>, Vec<(u64, &'static str)>),
    /// It is refused as a whole, by this word.
    Refused(&'static str),
}

fn job(number: u64) -> String {
    JOB.replace("PICTURE", &number.to_string())
}

/// All forms.
pub(crate) fn all() -> Vec<FileForm> {
    [good(), of_other_forms(), of_lines()].into_iter().flatten().collect()
}

fn lines(name: &'static str, bytes: impl Into<Vec<u8>>, jobs: &[u64], refused: &[(u64, &'static str)]) -> FileForm {
    FileForm { name, bytes: bytes.into(), becomes: Becomes::Lines(jobs.to_vec(), refused.to_vec()) }
}

/// Files of which every line is read.
fn good() -> Vec<FileForm> {
    let (one, two) = (job(1), job(2));
    let mark = "\u{feff}";
    vec![
        lines("line feeds", format!("{one}\n{two}\n"), &[1, 2], &[]),
        lines("no line feed at the end", format!("{one}\n{two}"), &[1, 2], &[]),
        lines("Windows", format!("{one}\r\n{two}\r\n"), &[1, 2], &[]),
        lines("carriage returns", format!("{one}\r{two}\r"), &[1, 2], &[]),
        lines("a byte order mark", format!("{mark}{one}\n{two}\n"), &[1, 2], &[]),
        lines("a mark and Windows", format!("{mark}{one}\r\n{two}\r\n"), &[1, 2], &[]),
        lines("joined files with marks", format!("{mark}{one}\n{mark}{two}\n"), &[1, 2], &[]),
        lines("empty lines", format!("\n\n{one}\n  \t\n\r\n{two}\n\n"), &[3, 6], &[]),
        lines("a mark alone", format!("{mark}\n{one}\n"), &[2], &[]),
        lines("indented", format!("  {one}  \n\t{two}\t\n"), &[1, 2], &[]),
        lines("empty", "", &[], &[]),
    ]
}

/// Files that are no lines of UTF-8.
fn of_other_forms() -> Vec<FileForm> {
    let text = format!("{}\n{}\n", job(1), job(2));
    let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    let marked = |mark: &[u8], rest: Vec<u8>| [mark, &rest].concat();
    let utf_32 = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<u8>>();
    let form = |name, bytes, word| FileForm { name, bytes, becomes: Becomes::Refused(word) };
    vec![
        form("UTF-16, little-endian", marked(b"\xff\xfe", wide(u16::to_le_bytes)), "UTF-16"),
        form("UTF-16, big-endian", marked(b"\xfe\xff", wide(u16::to_be_bytes)), "UTF-16"),
        form("UTF-16, little-endian, no mark", wide(u16::to_le_bytes), "UTF-16"),
        form("UTF-16, big-endian, no mark", wide(u16::to_be_bytes), "UTF-16"),
        form("UTF-32", marked(b"\xff\xfe\0\0", utf_32), "UTF-8"),
        form("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\n\x56\x2a".to_vec(), "gzip"),
        form("gzip without a line feed", marked(b"\x1f\x8b\x08", vec![7; 9 << 20]), "gzip"),
        form("zstd", b"\x28\xb5\x2f\xfd\x04\x58\n".to_vec(), "zstd"),
        form("xz", b"\xfd7zXZ\0\0\x04\n".to_vec(), "xz"),
        form("bzip2", b"BZh91AY&SY\n".to_vec(), "bzip2"),
        form("a spreadsheet", b"PK\x03\x04\x14\0\n".to_vec(), "spreadsheet"),
        form("rich text", b"{\\rtf1\\ansi\n".to_vec(), "rich text"),
    ]
}

/// Files of which some lines are refused.
fn of_lines() -> Vec<FileForm> {
    let (one, two) = (job(1), job(2));
    let long = format!("{}\n{two}\n", "x".repeat(echogen_protocol::limits::MAX_JOB_JSON_BYTES + 1));
    let pretty = "{\n  \"subject\": {\n    \"image\": \"a.png\"\n  },\n  \"prompt\": \"a dog\"\n}\n";
    // In Latin-1 the byte 0xf6 is an o with two dots.
    let latin = format!("{}\n", one.replace("a dog", "a d?g"));
    let latin: Vec<u8> = latin.bytes().map(|byte| if byte == b'?' { 0xf6 } else { byte }).collect();
    let typographic = one.replace('"', "\u{201d}").replacen('\u{201d}', "\u{201c}", 1);
    let list = |text: &str| format!("{text}\n{one},\n{two}\n]\n");
    let dangling = one.replace("\"a dog\"}", "\"a dog\",}");
    vec![
        lines("commas at the ends", format!("{one},\n{two}\n"), &[2], &[(1, "ends with a comma")]),
        lines("a comma within", format!("{dangling}\n{two}\n"), &[2], &[(1, "trailing comma at column")]),
        lines("a JSON list on lines", list("["), &[3], &[(1, "JSON list"), (2, "comma"), (4, "JSON list")]),
        lines("a JSON list on one line", format!("[{one},{two}]\n"), &[], &[(1, "JSON list")]),
        lines(
            "an object over many lines",
            pretty,
            &[],
            &[
                (1, "on one line"),
                (2, "on one line"),
                (3, "on one line"),
                (4, "on one line"),
                (5, "on one line"),
                (6, "on one line"),
            ],
        ),
        lines("cut off", format!("{one}\n{}", &two[..30]), &[1], &[(2, "ends within its object")]),
        lines(
            "two jobs on a line",
            format!("{one}{two}\n{one} {two}\n"),
            &[],
            &[(1, "more than one"), (2, "more than one")],
        ),
        lines("typographic quotation marks", format!("{typographic}\n{two}\n"), &[2], &[(1, "typographic")]),
        lines("single quotation marks", format!("{}\n", one.replace('"', "'")), &[], &[(1, "single quotation marks")]),
        lines("no-break spaces", format!("{}\n", one.replace(": ", ":\u{a0}")), &[], &[(1, "U+00A0")]),
        lines("CSV", format!("image,prompt\n\"a.png\",\"a dog\"\n{two}\n"), &[3], &[(1, "CSV"), (2, "CSV")]),
        lines("CSV of objects", format!("\"{}\"\n", one.replace('"', "\"\"")), &[], &[(1, "spreadsheets")]),
        lines(
            "comments",
            format!("# jobs\n// jobs\n{two} // one\n{one}\n"),
            &[4],
            &[(1, "comment"), (2, "comment"), (3, "comment")],
        ),
        lines("a NUL byte", format!("{one}\n{{\"a\0\": 1}}\n{two}\n"), &[1, 3], &[(2, "NUL")]),
        lines("a NUL byte at the end", format!("{one}\n\0"), &[1], &[(2, "NUL")]),
        lines("Latin-1", [&latin[..], two.as_bytes()].concat(), &[2], &[(1, "UTF-8")]),
        lines("a line too long", long, &[2], &[(1, "longer than a job may be")]),
        lines(
            "no objects",
            format!("null\n7\ntrue\n\"a\"\n{one}\n"),
            &[5],
            &[(1, "no JSON object"), (2, "no JSON object"), (3, "no JSON object"), (4, "no JSON object")],
        ),
        lines("HTML", "<!doctype html>\n", &[], &[(1, "HTML")]),
        lines(
            "a field twice",
            format!("{}\n", one.replace("\"prompt\"", "\"prompt\": \"b\", \"prompt\"")),
            &[],
            &[(1, "duplicate")],
        ),
        lines("a wrong field", format!("{}\n", one.replace("prompt", "promt")), &[], &[(1, "did you mean")]),
    ]
}

/// Checks the message for a file that is refused as a whole.
#[track_caller]
pub(crate) fn check_refusal(name: &str, word: &str, message: &str) {
    assert!(message.contains(word) && message.contains("line 1"), "{name}: {message:?} lacks {word:?} or its line");
    check_sentence(name, message);
}

/// Checks the messages for the lines that are refused.
#[track_caller]
pub(crate) fn check_errors(name: &str, expected: &[(u64, &str)], found: &[(u64, String)]) {
    let numbers = |line: &(u64, String)| line.0;
    assert_eq!(
        found.iter().map(numbers).collect::<Vec<_>>(),
        expected.iter().map(|line| line.0).collect::<Vec<_>>(),
        "{name}: {found:?}"
    );
    for ((line, word), (_, message)) in expected.iter().zip(found) {
        assert!(message.contains(word), "{name}, line {line}: {message:?} lacks {word:?}");
        check_sentence(name, message);
    }
}

#[track_caller]
fn check_sentence(name: &str, message: &str) {
    assert!(!message.contains(char::is_control) && message.chars().count() < 400, "{name}: {message:?}");
}
