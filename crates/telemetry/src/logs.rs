//! Logs: one line an event, on standard error, so that standard output stays free for results.
//!
//! Records of other crates below `info` are dropped whatever the filter: they contain frames and requests with
//! passwords and pictures.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry, reload,
    util::SubscriberInitExt,
};

use crate::traces::{self, Otlp, Traces};

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

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pretty => "pretty",
            Self::Plain => "plain",
            Self::Json => "json",
        })
    }
}

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

/// Logging or tracing could not be set up.
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
    /// It was set up before.
    #[error("logging is set up already; call init once, at the start of main")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
    /// The process's logging has ended.
    #[error("the log filter cannot be changed any more")]
    Gone,
    /// Spans cannot be sent there.
    #[error("traces cannot be sent: {0}; give --otlp-endpoint like http://collector:4318")]
    Otlp(String),
}

/// What is logged and traced, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How log lines look.
    pub format: LogFormat,
    /// Which are written, such as `info` or `echogen_worker=debug,warn`.
    pub filter: String,
    /// Where spans go; nowhere if absent.
    pub otlp: Option<Otlp>,
}

/// Logging and tracing of this process. Dropping it sends the spans that are still buffered.
#[derive(Debug)]
pub struct Telemetry {
    log: LogControl,
    _traces: Option<Traces>,
}

impl Telemetry {
    /// Changes the log filter.
    pub fn log(&self) -> LogControl {
        self.log.clone()
    }
}

/// Changes the log filter while the process runs.
#[derive(Clone)]
pub struct LogControl {
    filter: Arc<Mutex<String>>,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogControl {
    fn new(text: &str, handle: reload::Handle<EnvFilter, Registry>) -> Self {
        Self { filter: Arc::new(Mutex::new(text.to_owned())), handle }
    }

    /// The filter in force.
    pub fn filter(&self) -> String {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the filter; an invalid one changes nothing.
    pub fn change(&self, filter: &str) -> Result<(), TelemetryError> {
        let parsed = parse_filter(filter)?;
        let mut text = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle.reload(parsed).map_err(|_| TelemetryError::Gone)?;
        filter.clone_into(&mut text);
        Ok(())
    }

    /// One that filters nothing, for tests.
    #[cfg(test)]
    pub(crate) fn for_test(filter: &str) -> Self {
        let (layer, handle) = reload::Layer::new(EnvFilter::new(filter));
        // The handle works as long as its layer lives.
        Box::leak(Box::new(layer));
        Self::new(filter, handle)
    }
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogControl({:?})", self.filter())
    }
}

/// Sends the events that pass the filter to standard error, and spans to the collector, if there is one. Once a process,
/// at its start.
pub fn init(options: &Options) -> Result<Telemetry, TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse_filter(&options.filter)?);
    // If standard error cannot be written, the layer would report that there, and panic.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = match options.format {
        LogFormat::Pretty => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(colours).with_target(false).with_timer(fmt::time::uptime()).boxed()
        }
        LogFormat::Plain => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let traces = options.otlp.as_ref().map(Traces::start).transpose()?;
    // An absent layer would enable everything: records that no layer wants must not be created.
    let wanted = if traces.is_some() { LevelFilter::TRACE } else { LevelFilter::OFF };
    let spans = traces.as_ref().map(Traces::layer).with_filter(wanted);
    let subscriber = registry().with(lines.with_filter(filter.and(filter_fn(is_harmless)))).with(spans);
    subscriber.try_init().map_err(TelemetryError::AlreadySet)?;
    if traces.is_some() {
        traces::switch_on();
    }
    Ok(Telemetry { log: LogControl::new(&options.filter, handle), _traces: traces })
}

/// Whether a record cannot contain secrets: our own records, and those of other crates from `info` on.
fn is_harmless(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || metadata.target().starts_with("echogen")
}

/// Clients of servers that write an error for each answer which their callers expect, such as that a queue does not exist, and
/// return what they write: whoever called them says what it means.
const RETURN_THEIR_ERRORS: [&str; 1] = ["lapin"];

/// Reads a filter. What it does not name of [`RETURN_THEIR_ERRORS`] is off.
fn parse_filter(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let unnamed = RETURN_THEIR_ERRORS.iter().filter(|target| !filter.contains(**target));
    let whole: Vec<String> = unnamed.map(|target| format!("{target}=off")).chain([filter.to_owned()]).collect();
    EnvFilter::try_new(whole.join(",")).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
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
    fn a_bad_filter_and_a_second_set_up_are_errors_and_the_filter_changes() {
        assert!(parse_filter("info,echogen_worker=debug").is_ok());
        assert!(matches!(parse_filter("a=b=c"), Err(TelemetryError::Filter { .. })));
        let options = Options { format: LogFormat::Json, filter: "off".to_owned(), otlp: None };
        let telemetry = init(&options).unwrap();
        assert!(matches!(init(&options), Err(TelemetryError::AlreadySet(_))));
        assert!(!tracing::enabled!(target: "echogen_test", Level::INFO));
        telemetry.log().change("info").unwrap();
        assert!(tracing::enabled!(target: "echogen_test", Level::INFO), "from now on");
        assert!(telemetry.log().change("a=b=c").is_err());
        assert_eq!(telemetry.log().filter(), "info");
        telemetry.log().change("trace").unwrap();
        assert!(tracing::enabled!(target: "echogen_test", Level::TRACE));
        assert!(!tracing::enabled!(target: "lapin", Level::ERROR), "its callers say what its errors mean");
        telemetry.log().change("trace,lapin=trace").unwrap();
        assert!(tracing::enabled!(target: "lapin", Level::INFO), "whoever names it gets it");
        assert!(!tracing::enabled!(target: "lapin", Level::DEBUG), "frames hold passwords");
        telemetry.log().change("off").unwrap();
    }
}
