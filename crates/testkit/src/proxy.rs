//! A TCP proxy that can cut, stall and restore what goes through it.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    select,
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    /// Everything passes.
    Whole,
    /// Everything passes later.
    Slow(Duration),
    /// Nothing passes, without any notification: data that was sent waits.
    Stalled,
    /// Connections are reset, new ones too.
    Cut,
}

/// A proxy in front of a server, which can fail. Connections end when it is dropped.
#[derive(Debug)]
pub struct CutProxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    end: CancellationToken,
}

impl CutProxy {
    /// Listens on a free port and passes connections on to `target`, such as `127.0.0.1:5672`.
    pub async fn start(target: impl Into<String>) -> io::Result<Self> {
        Self::among(vec![target.into()]).await
    }

    /// Passes each connection on to the first of `targets` that takes it, as a service in front of a cluster does.
    pub async fn among(targets: Vec<String>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (network, watched) = watch::channel(Network::Whole);
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        let serving = serve(listener, targets, watched, tasks.clone());
        let ended = end.clone();
        tasks.spawn(async move { ended.run_until_cancelled(serving).await });
        Ok(Self { address, network, end })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Resets all connections, and every new one, until [`CutProxy::restore`].
    pub fn cut(&self) {
        self.network.send_replace(Network::Cut);
    }

    /// Lets nothing pass, without notifying either side, until [`CutProxy::restore`].
    pub fn stall(&self) {
        self.network.send_replace(Network::Stalled);
    }

    /// Lets everything pass, each piece of up to 16 KiB after a delay, until [`CutProxy::restore`].
    pub fn slow_down(&self, delay: Duration) {
        self.network.send_replace(Network::Slow(delay));
    }

    /// Lets everything pass again; stalled data continues.
    pub fn restore(&self) {
        self.network.send_replace(Network::Whole);
    }
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        self.end.cancel();
        self.network.send_replace(Network::Cut);
    }
}

async fn serve(listener: TcpListener, targets: Vec<String>, network: watch::Receiver<Network>, tasks: TaskTracker) {
    while let Ok((client, _)) = listener.accept().await {
        if *network.borrow() == Network::Cut {
            continue;
        }
        let (targets, network) = (targets.clone(), network.clone());
        tasks.spawn(async move {
            let Some(server) = connect(&targets).await else { return };
            let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
            // When one direction ends, the other ends too: both halves are dropped, and with them both connections.
            select! {
                () = pass(client_in, server_out, network.clone()) => {}
                () = pass(server_in, client_out, network) => {}
            }
        });
    }
}

async fn connect(targets: &[String]) -> Option<TcpStream> {
    for target in targets {
        if let Ok(server) = TcpStream::connect(target).await {
            return Some(server);
        }
    }
    None
}

/// Passes one direction on until either side closes or the network is cut.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut network: watch::Receiver<Network>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let state = *network.borrow_and_update();
        let read = select! {
            biased;
            changed = network.changed() => {
                if changed.is_err() { return }
                continue;
            }
            () = std::future::ready(()), if state == Network::Cut => return,
            read = from.read(&mut buffer), if state != Network::Stalled => read,
        };
        if let Network::Slow(delay) = state {
            tokio::time::sleep(delay).await;
        }
        match read {
            Ok(count) if count > 0 && to.write_all(&buffer[..count]).await.is_ok() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A server that sends back what it gets.
    async fn echo(tasks: &TaskTracker) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = tasks.clone();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut from, mut to) = stream.split();
                    drop(tokio::io::copy(&mut from, &mut to).await);
                });
            }
        });
        address
    }

    async fn said_back(stream: &mut TcpStream, byte: u8) -> Option<u8> {
        stream.write_all(&[byte]).await.ok()?;
        timeout(Duration::from_millis(200), stream.read_u8()).await.ok()?.ok()
    }

    #[tokio::test]
    async fn it_passes_stalls_cuts_and_restores() {
        let tasks = TaskTracker::new();
        let proxy = CutProxy::start(echo(&tasks).await.to_string()).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said_back(&mut stream, 1).await, Some(1));
        proxy.stall();
        assert_eq!(said_back(&mut stream, 2).await, None);
        proxy.restore();
        assert_eq!(stream.read_u8().await.unwrap(), 2, "what was stalled goes on");
        proxy.cut();
        assert!(stream.read_u8().await.is_err(), "the connection is closed");
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said_back(&mut refused, 3).await, None);
        proxy.restore();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(said_back(&mut stream, 4).await, Some(4));
        proxy.slow_down(Duration::from_millis(150));
        assert_eq!(said_back(&mut stream, 5).await, None, "there and back takes twice the delay");
        assert_eq!(stream.read_u8().await.unwrap(), 5);
    }
}
