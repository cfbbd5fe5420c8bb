//! Reads a jobs file line by line in bounded memory, however long the file or a line is.
//!
//! A line ends with a line feed, a carriage return, or both. Byte order marks at the beginning of a line are dropped: also
//! where files were joined. A file in another encoding, or that is compressed, is refused at its first line.

mod form;

use std::{io, path::Path};

use echogen_protocol::limits::MAX_JOB_JSON_BYTES;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

pub(crate) use form::wrong_form;

/// The lines of a jobs file that are not empty, with their numbers.
pub struct JobLines {
    source: Box<dyn AsyncBufRead + Unpin + Send>,
    number: u64,
    /// The part of the current line that has been read. It is stored here and not in a future, so that a caller may
    /// drop the future of [`JobLines::next`] and call again without losing data.
    begun: Option<BegunLine>,
    /// Whether the last line ended with a carriage return, whose line feed may follow.
    after_return: bool,
}

/// The beginning of a line; `None` once it is longer than a job may be.
type BegunLine = Option<Vec<u8>>;

/// The byte order mark in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// One line.
#[derive(Debug, PartialEq)]
pub struct JobLine {
    /// Its number, counted from 1.
    pub number: u64,
    /// Its bytes; `None` if it is longer than a job may be.
    pub text: Option<Vec<u8>>,
}

impl JobLines {
    /// Opens a file; `-` is standard input.
    pub async fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::new(BufReader::new(tokio::io::stdin())));
        }
        Ok(Self::new(BufReader::new(tokio::fs::File::open(path).await?)))
    }

    pub(crate) fn new(source: impl AsyncBufRead + Unpin + Send + 'static) -> Self {
        Self { source: Box::new(source), number: 0, begun: None, after_return: false }
    }

    /// Returns the next line that is not empty, or `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// The file cannot be read, or its first line shows that it is no file of lines.
    pub async fn next(&mut self) -> io::Result<Option<JobLine>> {
        loop {
            let Some(mut text) = self.read_line().await? else { return Ok(None) };
            self.number += 1;
            if let Some(text) = &mut text
                && text.starts_with(MARK)
            {
                text.drain(..MARK.len());
            }
            let is_empty = text.as_ref().is_some_and(|text| text.iter().all(u8::is_ascii_whitespace));
            if !is_empty {
                return Ok(Some(JobLine { number: self.number, text }));
            }
        }
    }

    /// Reads to the end of the line and keeps at most as many bytes as a job may have. The inner `None` means that the
    /// line is too long.
    async fn read_line(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        loop {
            let buffer = self.source.fill_buf().await?;
            if std::mem::take(&mut self.after_return) && buffer.first() == Some(&b'\n') {
                self.source.consume(1);
                continue;
            }
            if buffer.is_empty() {
                refuse_other_forms(self.number, self.begun.as_ref())?;
                return Ok(self.begun.take());
            }
            let line = self.begun.get_or_insert_with(|| Some(Vec::new()));
            let end = buffer.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (part, taken) = end.map_or((buffer, buffer.len()), |end| (&buffer[..end], end + 1));
            let is_return = end.is_some_and(|end| buffer.get(end) == Some(&b'\r'));
            match line {
                Some(kept) if kept.len() + part.len() <= MAX_JOB_JSON_BYTES => kept.extend_from_slice(part),
                _ => {
                    // Its beginning is looked at before it is dropped.
                    refuse_other_forms(self.number, Some(line))?;
                    *line = None;
                }
            }
            self.source.consume(taken);
            if end.is_some() {
                self.after_return = is_return;
                refuse_other_forms(self.number, self.begun.as_ref())?;
                return Ok(self.begun.take());
            }
        }
    }
}

/// Refuses a file of another form by its first line; `number` is that of the line before.
fn refuse_other_forms(number: u64, line: Option<&BegunLine>) -> io::Result<()> {
    let Some(Some(start)) = line else { return Ok(()) };
    match form::other_file(start) {
        Some(what) if number == 0 => Err(io::Error::new(io::ErrorKind::InvalidData, format!("line 1: {what}"))),
        _ => Ok(()),
    }
}

/// Returns the number of lines that [`JobLines`] will return, for a progress bar; `None` if the input can be read only
/// once.
pub(crate) async fn count(path: &Path) -> io::Result<Option<u64>> {
    if !tokio::fs::metadata(path).await.is_ok_and(|file| file.is_file()) {
        return Ok(None);
    }
    let mut lines = JobLines::open(path).await?;
    let mut count = 0;
    while lines.next().await?.is_some() {
        count += 1;
    }
    Ok(Some(count))
}

#[cfg(test)]
mod tests {
    use std::{io::Cursor, time::Duration};

    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read(text: impl Into<Vec<u8>>) -> Vec<JobLine> {
        let mut lines = JobLines::new(BufReader::new(Cursor::new(text.into())));
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn empty_lines_are_skipped_but_counted() {
        let lines = read("a\n\n  \r\nb\r\nc").await;
        let seen: Vec<(u64, &[u8])> = lines.iter().map(|line| (line.number, line.text.as_deref().unwrap())).collect();
        assert_eq!(seen, [(1, &b"a"[..]), (4, b"b"), (5, b"c")]);
        assert_eq!(read("").await, []);
    }

    #[tokio::test]
    async fn every_end_of_a_line_counts_once_and_marks_are_dropped() {
        let mark = "\u{feff}";
        for text in ["a\nb\n\nc", "a\r\nb\r\n\r\nc\r\n", "a\rb\r\rc\r", &format!("{mark}a\n{mark}b\n\n{mark}c")] {
            // In pieces of one byte, so that a return and its line feed are never seen together.
            for size in [1, 64] {
                let mut lines = JobLines::new(BufReader::with_capacity(size, Cursor::new(text.as_bytes().to_vec())));
                let mut seen = Vec::new();
                while let Some(JobLine { number, text }) = lines.next().await.unwrap() {
                    seen.push((number, String::from_utf8(text.unwrap()).unwrap()));
                }
                let expected = [(1, "a"), (2, "b"), (4, "c")].map(|(number, text)| (number, text.to_owned()));
                assert_eq!(seen, expected, "{text:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_line_over_the_limit_is_dropped_and_the_next_one_read() {
        let mut text = vec![b'x'; MAX_JOB_JSON_BYTES + 1];
        text.extend_from_slice(b"\nnext\n");
        let lines = read(text).await;
        assert_eq!(lines[0], JobLine { number: 1, text: None });
        assert_eq!(lines[1], JobLine { number: 2, text: Some(b"next".to_vec()) });
    }

    #[tokio::test]
    async fn a_line_of_exactly_the_limit_is_kept() {
        let lines = read(vec![b'x'; MAX_JOB_JSON_BYTES]).await;
        assert_eq!(lines[0].text.as_ref().map(Vec::len), Some(MAX_JOB_JSON_BYTES));
    }

    #[tokio::test]
    async fn a_line_that_comes_in_pieces_survives_a_caller_that_stops_waiting() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut lines = JobLines::new(BufReader::new(reader));
        writer.write_all(b"first ha").await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, lines.next()).await.is_err(), "the line is not complete");
        writer.write_all(b"lf\nsecond\n").await.unwrap();
        drop(writer);
        for expected in ["first half", "second"] {
            assert_eq!(lines.next().await.unwrap().unwrap().text.unwrap(), expected.as_bytes());
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
