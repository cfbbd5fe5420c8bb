//! The time that an attempt has, counted from when its work begins.

use std::{sync::Arc, time::Duration};

use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until},
};

/// Longer than any process lives.
pub const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);

/// The time limit of one attempt. It does not run while the task waits for its turn: overload costs no attempts. Clones
/// are the same limit.
#[derive(Clone, Debug)]
pub struct TimeLimit {
    limit: Duration,
    /// When the job has to have ended, whatever its task does.
    deadline: Option<Instant>,
    until: Arc<watch::Sender<Option<Instant>>>,
}

/// The limit is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over;

impl TimeLimit {
    /// A limit that does not run yet.
    pub(crate) fn new(limit: Duration, deadline: Option<Instant>) -> Self {
        Self { limit, deadline, until: Arc::new(watch::Sender::new(deadline)) }
    }

    /// The limit runs from now.
    pub(crate) fn restart(&self) {
        // A limit that ends after the end of time is none.
        let end = Instant::now().checked_add(self.limit);
        self.until.send_replace(end.into_iter().chain(self.deadline).min());
    }

    /// The limit does not run until it is started again.
    pub(crate) fn pause(&self) {
        self.until.send_replace(self.deadline);
    }

    /// When it is over; in thirty years if it does not run and the job has no deadline.
    pub fn until(&self) -> Instant {
        self.until.borrow().unwrap_or_else(|| Instant::now() + FOREVER)
    }

    /// Runs `work` within the limit.
    pub(crate) async fn bound<T>(&self, work: impl Future<Output = T>) -> Result<T, Over> {
        let mut changes = self.until.subscribe();
        let mut work = std::pin::pin!(work);
        loop {
            let until = *changes.borrow_and_update();
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            select! {
                // In this order: work that is done at the last moment counts.
                biased;
                done = &mut work => return Ok(done),
                // It has begun, or has made progress: the limit is another one now.
                Ok(()) = changes.changed() => {}
                () = over => return Err(Over),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_runs_from_the_beginning_of_work_and_anew_with_each_progress() {
        let limit = TimeLimit::new(10 * SECOND, None);
        assert_eq!(limit.bound(sleep(3_600 * SECOND)).await, Ok(()), "waiting for its turn takes no time");
        let work = async {
            for _ in 0..5 {
                limit.restart();
                sleep(9 * SECOND).await;
            }
            sleep(2 * SECOND).await;
        };
        let began = Instant::now();
        assert_eq!(limit.bound(work).await, Err(Over));
        assert_eq!(began.elapsed(), 46 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_run_while_the_work_waits_for_another_turn() {
        let limit = TimeLimit::new(10 * SECOND, None);
        let began = Instant::now();
        let work = async {
            limit.restart();
            sleep(9 * SECOND).await;
            limit.pause();
            sleep(3_600 * SECOND).await;
            limit.restart();
            sleep(11 * SECOND).await;
        };
        assert_eq!(limit.bound(work).await, Err(Over));
        assert_eq!(began.elapsed(), 3_619 * SECOND);
        let limit = TimeLimit::new(10 * SECOND, Some(Instant::now() + 20 * SECOND));
        limit.restart();
        limit.pause();
        assert_eq!(limit.bound(sleep(21 * SECOND)).await, Err(Over), "the job's deadline holds");
    }

    #[tokio::test(start_paused = true)]
    async fn the_jobs_deadline_ends_it_in_any_case() {
        let limit = TimeLimit::new(10 * SECOND, Some(Instant::now() + 5 * SECOND));
        assert_eq!(limit.bound(sleep(6 * SECOND)).await, Err(Over), "while it waits");
        let limit = TimeLimit::new(10 * SECOND, Some(Instant::now() + 5 * SECOND));
        limit.restart();
        assert_eq!(limit.until(), Instant::now() + 5 * SECOND);
        let endless = TimeLimit::new(Duration::MAX, None);
        endless.restart();
        assert_eq!(endless.bound(sleep(1_000_000 * SECOND)).await, Ok(()));
    }
}
