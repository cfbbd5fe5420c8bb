//! Traces: spans are sent to a collector by OTLP, each below the span of the message that caused it.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    propagation::TextMapPropagator,
    trace::{Status, TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use rustls::pki_types::CertificateDer;
use tracing::{Instrument, Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::{TelemetryError, otlp_client::OtlpClient};

/// Time limit of one export.
const EXPORT_TIME: Duration = Duration::from_secs(10);

/// Time limit for the last spans at the end of the process.
const LAST_TIME: Duration = Duration::from_secs(5);

/// The header with a message's trace context.
const TRACEPARENT: &str = "traceparent";

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// The collector's address, such as `http://collector:4318`; spans go to `/v1/traces` below it.
    pub endpoint: String,
    /// The certificate authorities that an https collector is verified with.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The service's name, such as `echogen-sampler`.
    pub service: String,
    /// Its version.
    pub version: String,
    /// The share of the traces that begin here which are kept, 0 to 1. For a trace that came with a message, its
    /// beginner has decided.
    pub ratio: f64,
}

/// Sends spans.
#[derive(Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

static IS_ON: AtomicBool = AtomicBool::new(false);

/// From this call on spans are recorded.
pub(crate) fn switch_on() {
    IS_ON.store(true, Ordering::Release);
}

impl Traces {
    pub(crate) fn start(otlp: &Otlp) -> Result<Self, TelemetryError> {
        let client = OtlpClient::new(&otlp.endpoint, &otlp.authorities, EXPORT_TIME).map_err(TelemetryError::Otlp)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", otlp.endpoint.trim_end_matches('/')))
            .with_timeout(EXPORT_TIME)
            .build()
            .map_err(|error| TelemetryError::Otlp(error.to_string()))?;
        let resource = Resource::builder()
            .with_service_name(otlp.service.clone())
            .with_attribute(KeyValue::new("service.version", otlp.version.clone()))
            .build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(otlp.ratio)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .with_sampler(sampler)
            .build();
        Ok(Self { provider })
    }

    /// The layer for our own spans, independent of the log filter.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let layer = tracing_opentelemetry::layer().with_location(false).with_threads(false).with_target(false);
        layer
            .with_tracer(self.provider.tracer("echogen"))
            .with_filter(Targets::new().with_target("echogen", Level::INFO))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_TIME) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// What a span does with a message, by OpenTelemetry's semantic conventions for messaging. The kind of a span is a field of it,
/// `otel.kind`, because it has to be known when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messaging<'a> {
    /// What is done.
    pub operation: MessagingOperation,
    /// The queue.
    pub destination: &'a str,
    /// The job's id, which all messages of a job have in common, and which is their `message_id`.
    pub job: &'a str,
}

/// What is done with a message. The conventions have the same words for the type and for the name of these operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessagingOperation {
    /// It is given to the broker; the span's kind is `producer`.
    Send,
    /// The work that it asks for is done; the span's kind is `consumer`.
    Process,
}

impl MessagingOperation {
    /// The name in the conventions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Process => "process",
        }
    }
}

impl Messaging<'_> {
    /// Names the span `OPERATION QUEUE`, and sets its attributes. They are not fields of the span, which every log line would
    /// repeat.
    pub fn describe(&self, span: &Span) {
        if !IS_ON.load(Ordering::Acquire) {
            return;
        }
        let operation = self.operation.as_str();
        span.context().span().update_name(format!("{operation} {}", self.destination));
        // Its twin in memory has no name in the conventions, and no other program at its end.
        span.set_attribute("messaging.system", "rabbitmq");
        span.set_attribute("messaging.operation.type", operation);
        span.set_attribute("messaging.operation.name", operation);
        span.set_attribute("messaging.destination.name", self.destination.to_owned());
        if !self.job.is_empty() {
            span.set_attribute("messaging.message.id", self.job.to_owned());
            span.set_attribute("messaging.message.conversation_id", self.job.to_owned());
        }
    }
}

/// A span for a batch, in a trace of its own, with a link to the span of each job in it, and of those to it. `name` is what the
/// collector shows. Nothing if spans are not sent.
pub fn batch_span(name: &'static str, members: &[Span]) -> Span {
    if !IS_ON.load(Ordering::Acquire) {
        return Span::none();
    }
    let batch = tracing::info_span!(parent: None, "batch", otel.name = name);
    let own = batch.context().span().span_context().clone();
    for member in members {
        batch.add_link(member.context().span().span_context().clone());
        member.add_link(own.clone());
    }
    let count = i64::try_from(members.len()).unwrap_or(i64::MAX);
    batch.set_attribute("messaging.batch.message_count", count);
    batch
}

/// Runs a call to a server in a span of the kind `client`, if it is part of a task; a call that belongs to none would be a trace
/// of its own. `name` is what the collector shows, `attributes` say more. `error_type` says what an error is.
pub async fn client_call<T, E: std::fmt::Display>(
    name: &'static str,
    attributes: &[(&'static str, &'static str)],
    error_type: impl Fn(&E) -> &'static str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    if !IS_ON.load(Ordering::Acquire) || Span::current().is_none() {
        return call.await;
    }
    let span = tracing::info_span!("call", otel.kind = "client", otel.name = name);
    for (attribute, value) in attributes {
        span.set_attribute(*attribute, *value);
    }
    let ended = call.instrument(span.clone()).await;
    if let Err(error) = &ended {
        fail_span(&span, &error.to_string());
        span.set_attribute("error.type", error_type(error));
    }
    ended
}

/// Places `span`, which must be new, under the span of a `traceparent`; without one it begins a trace. Returns its own
/// `traceparent`, for the messages that it causes; `None` if spans are not sent. `name` is what the collector shows.
pub fn place_span(span: &Span, name: &'static str, parent: Option<&str>) -> Option<String> {
    if !IS_ON.load(Ordering::Acquire) {
        return None;
    }
    if let Some(parent) = parent {
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), parent.to_owned())]);
        let context = TraceContextPropagator::new().extract(&carrier);
        // An error means that the span is disabled; then it has no trace context either.
        span.set_parent(context).ok()?;
    }
    let context = span.context();
    context.span().update_name(name);
    let place = context.span().span_context().clone();
    let flags = place.trace_flags().to_u8();
    place.is_valid().then(|| format!("00-{}-{}-{flags:02x}", place.trace_id(), place.span_id()))
}

/// Marks a span as failed, with one line on why.
pub fn fail_span(span: &Span, why: &str) {
    if IS_ON.load(Ordering::Acquire) {
        span.set_status(Status::error(why.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_collector_no_span_has_a_place() {
        assert_eq!(place_span(&tracing::info_span!("task"), "sampler", None), None);
    }
}
