//! Sends best-effort notifications in the background, so that no task waits for them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt, future, stream};
use tokio::{sync::mpsc, time::timeout};
use tracing::warn;

/// Items that wait to be delivered; with more, the newest is dropped. Some seconds of a busy worker's events.
const WAITING: usize = 4_096;

/// Deliveries under way at once: enough that the time to the server and back does not bound their rate.
const AT_ONCE: usize = 64;

/// The time one delivery may take; a server that is away must not hold up what comes after it is back.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Delivers items in the background, begun in the order in which they were given.
#[derive(Debug)]
pub(crate) struct BackgroundSender<T> {
    name: &'static str,
    sender: mpsc::Sender<T>,
    dropped: Arc<AtomicU64>,
}

impl<T> Clone for BackgroundSender<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, sender: self.sender.clone(), dropped: Arc::clone(&self.dropped) }
    }
}

impl<T: Send + 'static> BackgroundSender<T> {
    /// A sender, and its work, to be spawned: it ends when the last clone of the sender is gone and everything is
    /// delivered.
    pub(crate) fn new<F>(
        name: &'static str,
        deliver: impl Fn(T) -> F + Send + 'static,
    ) -> (Self, impl Future<Output = ()> + Send)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let work = stream::poll_fn(move |context| receiver.poll_recv(context))
            .map(move |item| timeout(SEND_TIMEOUT, deliver(item)).map(drop))
            .buffered(AT_ONCE)
            .for_each(|()| future::ready(()));
        (Self { name, sender, dropped: Arc::default() }, work)
    }

    /// Gives it an item and does not wait. An item too many is dropped: that is what makes it a courtesy.
    pub(crate) fn send(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            // At each power of two, so that a server that is away for long does not fill the log.
            if dropped.is_power_of_two() {
                warn!(what = self.name, dropped, "told nobody: too much waits to be told");
            }
        }
    }

    /// Whether half of the places are taken: whoever has items of little value keeps them back, so that none is dropped.
    pub(crate) fn is_behind(&self) -> bool {
        self.sender.capacity() < WAITING / 2
    }

    /// How many items were dropped.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Semaphore;
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn items_are_begun_in_order_and_all_are_delivered_before_it_ends() {
        let (seen, tracker) = (Arc::new(Mutex::new(Vec::new())), TaskTracker::new());
        let delivered = Arc::clone(&seen);
        let (background, work) = BackgroundSender::new("numbers", move |number: u32| {
            delivered.lock().unwrap().push(number);
            tokio::time::sleep(Duration::from_millis(u64::from(number % 7)))
        });
        tracker.spawn(work);
        let numbers: Vec<u32> = (0..300).collect();
        numbers.iter().for_each(|number| background.send(*number));
        drop(background);
        tracker.close();
        tracker.wait().await;
        assert_eq!(*seen.lock().unwrap(), numbers);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_away_costs_items_and_no_time() {
        let away = Arc::new(Semaphore::new(0));
        let (background, work) = BackgroundSender::new("numbers", {
            let away = Arc::clone(&away);
            move |_: usize| {
                let away = Arc::clone(&away);
                async move { drop(away.acquire().await) }
            }
        });
        let tracker = TaskTracker::new();
        tracker.spawn(work);
        assert!(!background.is_behind());
        (0..WAITING + 10).for_each(|number| background.send(number));
        assert_eq!(background.dropped(), 10);
        assert!(background.is_behind());
        // One timeout later the first are given up, and there is room again.
        tokio::time::sleep(SEND_TIMEOUT + Duration::from_secs(1)).await;
        background.send(0);
        assert_eq!(background.dropped(), 10);
    }
}
