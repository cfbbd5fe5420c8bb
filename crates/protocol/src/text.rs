//! Text from outside, as messages and logs show it: escaped, on one line, of bounded length.
//!
//! Every message that quotes a field, a name or an error of a library goes through one of these functions. Control
//! characters, line breaks, bidirectional controls and other characters that cannot be seen are written as escapes.

/// Characters of a quoted text that are shown.
const QUOTED_CHARS: usize = 60;

/// Greatest number of characters that [`one_line`] returns.
pub const MAX_LINE_CHARS: usize = 600;

/// Characters shown of the beginning and of the end of a line that is too long.
const HEAD_CHARS: usize = 400;
const TAIL_CHARS: usize = 150;

/// Quotes a text: in quotation marks, escaped, and cut after 60 characters.
pub fn quoted(text: &str) -> String {
    if text.chars().nth(QUOTED_CHARS).is_none() {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(QUOTED_CHARS).collect();
    format!("{head:?}... ({} characters)", text.chars().count())
}

/// Returns a message on one line of at most [`MAX_LINE_CHARS`] characters. Of a longer one the beginning and the end are
/// kept: libraries put the place of an error at the end. Applying it twice changes nothing.
pub fn one_line(text: &str) -> String {
    let mut whole = Line::default();
    if text.chars().all(|c| whole.push(c, MAX_LINE_CHARS)) {
        return whole.text;
    }
    let mut head = Line::default();
    let first = text.chars().take_while(|c| head.push(*c, HEAD_CHARS)).count();
    let mut backwards = Line::default();
    let last: Vec<char> = text.chars().rev().take_while(|c| backwards.push(*c, TAIL_CHARS)).collect();
    let mut tail = Line::default();
    let all = last.iter().rev().all(|c| tail.push(*c, TAIL_CHARS));
    debug_assert!(all, "what fits backwards fits forwards");
    let left_out = text.chars().count().saturating_sub(first + last.len());
    format!("{} ... ({left_out} characters) ... {}", head.text, tail.text)
}

/// A line that is being written.
#[derive(Default)]
struct Line {
    text: String,
    chars: usize,
}

impl Line {
    /// Appends a character, escaped if it cannot be seen, unless the line would be longer than `limit`.
    fn push(&mut self, c: char, limit: usize) -> bool {
        // Quotation marks and backslashes are shown as they are, although an escape for literals would change them.
        let is_plain = matches!(c, ' '..='~');
        let length = if is_plain { 1 } else { c.escape_debug().count() };
        if self.chars + length > limit {
            return false;
        }
        self.chars += length;
        if is_plain {
            self.text.push(c)
        } else {
            self.text.extend(c.escape_debug())
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_shown_whole() {
        assert_eq!(quoted("a \"dog\""), r#""a \"dog\"""#);
        assert_eq!(one_line("no field \"a\" of 'b' in c:\\d, für 犬"), "no field \"a\" of 'b' in c:\\d, für 犬");
    }

    #[test]
    fn nothing_breaks_the_line_or_turns_its_direction() {
        let odd = "a\nb\r\n\tc\0\u{7f}\u{85}\u{2028}\u{202e}\u{2066}\u{200f}\u{feff}\u{1b}[31m";
        for shown in [quoted(odd), one_line(odd)] {
            assert!(shown.chars().all(|c| matches!(c, ' '..='~')), "{shown}");
            assert!(shown.contains("\\n") && shown.contains("\\u{202e}") && shown.contains("\\u{1b}"), "{shown}");
        }
    }

    #[test]
    fn long_texts_are_cut_in_the_middle_and_counted() {
        for (text, place) in [("x".repeat(8 << 20), "x"), ("\u{202e}\n".repeat(1 << 20), "\\n")] {
            let line = one_line(&format!("unknown field {text}, at column 7"));
            assert!(line.starts_with("unknown field ") && line.ends_with(", at column 7"), "{line}");
            assert!(line.contains(place) && line.contains(" characters) ... "), "{line}");
            assert!(line.chars().count() <= MAX_LINE_CHARS && quoted(&text).chars().count() <= MAX_LINE_CHARS);
            assert_eq!(one_line(&line), line, "twice is once");
        }
    }
}
