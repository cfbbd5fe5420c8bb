//! Times as they stand in a configuration.

use std::time::Duration;

/// Seconds from a configuration: at least a millisecond and at most a day, so that nonsense neither hangs nor crashes.
pub(crate) fn seconds(seconds: f64) -> Duration {
    let shortest = Duration::from_millis(1);
    Duration::try_from_secs_f64(seconds.min(86_400.0)).unwrap_or(shortest).max(shortest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_bounded() {
        assert_eq!(seconds(1.5), Duration::from_millis(1_500));
        assert_eq!(seconds(f64::INFINITY), Duration::from_secs(86_400));
        for nonsense in [-1.0, 0.0, f64::NAN] {
            assert!(seconds(nonsense) <= Duration::from_secs(86_400), "{nonsense}");
        }
    }
}
