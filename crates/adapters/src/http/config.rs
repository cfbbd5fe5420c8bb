//! What may be fetched from the web, and how patiently.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::networks::{Network, not_public};
use crate::time::seconds;

/// The settings of an [`HttpImageFetcher`](super::HttpImageFetcher).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Hosts that pictures are taken from: `example.org` for that host, `*.example.org` for all below it. Default: none
    /// named, that is all.
    pub allowed_hosts: Vec<String>,
    /// Networks that are reached although they are not public, such as `10.1.0.0/16` for a picture server of one's own.
    /// Default: none.
    pub allowed_networks: Vec<Network>,
    /// Whether `http://` is fetched too. A job's own address is always `https://`; with this a redirect may lead to an
    /// unencrypted one. Default: no.
    pub allow_http: bool,
    /// Certificates, as PEM text, that are trusted besides the system's, for a picture server of one's own. Default:
    /// none.
    pub certificates: String,
    /// Redirects that are followed. Default: 5.
    pub max_redirects: u32,
    /// Seconds to wait for a connection. Default: 5.
    pub connect_timeout_seconds: f64,
    /// Seconds that a picture may take with all its redirects. Default: 30.
    pub timeout_seconds: f64,
    /// What servers are told that asks. Default: `echogen/` and the version.
    pub user_agent: String,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            allowed_hosts: Vec::new(),
            allowed_networks: Vec::new(),
            allow_http: false,
            certificates: String::new(),
            max_redirects: 5,
            connect_timeout_seconds: 5.0,
            timeout_seconds: 30.0,
            user_agent: concat!("echogen/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl HttpConfig {
    pub(super) fn connect_timeout(&self) -> Duration {
        seconds(self.connect_timeout_seconds)
    }

    pub(super) fn timeout(&self) -> Duration {
        seconds(self.timeout_seconds)
    }

    /// Whether the host may be asked, by its name.
    pub(super) fn allows_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let allows = |allowed: &String| {
            let allowed = allowed.to_ascii_lowercase();
            match allowed.strip_prefix("*.") {
                Some(above) => host.strip_suffix(above).is_some_and(|below| below.len() > 1 && below.ends_with('.')),
                None => host == allowed,
            }
        };
        self.allowed_hosts.is_empty() || self.allowed_hosts.iter().any(allows)
    }

    /// What the address belongs to, if it must not be reached.
    pub(super) fn refused(&self, address: IpAddr) -> Option<&'static str> {
        let whose = not_public(address)?;
        let allowed = self.allowed_networks.iter().any(|network| network.contains(address));
        (!allowed).then_some(whose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_allowed_by_name_or_by_what_is_above_them() {
        let config = HttpConfig {
            allowed_hosts: vec!["example.org".into(), "*.Pictures.example".into()],
            ..HttpConfig::default()
        };
        for host in ["example.org", "EXAMPLE.org", "example.org.", "a.pictures.example", "a.b.pictures.example"] {
            assert!(config.allows_host(host), "{host}");
        }
        for host in
            ["pictures.example", "a.example.org", "badexample.org", "xpictures.example", ".pictures.example", ""]
        {
            assert!(!config.allows_host(host), "{host}");
        }
        assert!(HttpConfig::default().allows_host("anything"));
    }
}
