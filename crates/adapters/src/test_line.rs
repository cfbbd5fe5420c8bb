//! A line to a server of tests: at another address than the server's, and as slow as a test wants it.

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

/// Passes on what comes; it ends with this value.
pub(crate) struct Line {
    target: u16,
    /// For each connection and direction.
    bytes_per_second: f64,
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Line {
    /// To the server at this port of this machine. Nobody listens yet.
    pub(crate) fn to(target: u16) -> Self {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        Self { target, bytes_per_second: f64::INFINITY, address, tasks: JoinSet::new() }
    }

    /// So slow for each connection: one that waits does not keep others waiting.
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
                    // One direction's end is the other's too.
                    select! {
                        () = pass(client_in, server_out, speed) => {}
                        () = pass(server_in, client_out, speed) => {}
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

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, bytes_per_second: f64) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        sleep(Duration::from_secs_f64(count as f64 / bytes_per_second)).await;
    }
}
