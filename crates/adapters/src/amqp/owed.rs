//! What the client library owes: waited for no longer than the connection lives.
//!
//! When a connection fails, lapin's I/O thread tells its command loop so, and then tells it to stop. A channel that is asked
//! for between the two is neither opened nor refused: the request lies behind the stop, and its promise is dropped
//! unresolved (lapin 4.12). Whoever waits for it waits for ever, and a worker so caught never consumes again.

use std::time::Duration;

use lapin::{Channel, Connection, ConnectionState, ErrorKind};
use tokio::{pin, time::timeout};

/// How often the connection is looked at. An answer that came before the end is handed out within this time.
const LOOK: Duration = Duration::from_millis(500);

/// A new channel, or an error soon after the connection is gone.
pub(super) async fn open_channel(connection: &Connection) -> Result<Channel, lapin::Error> {
    let opened = owed(connection.create_channel(), || connection.status().connected()).await;
    opened.unwrap_or_else(|| Err(ErrorKind::InvalidConnectionState(ConnectionState::Error).into()))
}

/// The answer; `None` if what it comes by is closed and the answer has not come a while after.
pub(super) async fn owed<T>(answer: impl Future<Output = T>, is_open: impl Fn() -> bool) -> Option<T> {
    pin!(answer);
    let mut was_open = true;
    loop {
        if let Ok(answer) = timeout(LOOK, &mut answer).await {
            return Some(answer);
        }
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
        assert_eq!(owed(ending, || is_open.load(Ordering::Relaxed)).await, None);
        assert!((end..=end + 3 * LOOK).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_late_is_heard() {
        let late = async {
            sleep(LOOK + LOOK / 2).await;
            7
        };
        assert_eq!(owed(late, || false).await, Some(7), "it was under way when the connection ended");
        let later = async {
            sleep(100 * LOOK).await;
            7
        };
        assert_eq!(owed(later, || true).await, Some(7), "whoever lives may take its time");
    }
}
