//! The lines of a body, one by one, in bounded memory.

use bytes::{Buf, Bytes, BytesMut};
use echogen_protocol::limits::MAX_JOB_JSON_BYTES;

use crate::{body::PacedBody, problem::Problem};

/// A line with its number, 1 for the first: its text, or what is wrong with it.
pub(super) type Line = (u64, Result<Bytes, String>);

/// The lines of a body.
pub(super) struct Lines {
    body: PacedBody,
    /// What has come and is not read yet.
    piece: Bytes,
    number: u64,
    ended: bool,
}

impl Lines {
    pub(super) fn new(body: PacedBody) -> Self {
        Self { body, piece: Bytes::new(), number: 0, ended: false }
    }

    /// The next line that is not empty; `None` at the end. A line that is too long is read to its end and not kept.
    pub(super) async fn next(&mut self) -> Result<Option<Line>, Problem> {
        let (mut text, mut bytes) = (BytesMut::new(), 0);
        while self.fill().await? {
            let end = self.piece.iter().position(|byte| *byte == b'\n');
            let part = self.piece.split_to(end.unwrap_or(self.piece.len()));
            bytes += part.len();
            if bytes <= MAX_JOB_JSON_BYTES {
                text.extend_from_slice(&part);
            }
            if end.is_some() {
                self.piece.advance(1);
                self.number += 1;
                if !is_empty(&text, bytes) {
                    return Ok(Some((self.number, bounded(text, bytes))));
                }
                (text, bytes) = (BytesMut::new(), 0);
            }
        }
        // The last line may lack its end.
        if is_empty(&text, bytes) {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some((self.number, bounded(text, bytes))))
    }

    /// Whether there is something to read.
    async fn fill(&mut self) -> Result<bool, Problem> {
        while self.piece.is_empty() && !self.ended {
            match self.body.next().await? {
                Some(piece) => self.piece = piece,
                None => self.ended = true,
            }
        }
        Ok(!self.piece.is_empty())
    }
}

fn is_empty(text: &[u8], bytes: usize) -> bool {
    bytes <= MAX_JOB_JSON_BYTES && text.trim_ascii().is_empty()
}

fn bounded(text: BytesMut, bytes: usize) -> Result<Bytes, String> {
    if bytes > MAX_JOB_JSON_BYTES {
        return Err(format!("the line has {bytes} bytes; the limit is {MAX_JOB_JSON_BYTES}"));
    }
    Ok(text.freeze())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures::stream;

    use super::*;

    async fn lines(pieces: &[&[u8]]) -> Vec<Line> {
        let pieces: Vec<Result<Bytes, std::io::Error>> =
            pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let body = Body::from_stream(stream::iter(pieces));
        let mut lines = Lines::new(PacedBody::new(body, u64::MAX, 0));
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        assert_eq!(lines.next().await.unwrap(), None, "the end stays the end");
        all
    }

    fn line(number: u64, text: &'static str) -> Line {
        (number, Ok(Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn lines_are_whole_however_they_come_and_empty_ones_count() {
        assert_eq!(lines(&[b"a\nb\n"]).await, [line(1, "a"), line(2, "b")]);
        assert_eq!(lines(&[b"a", b"b", b"", b"\n\n \r\nc"]).await, [line(1, "ab"), line(4, "c")]);
        assert_eq!(lines(&[b"\n\n"]).await, []);
        assert_eq!(lines(&[]).await, []);
    }

    #[tokio::test]
    async fn a_long_line_is_an_error_and_those_behind_it_are_read() {
        let long = vec![b'x'; MAX_JOB_JSON_BYTES];
        let read = lines(&[b"a\n", &long, b"x", &long, b"\nb"]).await;
        let error = read[1].1.as_ref().unwrap_err();
        assert!(error.contains("the limit is"), "{error}");
        assert_eq!((read.len(), &read[0], &read[2]), (3, &line(1, "a"), &line(3, "b")));
        assert!(lines(&[&long]).await[0].1.is_ok());
    }
}
