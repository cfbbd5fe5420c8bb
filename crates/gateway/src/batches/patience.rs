//! How lines are held that cannot be entered now.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use echogen_ports::Backoff;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::problem::{Kind, Problem};

/// The time without any job entered after which lines are not held any longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// The waits of a line that is held.
const WAITS: Backoff = Backoff::doubling(0.1, 5.0);

/// How long lines are held: until for some time none could be entered.
pub(super) struct Patience(Mutex<Instant>);

impl Default for Patience {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Patience {
    /// A line was entered.
    pub(super) fn renew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn left(&self) -> Duration {
        PATIENCE.saturating_sub(self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed())
    }

    /// Tries again and again what a limit, or a server that is away, does not allow now; `None` if it was stopped while it
    /// waited. An attempt is never stopped half done.
    pub(super) async fn held<T, F>(
        &self,
        stop: &CancellationToken,
        attempt: impl Fn() -> F,
    ) -> Option<Result<T, Problem>>
    where
        F: Future<Output = Result<T, Problem>>,
    {
        let mut failures = 0;
        loop {
            match attempt().await {
                Err(problem) if self.is_worth_waiting(&problem) => {
                    failures += 1;
                    stop.run_until_cancelled(tokio::time::sleep(WAITS.wait(failures))).await?;
                }
                ended => return Some(ended),
            }
        }
    }

    fn is_worth_waiting(&self, problem: &Problem) -> bool {
        let passes = matches!(problem.kind(), Kind::QuotaExceeded | Kind::Unavailable);
        // A limit of the day is over at midnight.
        passes && problem.retry_after().unwrap_or_default() < self.left()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_held_until_it_can_be_entered_or_nothing_moves() {
        let (patience, tries, stop) = (Patience::default(), AtomicU32::new(0), CancellationToken::new());
        let full = || Problem::new(Kind::QuotaExceeded, "full").retry_in(Duration::from_secs(5));
        let third = || async { if tries.fetch_add(1, Ordering::Relaxed) < 2 { Err(full()) } else { Ok(()) } };
        patience.held(&stop, third).await.unwrap().unwrap();
        assert_eq!(tries.load(Ordering::Relaxed), 3);
        let began = Instant::now();
        let refused = patience.held(&stop, || async { Err::<(), _>(full()) }).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), Kind::QuotaExceeded);
        let waited = began.elapsed();
        assert!(waited > PATIENCE / 2 && waited <= PATIENCE, "{waited:?}");
        // Those behind it do not wait as long again, until one is entered.
        patience.held(&stop, || async { Err::<(), _>(full()) }).await.unwrap().unwrap_err();
        assert_eq!(began.elapsed(), waited);
        patience.renew();
        assert_eq!(patience.left(), PATIENCE);
        // What is over tomorrow, and what is wrong, is not waited for.
        let tomorrow = || async { Err::<(), _>(full().retry_in(Duration::from_secs(3_600))) };
        patience.held(&stop, tomorrow).await.unwrap().unwrap_err();
        let wrong = || async { Err::<(), _>(Problem::field("/prompt", "is empty")) };
        patience.held(&stop, wrong).await.unwrap().unwrap_err();
        assert_eq!(patience.left(), PATIENCE);
        stop.cancel();
        assert!(patience.held(&stop, || async { Err::<(), _>(full()) }).await.is_none());
    }
}
