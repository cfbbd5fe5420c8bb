//! The router, made of the table of routes: what every request passes before and behind its handler.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use echogen_protocol::TaskHeaders;
use echogen_telemetry::{metrics, place_span};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tracing::{Instrument, field::Empty, info_span};

use crate::{
    Gateway, authentication, console,
    problem::{Kind, Problem, Sent},
    route::{Access, Route},
    routes,
};

/// The header of W3C Trace Context; a client's trace goes on in the gateway and in the job.
const TRACEPARENT: &str = TaskHeaders::TRACEPARENT_HEADER;

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Requests of tenants, and the console.
    pub tenants: bool,
    /// Requests of administrators.
    pub admin: bool,
}

/// The router of a listener.
pub(crate) fn router(gateway: &Gateway, served: Served) -> Router {
    let is_here = |route: &Route| if route.access == Access::Admin { served.admin } else { served.tenants };
    let mut router = Router::new();
    for route in routes::table().into_iter().filter(|route| is_here(route)) {
        let guard = from_fn_with_state((gateway.clone(), route.access), authentication::guard);
        let handler = route
            .handler
            .clone()
            .layer(guard)
            .layer(from_fn(move |request, next| measured(route.name, route.path, request, next)));
        router = router.route(route.path, handler);
    }
    if served.tenants && gateway.config.console {
        router = router.merge(console::router());
    }
    router
        .fallback(|| async { Problem::not_found("there is nothing at this path; see /v1/openapi.json") })
        .method_not_allowed_fallback(|| async { Problem::new(Kind::MethodNotAllowed, "see /v1/openapi.json") })
        .layer(from_fn_with_state(gateway.clone(), cross_origin))
        .layer(from_fn(finished))
        .with_state(gateway.clone())
}

/// Counts and times a request under its route's name, in a span that continues the client's trace.
async fn measured(route: &'static str, path: &'static str, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let span = info_span!(
        "request",
        otel.kind = "server",
        http.request.method = request.method().as_str(),
        http.route = path,
        http.response.status_code = Empty
    );
    let parent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
    place_span(&span, route, parent);
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    metrics().http_request(route, response.status().as_u16(), began.elapsed());
    if let Some(Sent(kind)) = response.extensions().get::<Sent>() {
        metrics().http_refusal(kind.as_str());
    }
    response
}

/// Errors of the framework become problems, and every response gets the headers that keep browsers from guessing.
async fn finished(request: Request, next: Next) -> Response {
    let is_head = request.method() == Method::HEAD;
    let response = next.run(request).await;
    let mut response = if is_head { response } else { as_problem(response) };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static("default-src 'none'"));
    response
}

/// An extractor's refusal, which is plain text, as a problem.
fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_plain =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    let is_extractor = status.is_client_error() && response.extensions().get::<Sent>().is_none() && is_plain;
    if !is_extractor {
        return response;
    }
    match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Problem::new(Kind::MediaType, "see /v1/openapi.json for what is accepted")
        }
        StatusCode::UNPROCESSABLE_ENTITY => Problem::new(Kind::Invalid, "a field is wrong; see /v1/openapi.json"),
        _ => Problem::new(Kind::BadRequest, "a parameter of the path or query is wrong; see /v1/openapi.json"),
    }
    .into_response()
}

/// Cross-origin requests of the pages that are listed. They bring a key; cookies are never accepted from them, because the
/// header that allows it is never sent.
async fn cross_origin(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    const ALLOWED: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, idempotency-key, last-event-id, prefer, traceparent",
        ),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "location, preference-applied, ratelimit, ratelimit-policy, retry-after",
        ),
    ];
    if gateway.config.origins.is_empty() {
        return next.run(request).await;
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed =
        origin.filter(|origin| gateway.config.origins.iter().any(|listed| listed.as_bytes() == origin.as_bytes()));
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&allowed, is_preflight) {
        (Some(_), true) => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.extend(ALLOWED.map(|(name, value)| (name, HeaderValue::from_static(value))));
    }
    response
}

/// The address that a request comes from: the connection's, or what a proxy that is believed says.
pub(crate) fn address_of(gateway: &Gateway, connection: SocketAddr, headers: &HeaderMap) -> IpAddr {
    let is_proxy = |address: IpAddr| gateway.config.proxies.iter().any(|network| network.contains(&address));
    let mut address = connection.ip();
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let forwarded: Vec<IpAddr> =
        forwarded.flat_map(|value| value.split(',')).filter_map(|part| part.trim().parse().ok()).collect();
    // Each proxy adds the address that it saw at the end.
    for before in forwarded.into_iter().rev() {
        if !is_proxy(address) {
            break;
        }
        address = before;
    }
    address
}
