//! What every message must be, whatever it is about.

use std::fmt::Display;

/// Checks that an error is one line of bounded length without invisible characters.
#[track_caller]
pub(crate) fn check<T>(answer: Result<T, impl Display>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) => {
            let text = error.to_string();
            assert!(text.chars().count() <= 1_000, "{} characters", text.chars().count());
            let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            assert!(!text.contains(odd), "{text:?}");
            None
        }
    }
}
