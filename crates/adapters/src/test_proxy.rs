//! A TCP proxy for tests: it listens at another address than the server, and can limit the rate.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    select,
    task::JoinSet,
    time::sleep,
};

/// Forwards in both directions; it ends when this value is dropped.
pub(crate) struct TestProxy {
    target: u16,
    /// The rate of each connection and direction.
    bytes_per_second: f64,
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl TestProxy {
    /// A proxy to the server at this port of the local machine. It does not listen yet.
    pub(crate) fn to(target: u16) -> Self {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        Self { target, bytes_per_second: f64::INFINITY, address, tasks: JoinSet::new() }
    }

    /// Limits the rate of each connection; connections do not delay each other.
    pub(crate) fn slow(self, bytes_per_second: f64) -> Self {
        Self { bytes_per_second, ..self }
    }

    /// Listens at an address.
    pub(crate) async fn listening(mut self, address: impl Into<SocketAddr>) -> Self {
        let listener = TcpListener::bind(address.into()).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (target, speed) = (self.target, self.bytes_per_second);
        self.tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(async move {
                    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await.unwrap();
                    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
                    // The first direction to end closes the other.
                    select! {
                        // The client has closed its side, or the server no longer accepts bytes.
                        () = forward(client_in, server_out, speed) => {}
                        // The server has closed its side, or the client no longer accepts bytes.
                        () = forward(server_in, client_out, speed) => {}
                    }
                });
            }
        });
        self
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}

async fn forward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, bytes_per_second: f64) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        sleep(Duration::from_secs_f64(count as f64 / bytes_per_second)).await;
    }
}
