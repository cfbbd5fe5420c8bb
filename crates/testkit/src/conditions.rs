//! Waits for conditions instead of sleeping.

use std::time::Duration;

/// Waits until `condition` holds; fails the test if it does not within a minute. With tokio's clock paused this takes
/// no time.
#[track_caller]
pub fn eventually<'a>(what: &'a str, condition: impl Fn() -> bool + 'a) -> impl Future<Output = ()> + 'a {
    let place = std::panic::Location::caller();
    async move {
        for _ in 0..60_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{place}: this did not come about: {what}");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_returns_as_soon_as_the_condition_holds() {
        let looks = Cell::new(0);
        eventually("the third look", || {
            looks.set(looks.get() + 1);
            looks.get() == 3
        })
        .await;
        assert_eq!(looks.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "this did not come about: never")]
    async fn it_fails_the_test_otherwise() {
        eventually("never", || false).await;
    }
}
