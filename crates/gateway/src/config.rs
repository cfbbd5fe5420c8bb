//! The gateway's settings.

use std::{net::SocketAddr, path::PathBuf};

use echogen_ports::Secret;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

/// The HTTP API and its console.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GatewayConfig {
    /// Address of the HTTP API and the console, such as `127.0.0.1:8080`. Absent: 0.0.0.0:8080, and no gateway in `up`.
    #[schemars(with = "Option<String>", example = &"127.0.0.1:8080", extend("x-alias" = "gateway"))]
    pub listen: Option<SocketAddr>,
    /// Address of the requests below `/admin`; the same as `gateway.listen` serves both there. Absent: they are not served.
    #[schemars(with = "Option<String>", example = &"127.0.0.1:8081")]
    pub admin_listen: Option<SocketAddr>,
    /// File with the tenants, their keys and limits; read anew when it changes.
    pub tenants: Option<PathBuf>,
    /// A key of the tenant `default`, for all requests, instead of a file with tenants: `eg_`, 8 and 43 characters.
    pub key: Option<Secret>,
    /// Secret of at least 32 characters that seals the console's cookies; the same in all gateways of an installation.
    /// Absent: the console's sign-in is off.
    pub sealing_secret: Option<Secret>,
    /// Whether the console is served.
    pub console: bool,
    /// The gateway's address as clients see it, such as `https://images.example.org`; decides whether cookies are for TLS only.
    pub public_url: Option<String>,
    /// Origins of other pages that may call the API with a key, such as `https://app.example.org`.
    pub origins: Vec<String>,
    /// Addresses or networks of proxies whose `X-Forwarded-For` is believed.
    #[schemars(with = "Vec<String>")]
    pub proxies: Vec<IpNet>,
    /// Connections at once.
    #[schemars(range(min = 1))]
    pub connections: u32,
    /// Connections at once from one address that is no proxy.
    #[schemars(range(min = 1))]
    pub connections_per_address: u32,
    /// Bytes a second that a body must bring, once five seconds have passed.
    pub body_bytes_per_second: u32,
    /// Largest body of a picture or an upload, in bytes.
    pub max_image_bytes: u64,
    /// Seconds for which an address of a picture in the store is valid; 0 always serves the picture itself.
    pub address_seconds: f64,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: None,
            admin_listen: None,
            tenants: None,
            key: None,
            sealing_secret: None,
            console: true,
            public_url: None,
            origins: Vec::new(),
            proxies: Vec::new(),
            connections: 10_000,
            connections_per_address: 2_000,
            body_bytes_per_second: 10_000,
            max_image_bytes: 20 * 1024 * 1024,
            address_seconds: 300.0,
        }
    }
}
