//! Resolves names, once, and only to IP addresses that may be reached.
//!
//! The connection is made to the addresses that were checked here. There is no second look-up, which could give another
//! result.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use super::config::WebAccess;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Resolves and checks.
#[derive(Clone, Debug)]
pub(super) struct CheckedResolver(pub(super) Arc<WebAccess>);

/// The name resolves only to addresses that must not be reached.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Service<Name> for CheckedResolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let access = Arc::clone(&self.0);
        Box::pin(async move {
            // The connector sets the port.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let refused = |at: &SocketAddr| access.refused(at.ip());
            let reachable: Vec<SocketAddr> = found.iter().copied().filter(|at| refused(at).is_none()).collect();
            match (reachable.is_empty(), found.iter().find_map(refused)) {
                (true, Some(whose)) => {
                    // The message does not contain the address: a client must not map the network by it.
                    Err(Refused(format!("{} belongs to {whose}", name.as_str())).into())
                }
                (true, None) => Err(format!("{} has no address", name.as_str()).into()),
                (false, _) => Ok(reachable.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{super::HttpConfig, *};

    #[tokio::test]
    async fn a_checked_name_gives_only_addresses_that_passed() {
        let network = "127.0.0.0/8".parse().unwrap();
        let config = HttpConfig { allowed_networks: vec![network], ..HttpConfig::default() };
        let access = Arc::new(config.access("fetch").unwrap());
        let name: Name = "localhost".parse().unwrap();
        let found: Vec<IpAddr> = CheckedResolver(access).call(name).await.unwrap().map(|at| at.ip()).collect();
        assert!(!found.is_empty() && found.iter().all(|at| *at == Ipv4Addr::LOCALHOST), "{found:?}");
    }
}
