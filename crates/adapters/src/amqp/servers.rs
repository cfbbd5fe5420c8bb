//! Connections to the servers of an address.
//!
//! The hosts of a cluster are tried in turn, each within its share of the timeout, so that a host that does not answer
//! leaves time for the others. The host that answered last is tried first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use echogen_ports::Fault;
use lapin::{
    Connection, ConnectionProperties, runtime,
    tcp::{AMQPUriTcpExt, RustlsConnector},
    uri::{AMQPScheme, AMQPUri},
};
use tokio::time::timeout;
use tracing::debug;

use super::error::port_error;
use crate::{address::Server, tls::Trust};

/// The servers of one address.
pub(super) struct Servers {
    /// At least one; they differ only in the host.
    uris: Vec<AMQPUri>,
    /// The index of the server to try first.
    first: AtomicUsize,
    /// Present if the address uses TLS.
    tls: Option<RustlsConnector>,
    /// The time that one server has to answer.
    timeout: Duration,
}

impl Servers {
    /// The servers at these addresses, which together have `timeout` to answer.
    pub(super) fn new(uris: Vec<AMQPUri>, trust: &Trust, timeout: Duration) -> Result<Self, Fault> {
        let encrypted = uris.iter().any(|uri| uri.scheme == AMQPScheme::AMQPS);
        let tls = encrypted.then(|| trust.client_config()).transpose();
        let tls = tls.map_err(|error| Fault::refused("TLS cannot be set up").because(error))?;
        let timeout = timeout / u32::try_from(uris.len()).unwrap_or(u32::MAX).max(1);
        Ok(Self { uris, first: AtomicUsize::new(0), tls: tls.map(|config| Arc::new(config).into()), timeout })
    }

    /// Connects to the first of them that answers.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, Fault> {
        let (count, first) = (self.uris.len(), self.first.load(Ordering::Relaxed));
        let mut failed = Fault::refused("the address names no server");
        for (index, uri) in (first..first + count).filter_map(|turn| Some((turn % count, self.uris.get(turn % count)?)))
        {
            failed = match self.connect_to(uri, purpose).await {
                Ok(connection) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                // Credentials and rights are the same on all nodes of a cluster, so the others refuse too.
                Err(error) if error.is_permanent() => return Err(error),
                Err(error) => error,
            };
            debug!(error = %failed, purpose, "a server does not answer");
        }
        Err(failed)
    }

    async fn connect_to(&self, uri: &AMQPUri, purpose: &str) -> Result<Connection, Fault> {
        let (place, limit) = (place(uri), self.timeout);
        let properties = ConnectionProperties::default().with_connection_name(format!("echogen {purpose}").into());
        match timeout(limit, open(uri, self.tls.clone(), properties)).await {
            Ok(opened) => opened.map_err(|error| port_error(&format!("RabbitMQ at {place}"), error)),
            Err(_) => Err(Fault::timed_out(format!("RabbitMQ at {place} did not answer within {limit:?}"))),
        }
    }
}

impl std::fmt::Display for Servers {
    /// Their hosts and ports.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&places(&self.uris))
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Servers").field(&self.to_string()).finish()
    }
}

/// Hosts and ports.
pub(super) fn places(uris: &[AMQPUri]) -> String {
    let places: Vec<String> = uris.iter().map(place).collect();
    places.join(", ")
}

fn place(uri: &AMQPUri) -> String {
    Server { host: uri.authority.host.clone(), port: Some(uri.authority.port) }.to_string()
}

/// Opens a connection. The stream is made here because lapin's own TLS setup trusts either the system's authorities or
/// configured ones, not both.
async fn open(
    uri: &AMQPUri,
    tls: Option<RustlsConnector>,
    properties: ConnectionProperties,
) -> Result<Connection, lapin::Error> {
    let connect = async move |uri: AMQPUri, runtime| {
        let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
        let stream = plain.connect_async(&runtime).await?;
        match &tls {
            Some(connector) => Ok(stream.into_rustls(connector, &uri.authority.host).await?),
            None => Ok(stream),
        }
    };
    Connection::connector(uri.clone(), runtime::default_runtime()?, connect, properties).await
}
