//! A client of the gateway's API: requests over a connection that is kept, and streams of events.
//!
//! It knows no retry: what a program does about a connection that broke off is what it tests or measures.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Timeout of a request, and of the pause between two pieces of a stream. A stream that lives brings a comment every fifteen
/// seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// Returns the body as JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("the answer {} is no JSON", self.status))
    }

    /// Returns whether the same request is to be sent again, and after which time.
    pub fn retry_after(&self) -> Option<Duration> {
        let is_refused = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&self.status);
        let seconds = self.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        is_refused.then(|| Duration::from_secs(seconds.unwrap_or(1)))
    }
}

/// A connection to a gateway; the task that runs it ends with this.
#[derive(Debug)]
pub struct HttpClient {
    address: SocketAddr,
    key: String,
    sender: SendRequest<Full<Bytes>>,
    connection: AbortOnDropHandle<()>,
}

impl HttpClient {
    /// Connects to a gateway, as whom the key belongs to.
    pub async fn connect(address: SocketAddr, key: &str) -> anyhow::Result<Self> {
        let stream = timeout(LIMIT, TcpStream::connect(address)).await.context("connecting takes too long")??;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // A connection that breaks off is seen by its request.
        let connection = AbortOnDropHandle::new(TaskTracker::new().spawn(async move { drop(connection.await) }));
        Ok(Self { address, key: key.to_owned(), sender, connection })
    }

    /// Sends a request and reads its answer.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let answering = async {
            let (parts, body) = self.open(method, path, headers, body).await?.into_parts();
            anyhow::Ok(Answer { status: parts.status, headers: parts.headers, body: body.collect().await?.to_bytes() })
        };
        timeout(LIMIT, answering).await.context("the answer takes too long")?
    }

    /// Sends a request without a body.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// Follows the events at a path, over this connection. The inner error is the status by which the stream was refused.
    pub async fn follow(mut self, path: &str) -> anyhow::Result<Result<EventStream, StatusCode>> {
        let opening = self.open(Method::GET, path, &[], Bytes::new());
        let response = timeout(LIMIT, opening).await.context("the stream takes too long to begin")??;
        if response.status() != StatusCode::OK {
            return Ok(Err(response.status()));
        }
        Ok(Ok(EventStream { body: response.into_body(), received: BytesMut::new(), _connection: self.connection }))
    }

    async fn open(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> anyhow::Result<Response<Incoming>> {
        self.sender.ready().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.key));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }
}

/// A server-sent event.
#[derive(Debug)]
pub struct ServerEvent {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// An open stream of events.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    received: BytesMut,
    _connection: AbortOnDropHandle<()>,
}

impl EventStream {
    /// Returns the next event; `None` at the end of the stream. An error says that the connection broke off.
    pub async fn next(&mut self) -> anyhow::Result<Option<ServerEvent>> {
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.received.split_to(end + 2);
                match event(&String::from_utf8_lossy(&block))? {
                    Some(event) => return Ok(Some(event)),
                    // A comment.
                    None => continue,
                }
            }
            let Some(frame) = timeout(LIMIT, self.body.frame()).await.context("the stream is silent")? else {
                return Ok(None);
            };
            if let Ok(piece) = frame?.into_data() {
                self.received.extend_from_slice(&piece);
            }
        }
    }
}

fn event(block: &str) -> anyhow::Result<Option<ServerEvent>> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let (Some(name), Some(data)) = (field("event:"), field("data:")) else { return Ok(None) };
    let data = serde_json::from_str(data).with_context(|| format!("the data of an event {name} is no JSON"))?;
    Ok(Some(ServerEvent { name: name.to_owned(), data }))
}
