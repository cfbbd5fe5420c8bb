//! Logs: one line an event, on standard error, so that standard output stays free for results.
//!
//! Metrics and traces over the network are deliberately absent until the issue that brings them.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, registry, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person at a terminal: seconds since the start, colours if standard error is one.
    #[default]
    Pretty,
    /// For a file: full times, no colours.
    Plain,
    /// For a log collector: one JSON object a line.
    Json,
}

/// The text names no log format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown log format {0:?}; use pretty, plain or json")]
pub struct UnknownFormat(String);

impl std::str::FromStr for LogFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            other => Err(UnknownFormat(other.chars().take(40).collect())),
        }
    }
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("the log filter {filter:?} is not understood; write it like info or echogen_worker=debug,warn")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What the parser said.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else has set it up before.
    #[error("logging is set up already; call init once, at the start of main")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends the events that pass `filter` (such as `info` or `echogen_worker=debug,warn`) to standard error. Once a
/// process, at its start.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let filter = parse_filter(filter)?;
    let registry = registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Pretty => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(lines.with_ansi(colours).with_target(false).with_timer(fmt::time::uptime())).try_init()
        }
        LogFormat::Plain => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    set.map_err(TelemetryError::AlreadySet)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read() {
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert_eq!("plain".parse(), Ok(LogFormat::Plain));
        assert_eq!("pretty".parse(), Ok(LogFormat::Pretty));
        assert!("xml".parse::<LogFormat>().unwrap_err().to_string().contains("use pretty, plain or json"));
    }

    #[test]
    fn a_bad_filter_and_a_second_set_up_are_errors() {
        assert!(parse_filter("info,echogen_worker=debug").is_ok());
        assert!(matches!(parse_filter("a=b=c"), Err(TelemetryError::Filter { .. })));
        assert!(init(LogFormat::Json, "off").is_ok());
        assert!(matches!(init(LogFormat::Plain, "off"), Err(TelemetryError::AlreadySet(_))));
    }
}
