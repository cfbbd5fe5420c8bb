//! The HTTP endpoint: probes, metrics, and the log filter.
//!
//! | request | answer |
//! |---|---|
//! | `GET /livez` | 200, or 503 and a line on what is wrong |
//! | `GET /readyz` | the same |
//! | `GET /metrics` | Prometheus's text format |
//! | `GET /log` | the log filter in force |
//! | `PUT /log` | takes the body for the new filter; 400 if it is none, 403 from another machine |
//!
//! It is meant for the inside of a cluster and has no authentication: clients on other machines may read, but change
//! nothing. Connections, their time, headers and bodies are bounded, so that the endpoint cannot exhaust the process.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{Health, LogControl, Metrics};

/// Connections at once; a probe or a scraper needs one each.
const MAX_CONNECTIONS: usize = 32;

/// The time from a connection's beginning to its end.
const CONNECTION_TIME: Duration = Duration::from_secs(120);

/// The time that a request's headers may take.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// Bytes of a request's headers.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Bytes of a log filter.
const MAX_BODY_BYTES: usize = 4 * 1024;

/// Pause after a connection could not be accepted, for example because file handles were exhausted.
const PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Answer = Response<Full<Bytes>>;

/// What the endpoint serves.
#[derive(Clone, Copy)]
struct Shown {
    metrics: &'static Metrics,
    health: &'static Health,
}

/// The endpoint, bound and not yet served.
pub struct Endpoint {
    listener: TcpListener,
    shown: Shown,
    log: LogControl,
}

impl Endpoint {
    /// Binds to an address such as `0.0.0.0:9464`.
    pub async fn bind(address: SocketAddr, log: LogControl) -> std::io::Result<Self> {
        Self::showing(address, crate::metrics(), crate::health(), log).await
    }

    async fn showing(
        address: SocketAddr,
        metrics: &'static Metrics,
        health: &'static Health,
        log: LogControl,
    ) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, shown: Shown { metrics, health }, log })
    }

    /// Its address: the system chooses the port if 0 was requested.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `end` is cancelled.
    pub async fn serve(self, end: CancellationToken) {
        if let Ok(address) = self.address() {
            info!(%address, "serving health and metrics");
        }
        let (permits, connections) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), TaskTracker::new());
        loop {
            // The permit is acquired before the connection is accepted: further connections wait in the system's queue.
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = end.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = converse(stream, peer.ip(), self.shown, self.log.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection to the endpoint was not taken");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, peer: IpAddr, shown: Shown, log: LogControl) {
    let service = service_fn(move |request| {
        let log = log.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request, peer, shown, &log).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => debug!(%error, "a connection to the endpoint ended badly"),
    }
}

async fn answer(request: Request<Incoming>, peer: IpAddr, shown: Shown, log: &LogControl) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::GET | &Method::HEAD, "/livez") => verdict(shown.health.live()),
        (&Method::GET | &Method::HEAD, "/readyz") => verdict(shown.health.ready()),
        (&Method::GET | &Method::HEAD, "/metrics") => {
            respond(StatusCode::OK, METRICS, shown.metrics.render(shown.health))
        }
        (&Method::GET | &Method::HEAD, "/log") => respond(StatusCode::OK, TEXT, format!("{}\n", log.filter())),
        (&Method::PUT, "/log") if !is_here(peer) => {
            let way = "the log filter is changed from the same machine or pod, such as through kubectl port-forward\n";
            respond(StatusCode::FORBIDDEN, TEXT, way.to_owned())
        }
        (&Method::PUT, "/log") => change_log(request.into_body(), log).await,
        (_, "/log") => refuse_method("GET, PUT"),
        (_, "/livez" | "/readyz" | "/metrics") => refuse_method("GET"),
        _ => respond(StatusCode::NOT_FOUND, TEXT, "there are /livez, /readyz, /metrics and /log\n".to_owned()),
    }
}

/// Whether the client is on this machine or in this pod.
fn is_here(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

fn verdict(verdict: Result<(), String>) -> Answer {
    match verdict {
        Ok(()) => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Err(why) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
    }
}

async fn change_log(body: Incoming, log: &LogControl) -> Answer {
    let Ok(read) = timeout(HEADER_TIME, Limited::new(body, MAX_BODY_BYTES).collect()).await else {
        return respond(StatusCode::REQUEST_TIMEOUT, TEXT, "the body did not come\n".to_owned());
    };
    let Ok(body) = read.map(|body| body.to_bytes()) else {
        return respond(StatusCode::PAYLOAD_TOO_LARGE, TEXT, format!("a filter has at most {MAX_BODY_BYTES} bytes\n"));
    };
    let Ok(filter) = std::str::from_utf8(&body) else {
        return respond(StatusCode::BAD_REQUEST, TEXT, "a filter is text\n".to_owned());
    };
    match log.change(filter.trim()) {
        Ok(()) => {
            info!(filter = filter.trim(), "log filter changed");
            respond(StatusCode::OK, TEXT, format!("{}\n", log.filter()))
        }
        Err(error) => respond(StatusCode::BAD_REQUEST, TEXT, format!("{error}\n")),
    }
}

fn refuse_method(allowed: &'static str) -> Answer {
    let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("use {allowed}\n"));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    response
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
