//! Probes, at the gateway's own listener: load balancers look there.

use axum::response::{IntoResponse, Response};
use http::StatusCode;

/// `GET /livez`
pub(crate) async fn live() -> Response {
    verdict(echogen_telemetry::health().live())
}

/// `GET /readyz`
pub(crate) async fn ready() -> Response {
    // What is wrong is for operators; it is at the endpoint of metrics and health.
    verdict(echogen_telemetry::health().ready().map_err(|_| "not ready".to_owned()))
}

fn verdict(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
