//! The accept loop: connections are bounded in number, by address, and in the time that a header may take.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    Gateway,
    router::{Served, router},
};

/// The time that a request's headers may take, and that a connection may idle between two requests.
const HEADER_TIME: Duration = Duration::from_secs(5);

/// Bytes of a request's headers.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Pause after a connection could not be accepted, for example because file handles were exhausted.
const PAUSE: Duration = Duration::from_millis(100);

/// The time that open requests have after a shutdown. Streams end by themselves.
const GRACE: Duration = Duration::from_secs(5);

/// A listener with what it serves.
pub struct Server {
    listener: TcpListener,
    router: Router,
    connections: u32,
    per_address: PerAddress,
}

impl Server {
    /// Binds to `address`, to serve requests of tenants with the console, requests of administrators, or both.
    ///
    /// # Errors
    ///
    /// The address cannot be listened at.
    pub async fn bind(address: SocketAddr, gateway: &Gateway, served: Served) -> std::io::Result<Self> {
        let config = &gateway.config;
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            router: router(gateway, served),
            connections: config.connections,
            per_address: PerAddress::new(config.connections_per_address),
        })
    }

    /// Its address: the system chooses the port if 0 was requested.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, and then until open requests have ended or the grace period is over.
    pub async fn serve(self, shutdown: CancellationToken) {
        let (permits, running) = (Arc::new(Semaphore::new(self.connections as usize)), TaskTracker::new());
        loop {
            // The permit is acquired before the connection is accepted: further connections wait in the system's queue.
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let Some((permit, accepted)) = shutdown.run_until_cancelled(accepted).await else { break };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = self.per_address.enter(peer.ip()) else { continue };
                    let (router, shutdown) = (self.router.clone(), shutdown.clone());
                    running.spawn(async move {
                        converse(stream, peer, router, shutdown).await;
                        drop((permit, place));
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        running.close();
        if tokio::time::timeout(GRACE, running.wait()).await.is_err() {
            debug!("requests were open at the end of the grace period");
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, router: Router, shutdown: CancellationToken) {
    // Small events must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "delayed sends are not off");
    }
    // The router is shared by all connections: a layer with the address would be a copy of every route for each of them.
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}

/// Counts connections by address.
#[derive(Clone)]
struct PerAddress {
    counts: Arc<Mutex<HashMap<IpAddr, u32>>>,
    most: u32,
}

/// A connection's place among those of its address.
struct Place {
    counts: PerAddress,
    address: IpAddr,
}

impl PerAddress {
    fn new(most: u32) -> Self {
        Self { counts: Arc::default(), most }
    }

    fn enter(&self, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        (*count < self.most).then(|| {
            *count += 1;
            Place { counts: self.clone(), address }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_an_address_are_bounded_and_given_back() {
        let (counts, here, there) = (PerAddress::new(2), [127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = counts.enter(here).unwrap();
        let _second = counts.enter(here).unwrap();
        assert!(counts.enter(here).is_none() && counts.enter(there).is_some());
        drop(first);
        assert!(counts.enter(here).is_some());
        assert_eq!(counts.counts.lock().unwrap().len(), 1, "an address without connections is forgotten");
    }
}
