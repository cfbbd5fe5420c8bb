//! The few calls of RabbitMQ's HTTP API that tests need, without an HTTP client: `rabbitmqctl` takes seconds a call.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::ServerError;

/// `guest:guest` in base64.
const CREDENTIALS: &str = "Z3Vlc3Q6Z3Vlc3Q=";

/// The API of one node.
pub(super) struct Management {
    pub(super) port: u16,
}

impl Management {
    /// Sends a request and returns the answer's body; any status but 2xx is an error.
    pub(super) async fn call(&self, method: &str, path: &str, body: &str) -> Result<String, ServerError> {
        let failed = |what: &str| ServerError(format!("{method} {path} on RabbitMQ's management port: {what}"));
        let answer = timeout(Duration::from_secs(20), self.exchange(method, path, body)).await;
        let answer = answer.map_err(|_| failed("no answer"))?.map_err(|error| failed(&error.to_string()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status.starts_with('2') { Ok(body.to_owned()) } else { Err(failed(&format!("status {status}: {body}"))) }
    }

    /// HTTP 1.0: the answer comes in one piece and ends with the connection.
    async fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nAuthorization: Basic {CREDENTIALS}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }
}
