//! The W3C trace context (<https://www.w3.org/TR/trace-context/>): one trace follows a job through all stages.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A position in a trace: the trace, and the parent span of what follows.
///
/// As text it is a `traceparent`, such as `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`. Parsing is strict:
/// text in any other format is no trace context, and the reader begins a new trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// The flag that says the trace is recorded.
const SAMPLED: u8 = 1;

/// Characters of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The text is no `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no traceparent; write it like 00-<32 hex digits>-<16 hex digits>-01")]
pub struct ParseTraceError;

impl TraceContext {
    /// A new, recorded trace with its first span. A zero, which the format forbids, is replaced by a one; the ids should
    /// be random.
    pub fn new(trace_id: u128, span_id: u64) -> Self {
        Self { trace_id: trace_id.max(1), span_id: span_id.max(1), flags: SAMPLED }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn child(self, span_id: u64) -> Self {
        Self { span_id: span_id.max(1), ..self }
    }

    /// The trace's id: 32 hex digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The span's id: 16 hex digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// Whether the beginner of the trace records it.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = ParseTraceError;

    /// Reads version 00 exactly, and of a later version the part that the specification keeps stable.
    fn from_str(text: &str) -> Result<Self, ParseTraceError> {
        let known = text.get(..LENGTH).ok_or(ParseTraceError)?;
        let mut fields = known.split('-');
        let mut field = |digits| fields.next().and_then(|field| hex(field, digits)).ok_or(ParseTraceError);
        let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let rest = &text[LENGTH..];
        let whole = if version == 0 { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        if version == 0xff || !whole || trace_id == 0 || span_id == 0 || fields.next().is_some() {
            return Err(ParseTraceError);
        }
        // Only the first flag is known; the others are dropped.
        Ok(Self { trace_id, span_id: span_id as u64, flags: flags as u8 & SAMPLED })
    }
}

/// Exactly `digits` lower-case hex digits; Rust's own parser would also take upper case and a plus sign.
fn hex(field: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (field.len() == digits && field.bytes().all(lower)).then(|| u128::from_str_radix(field, 16).ok())?
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// For an optional field: an invalid value counts as absent.
pub(crate) fn or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceContext>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(text: &str) -> Result<TraceContext, ParseTraceError> {
        text.parse()
    }

    #[test]
    fn the_specifications_example_is_read_and_written() {
        let trace = parse(GOOD).unwrap();
        assert_eq!(trace.to_string(), GOOD);
        assert_eq!((trace.trace_id().as_str(), trace.span_id().as_str()), (&GOOD[3..35], &GOOD[36..52]));
        assert!(trace.is_sampled());
        assert!(!parse(&GOOD.replace("-01", "-00")).unwrap().is_sampled());
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let child = parse(GOOD).unwrap().child(7);
        assert_eq!(child.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01");
        assert_eq!(parse(&TraceContext::new(0, 0).to_string()), Ok(TraceContext::new(1, 1)), "zeros are never written");
    }

    #[test]
    fn whatever_breaks_the_format_is_refused() {
        let none = "0".repeat(32);
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &none),
            &GOOD.replace("00f067aa0ba902b7", &none[..16]),
            &GOOD.replace("4bf9", "+bf9"),
            &GOOD.replace("4bf9", "4bfg"),
            &GOOD.replace("4bf9", "4b-9"),
            &format!("01{}0", &GOOD[2..]),
            &format!("ä{}", &GOOD[2..]),
        ] {
            assert_eq!(parse(bad), Err(ParseTraceError), "{bad:?}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for later in [format!("01{}", &GOOD[2..]), format!("cc{}-what-comes", &GOOD[2..])] {
            assert_eq!(parse(&later), parse(GOOD), "{later}");
        }
        assert_eq!(parse(&GOOD.replace("-01", "-ff")), parse(GOOD), "unknown flags are not passed on");
    }

    proptest! {
        #[test]
        fn every_context_survives_the_way(trace_id: u128, span_id: u64) {
            let trace = TraceContext::new(trace_id, span_id);
            prop_assert_eq!(parse(&trace.to_string()), Ok(trace));
        }

        #[test]
        fn no_text_is_a_crash(text in "[0-9a-fA-F-]{0,60}|\\PC{0,60}") {
            if let Ok(trace) = parse(&text) {
                prop_assert_eq!(parse(&trace.to_string()), Ok(trace));
            }
        }
    }
}
