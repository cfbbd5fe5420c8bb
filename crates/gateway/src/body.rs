//! Bodies of requests: bounded in bytes and in slowness.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::time::{Instant, timeout};

use crate::problem::{Kind, Problem};

/// The time in which no rate is asked for.
const GRACE: Duration = Duration::from_secs(5);

/// The longest pause within a body.
const PAUSE: Duration = Duration::from_secs(10);

/// A body that is read piece by piece. A sender that is slower than the rate is refused, so it holds a connection and what it
/// has sent for a bounded time.
pub(crate) struct PacedBody {
    pieces: BodyDataStream,
    /// The time that was spent waiting for pieces: what the reader does between them is not the sender's slowness.
    waited: Duration,
    bytes: u64,
    max_bytes: u64,
    bytes_per_second: u32,
}

impl PacedBody {
    pub(crate) fn new(body: Body, max_bytes: u64, bytes_per_second: u32) -> Self {
        Self { pieces: body.into_data_stream(), waited: Duration::ZERO, bytes: 0, max_bytes, bytes_per_second }
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let began = Instant::now();
        let Ok(piece) = timeout(PAUSE, self.pieces.next()).await else { return Err(self.too_slow()) };
        self.waited += began.elapsed();
        let Some(piece) = piece else { return Ok(None) };
        let piece = piece.map_err(|_| Problem::new(Kind::BadRequest, "the body broke off"))?;
        self.bytes += piece.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(too_large(self.max_bytes));
        }
        let passed = self.waited;
        if passed > GRACE && (self.bytes as f64) < passed.as_secs_f64() * f64::from(self.bytes_per_second) {
            return Err(self.too_slow());
        }
        Ok(Some(piece))
    }

    fn too_slow(&self) -> Problem {
        let detail = format!("{} bytes have come; send at least {} a second", self.bytes, self.bytes_per_second);
        Problem::new(Kind::TooSlow, detail)
    }
}

/// Reads a whole body. Memory is taken as bytes come, not as they are announced.
pub(crate) async fn read(body: Body, max_bytes: u64, bytes_per_second: u32) -> Result<Bytes, Problem> {
    if HttpBody::size_hint(&body).lower() > max_bytes {
        return Err(too_large(max_bytes));
    }
    let mut paced = PacedBody::new(body, max_bytes, bytes_per_second);
    let Some(first) = paced.next().await? else { return Ok(Bytes::new()) };
    let Some(second) = paced.next().await? else { return Ok(first) };
    let mut whole = BytesMut::from(first);
    whole.extend_from_slice(&second);
    while let Some(piece) = paced.next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

fn too_large(max_bytes: u64) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body has more than {max_bytes} bytes"))
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn dripping(pieces: usize, bytes: usize, pause: Duration) -> Body {
        Body::from_stream(stream::unfold(0, move |sent| async move {
            if sent == pieces {
                return None;
            }
            tokio::time::sleep(pause).await;
            Some((Ok::<_, std::io::Error>(Bytes::from(vec![b' '; bytes])), sent + 1))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_sender_is_refused_and_a_steady_one_is_not() {
        let slow = read(dripping(100, 1, Duration::from_secs(1)), 1_000, 100).await.unwrap_err();
        assert_eq!(slow.kind(), Kind::TooSlow);
        let silent = read(dripping(1, 1, Duration::from_secs(3_600)), 1_000, 0).await.unwrap_err();
        assert_eq!(silent.kind(), Kind::TooSlow);
        assert_eq!(read(dripping(20, 200, Duration::from_secs(1)), 10_000, 100).await.unwrap().len(), 4_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_makes_no_slow_sender() {
        let mut paced = PacedBody::new(dripping(20, 1, Duration::from_millis(1)), 1_000, 100);
        while paced.next().await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_the_limit_is_refused_before_it_has_come() {
        let announced = read(Body::from(vec![0; 11]), 10, 0).await.unwrap_err();
        let unannounced = read(dripping(11, 1, Duration::ZERO), 10, 0).await.unwrap_err();
        assert_eq!((announced.kind(), unannounced.kind()), (Kind::TooLarge, Kind::TooLarge));
        assert_eq!(read(dripping(10, 1, Duration::ZERO), 10, 0).await.unwrap().len(), 10);
        assert!(read(Body::empty(), 10, 0).await.unwrap().is_empty());
    }
}
