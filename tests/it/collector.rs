//! A trace collector with OpenTelemetry's protocol: OTLP over HTTP, in protobuf.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet};

/// A received span.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CollectedSpan {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace: Vec<u8>,
    pub(crate) id: Vec<u8>,
    /// Empty for the root span of a trace.
    pub(crate) parent: Vec<u8>,
    /// The attribute `job`.
    pub(crate) job: String,
    /// All attributes that are texts, and numbers as texts.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The kind's number in OTLP: 1 internal, 3 client, 4 producer, 5 consumer.
    pub(crate) kind: i32,
    /// The spans that it is linked to.
    pub(crate) links: Vec<Vec<u8>>,
    pub(crate) has_failed: bool,
}

/// A collector; it is stopped when this value is dropped.
pub(crate) struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<CollectedSpan>>>,
    _serving: JoinSet<()>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (spans, mut serving) = (Arc::default(), JoinSet::new());
        serving.spawn(serve(listener, Arc::clone(&spans)));
        Self { address, spans, _serving: serving }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all spans received so far.
    pub(crate) fn spans(&self) -> Vec<CollectedSpan> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(listener: TcpListener, spans: Arc<Mutex<Vec<CollectedSpan>>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let spans = Arc::clone(&spans);
        let service = service_fn(move |request| {
            let spans = Arc::clone(&spans);
            async move { Ok::<_, Infallible>(collect(request, &spans).await) }
        });
        connections.spawn(async move {
            // A client may close the connection after its request.
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn collect(request: Request<Incoming>, spans: &Mutex<Vec<CollectedSpan>>) -> Response<Full<Bytes>> {
    let is_export = request.method() == Method::POST && request.uri().path() == "/v1/traces";
    let is_protobuf = request.headers().get("content-type").is_some_and(|kind| kind == "application/x-protobuf");
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let read = ExportTraceServiceRequest::decode(body);
    let mut response = Response::new(Full::default());
    match read {
        Ok(export) if is_export && is_protobuf => {
            spans.lock().unwrap_or_else(PoisonError::into_inner).extend(spans_of(export));
        }
        _ => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

fn spans_of(export: ExportTraceServiceRequest) -> Vec<CollectedSpan> {
    let mut all = Vec::new();
    for resource in export.resource_spans {
        let about = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = text(&about, "service.name");
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            all.push(CollectedSpan {
                service: service.clone(),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
                job: text(&span.attributes, "job"),
                attributes: span.attributes.iter().map(|each| (each.key.clone(), value(each))).collect(),
                kind: span.kind,
                links: span.links.into_iter().map(|link| link.span_id).collect(),
                // The status code of an error in OTLP.
                has_failed: span.status.is_some_and(|status| status.code == 2),
            });
        }
    }
    all
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == name).and_then(|found| found.value.clone());
    match value {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text,
        _ => String::new(),
    }
}

fn value(attribute: &KeyValue) -> String {
    match attribute.value.clone().and_then(|found| found.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}
