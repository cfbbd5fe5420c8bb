//! Reads a jobs file line by line, within bounds: neither a long file nor a long line fills the memory.

use std::path::Path;

use echogen_protocol::limits::MAX_JOB_JSON_BYTES;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

/// The lines of a jobs file that are not empty, with their numbers.
pub struct JobLines {
    source: Box<dyn AsyncBufRead + Unpin + Send>,
    number: u64,
    /// The line being read, as far as it has come. Kept here and not in a future, so that a caller may stop waiting
    /// for a line and ask again without losing what was read.
    begun: Option<BegunLine>,
}

/// The beginning of a line; `None` once it is longer than a job may be.
type BegunLine = Option<Vec<u8>>;

/// One line.
#[derive(Debug, PartialEq)]
pub struct JobLine {
    /// Counted from 1.
    pub number: u64,
    /// Its bytes; `None` if it is longer than a job may be.
    pub text: Option<Vec<u8>>,
}

impl JobLines {
    /// Opens a file; `-` is standard input.
    pub async fn open(path: &Path) -> std::io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::new(BufReader::new(tokio::io::stdin())));
        }
        Ok(Self::new(BufReader::new(tokio::fs::File::open(path).await?)))
    }

    pub(crate) fn new(source: impl AsyncBufRead + Unpin + Send + 'static) -> Self {
        Self { source: Box::new(source), number: 0, begun: None }
    }

    /// Returns the next line that is not empty, or `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> std::io::Result<Option<JobLine>> {
        loop {
            let Some(text) = self.read_line().await? else { return Ok(None) };
            self.number += 1;
            let is_empty = text.as_ref().is_some_and(|text| text.iter().all(u8::is_ascii_whitespace));
            if !is_empty {
                return Ok(Some(JobLine { number: self.number, text }));
            }
        }
    }

    /// Reads up to the end of the line and keeps no more of it than a job may have; the inner `None` is too long.
    async fn read_line(&mut self) -> std::io::Result<Option<Option<Vec<u8>>>> {
        loop {
            let buffer = self.source.fill_buf().await?;
            if buffer.is_empty() {
                return Ok(self.begun.take());
            }
            let line = self.begun.get_or_insert_with(|| Some(Vec::new()));
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let (part, taken) = end.map_or((buffer, buffer.len()), |end| (&buffer[..end], end + 1));
            match line {
                Some(kept) if kept.len() + part.len() <= MAX_JOB_JSON_BYTES => kept.extend_from_slice(part),
                _ => *line = None,
            }
            self.source.consume(taken);
            if end.is_some() {
                return Ok(self.begun.take());
            }
        }
    }
}

/// Counts the lines that [`JobLines`] will return, for a progress bar; `None` if they can be read only once.
pub(crate) async fn count(path: &Path) -> std::io::Result<Option<u64>> {
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
        assert_eq!(seen, [(1, &b"a"[..]), (4, b"b\r"), (5, b"c")]);
        assert_eq!(read("").await, []);
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
