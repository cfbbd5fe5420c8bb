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
use tracing::{Level, Span, Subscriber};
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
