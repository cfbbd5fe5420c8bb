//! `Retry-After`: how long a server asks to wait (RFC 9110, section 10.2.3).

use std::time::{Duration, SystemTime};

/// The longest wait that a server may ask for: an untrusted server must not delay a job without limit.
const LONGEST: Duration = Duration::from_mins(10);

/// The wait that a header asks for at `now`, in seconds or by a date, but no more than [`LONGEST`]; `None` if it is
/// neither.
pub(crate) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    let seconds = header.parse().map(Duration::from_secs).ok();
    // A date in the past means no wait.
    let until = || httpdate::parse_http_date(header).ok().map(|date| date.duration_since(now).unwrap_or_default());
    seconds.or_else(until).map(|wait| wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_bounded() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (header, seconds) in [
            ("0", Some(0)),
            (" 7 ", Some(7)),
            ("601", Some(600)),
            ("18446744073709551615", Some(600)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            ("Sun Nov  6 08:50:07 1994", Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("Mon, 06 Nov 1995 08:49:07 GMT", Some(600)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Sun, 06 Nov 1994", None),
        ] {
            assert_eq!(retry_after(header, now), seconds.map(Duration::from_secs), "{header:?}");
        }
    }
}
