//! Logs, metrics, traces and health of a process.
//!
//! | part | what it does |
//! |---|---|
//! | [`init`] | one log line an event on standard error, and spans to a collector by OTLP; once a process |
//! | [`metrics()`] | the process's metrics; [`LIST`] names all there are, `docs/metrics.md` is made from it |
//! | [`health()`] | whether the roles of this process live and are ready, and device faults |
//! | [`Endpoint`] | `/livez`, `/readyz`, `/metrics`, and `/log`, where the log filter is changed at run time |
//! | [`place_span`], [`Messaging`], [`batch_span`] | joins a span to the trace of the message that caused it, and describes it by OpenTelemetry's conventions |
//!
//! Metrics and health are global per process, like standard error: there is one of each, and no handle is passed
//! around. No label contains the name of a job or a tenant; the values of every label are a closed set.

mod endpoint;
mod health;
mod logs;
mod metrics;
mod otlp_client;
mod traces;

pub use endpoint::Endpoint;
pub use health::{Consuming, Health, health};
pub use logs::{LogControl, LogFormat, Options, Telemetry, TelemetryError, UnknownFormat, init};
pub use metrics::{
    CacheAnswer, GateAnswer, JobEnd, JobOutcome, Kind, LIST, Label, Metric, Metrics, NoticeEnd, NoticeName,
    OBJECT_KINDS, PreviewEnd, StoreAnswer, StoreCall, TaskEnd, TaskInProgress, metrics, page,
};
pub use traces::{Messaging, MessagingOperation, Otlp, batch_span, client_call, fail_span, place_span};
