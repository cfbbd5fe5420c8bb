//! Waits that end early.

use std::time::Duration;

use tokio::{select, time::sleep};
use tokio_util::sync::CancellationToken;

/// Waits, but not longer than until `end` is cancelled.
pub(crate) async fn pause(wait: Duration, end: &CancellationToken) {
    select! {
        // Whoever waits is to end: the wait is over.
        () = end.cancelled() => {}
        () = sleep(wait) => {}
    }
}

/// Ends a while after `token` is cancelled.
pub(crate) async fn after(token: &CancellationToken, wait: Duration) {
    token.cancelled().await;
    sleep(wait).await;
}
