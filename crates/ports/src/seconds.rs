//! Durations of the configuration, which are numbers of seconds.

use std::time::Duration;

/// The longest duration that a setting may ask for: a day.
pub const MAX_SECONDS: f64 = 86_400.0;

/// A number that is no duration.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SecondsError {
    /// Where zero would mean that nothing ever succeeds.
    #[error("is {0}; write a number of seconds above 0 and at most {MAX_SECONDS}, which is a day")]
    NotPositive(f64),
    /// Where zero means "at once".
    #[error("is {0}; write a number of seconds from 0 to {MAX_SECONDS}, which is a day")]
    NotFromZero(f64),
}

/// A time limit or an interval: above zero and at most a [day](MAX_SECONDS).
pub fn seconds(value: f64) -> Result<Duration, SecondsError> {
    // What is shorter than a nanosecond would be none.
    seconds_or_zero(value).ok().filter(|duration| !duration.is_zero()).ok_or(SecondsError::NotPositive(value))
}

/// A pause: from zero to a [day](MAX_SECONDS).
pub fn seconds_or_zero(value: f64) -> Result<Duration, SecondsError> {
    let duration = Duration::try_from_secs_f64(value).ok().filter(|_| value <= MAX_SECONDS);
    duration.ok_or(SecondsError::NotFromZero(value))
}

/// The nearest duration to a number that was not checked: at least a millisecond and at most a [day](MAX_SECONDS). What is
/// no number counts as the least.
pub fn clamped_seconds(value: f64) -> Duration {
    let shortest = Duration::from_millis(1);
    Duration::try_from_secs_f64(value.clamp(0.0, MAX_SECONDS)).unwrap_or(shortest).max(shortest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_duration_is_clamped_to_one() {
        assert_eq!(clamped_seconds(1.5), Duration::from_millis(1_500));
        assert_eq!(clamped_seconds(f64::INFINITY).as_secs_f64(), MAX_SECONDS);
        for nonsense in [-1.0, 0.0, f64::NAN] {
            assert_eq!(clamped_seconds(nonsense), Duration::from_millis(1), "{nonsense}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_by_its_value() {
        assert_eq!(seconds(1.5), Ok(Duration::from_millis(1_500)));
        assert_eq!(seconds(MAX_SECONDS), Ok(Duration::from_secs(86_400)));
        assert_eq!(seconds_or_zero(0.0), Ok(Duration::ZERO));
        for wrong in [-1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 86_400.1, f64::MAX] {
            assert!(seconds(wrong).is_err() && seconds_or_zero(wrong).is_err(), "{wrong}");
        }
        for none in [0.0, -0.0, 1e-12] {
            assert_eq!(seconds(none), Err(SecondsError::NotPositive(none)));
        }
        assert!(seconds(-2.5).unwrap_err().to_string().starts_with("is -2.5; write a number of seconds above 0"));
    }
}
