//! Waits for an answer of the client library no longer than the connection is open.
//!
//! When a connection fails, lapin's I/O thread sends its command loop the failure, and then the command to stop. A channel
//! that is requested between the two is neither opened nor refused: the request is queued after the stop command, and its
//! promise is never resolved (lapin 4.12). A worker that awaits that promise alone never consumes again.

use std::time::Duration;

use futures::FutureExt;
use lapin::{Channel, Connection, ConnectionState, ErrorKind, types::ShortString};
use tokio::{pin, time::timeout};
use tracing::debug;

/// The time between two checks of the connection. After the connection has closed, an answer that was received before
/// gets this much time to arrive.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Opens a channel; an error soon after the connection has closed.
pub(super) async fn open_channel(connection: &Connection) -> Result<Channel, lapin::Error> {
    let opened = await_or_closed(connection.create_channel(), || connection.status().connected()).await;
    opened.unwrap_or_else(|| Err(ErrorKind::InvalidConnectionState(ConnectionState::Error).into()))
}

/// Closes a channel without waiting, for destructors. The broker then requeues whatever the channel has not settled.
pub(super) fn close_now(channel: &Channel, queue: &ShortString) {
    // The first poll sends the request; its answer is not awaited.
    if let Some(Err(error)) = channel.close(200, ShortString::default()).now_or_never() {
        debug!(%error, %queue, "the channel was closed already");
    }
}

/// The answer; `None` if the connection or channel has closed and the answer has not arrived within [`CHECK_INTERVAL`]
/// after that was seen.
pub(super) async fn await_or_closed<T>(answer: impl Future<Output = T>, is_open: impl Fn() -> bool) -> Option<T> {
    pin!(answer);
    let mut was_open = true;
    loop {
        if let Ok(answer) = timeout(CHECK_INTERVAL, &mut answer).await {
            return Some(answer);
        }
        // Only the second check that finds it closed ends the wait: between the two, an answer that lapin received before
        // the connection closed has a whole interval to arrive.
        let is_open = is_open();
        if !is_open && !was_open {
            return None;
        }
        was_open = is_open;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future,
        sync::atomic::{AtomicBool, Ordering},
    };

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_given_up_soon_after_the_end_and_not_before() {
        let is_open = AtomicBool::new(true);
        let end = Duration::from_secs(60);
        let ending = async {
            sleep(end).await;
            is_open.store(false, Ordering::Relaxed);
            future::pending::<()>().await;
        };
        let begin = Instant::now();
        assert_eq!(await_or_closed(ending, || is_open.load(Ordering::Relaxed)).await, None);
        assert!((end..=end + 3 * CHECK_INTERVAL).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_late_is_heard() {
        let late = async {
            sleep(CHECK_INTERVAL + CHECK_INTERVAL / 2).await;
            7
        };
        assert_eq!(await_or_closed(late, || false).await, Some(7), "it was under way when the connection ended");
        let later = async {
            sleep(100 * CHECK_INTERVAL).await;
            7
        };
        assert_eq!(await_or_closed(later, || true).await, Some(7), "whoever lives may take its time");
    }
}
