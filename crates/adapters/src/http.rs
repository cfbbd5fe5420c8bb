//! Pictures from the web.
//!
//! The address comes from a stranger, so everything about it is bounded: bytes, time, redirects, and above all where
//! it may lead; see [`networks`]. Each redirect is a new address and is checked as the first one was. Deliberately
//! absent: proxies (the environment's are ignored), cookies, credentials, and decoding of compressed answers.

mod config;
mod networks;
mod resolver;
#[cfg(test)]
mod tests;

use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};

use ::http::{HeaderMap, Request, Response, StatusCode, header};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use echogen_ports::{ImageFetcher, PortError};
use echogen_protocol::{ImageLocation, ImageSource};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use url::{Host, Url};

pub use config::HttpFetchConfig;
pub use networks::Network;
use resolver::{CheckedResolver, Refused};

/// Connections that are kept for the next picture of the same server.
const IDLE_CONNECTIONS: usize = 4;

/// How long a connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Fetches pictures by `https://`.
#[derive(Clone)]
pub struct HttpImageFetcher {
    client: Client<HttpsConnector<HttpConnector<CheckedResolver>>, Empty<Bytes>>,
    config: Arc<HttpFetchConfig>,
}

/// Where one request led.
enum Step {
    Picture(Bytes),
    Elsewhere(Url),
}

impl HttpImageFetcher {
    /// Makes a fetcher with the system's certificates and those of the settings.
    pub fn new(config: HttpFetchConfig) -> Result<Self, PortError> {
        let config = Arc::new(config);
        let mut connector = HttpConnector::new_with_resolver(CheckedResolver(Arc::clone(&config)));
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.connect_timeout()));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config(&config.certificates)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Ok(Self { client, config })
    }

    /// Fetches what lies at `url`, at most `max_bytes` of it.
    pub async fn fetch_url(&self, url: &Url, max_bytes: u64) -> Result<Bytes, PortError> {
        match tokio::time::timeout(self.config.timeout(), self.follow(url.clone(), max_bytes)).await {
            Ok(fetched) => fetched,
            Err(_) => {
                let limit = self.config.timeout_seconds;
                Err(PortError::transient(format!("{} did not send the picture in {limit} seconds", shown(url))))
            }
        }
    }

    async fn follow(&self, mut url: Url, max_bytes: u64) -> Result<Bytes, PortError> {
        for _ in 0..=self.config.max_redirects {
            match self.step(&url, max_bytes).await? {
                Step::Picture(bytes) => return Ok(bytes),
                Step::Elsewhere(next) => url = next,
            }
        }
        let limit = self.config.max_redirects;
        Err(PortError::permanent(format!("{} redirects more than {limit} times; name the picture itself", shown(&url))))
    }

    async fn step(&self, url: &Url, max_bytes: u64) -> Result<Step, PortError> {
        self.check(url)?;
        let request = Request::get(url.as_str())
            .header(header::USER_AGENT, &self.config.user_agent)
            .header(header::ACCEPT, "image/*")
            .header(header::ACCEPT_ENCODING, "identity")
            .body(Empty::new())
            .map_err(|error| PortError::permanent(format!("{} cannot be asked for", shown(url))).because(error))?;
        let response = self.client.request(request).await.map_err(|error| connect_error(url, error))?;
        if let Some(next) = redirect(url, &response)? {
            return Ok(Step::Elsewhere(next));
        }
        if response.status() != StatusCode::OK {
            return Err(status_error(url, response.status(), response.headers()));
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(PortError::permanent(format!("{} is sent compressed; serve it as it is", shown(url))));
        }
        read(url, response.into_body(), max_bytes).await.map(Step::Picture)
    }

    /// Checks all that can be known before a name is resolved. An address in place of a name is not resolved at all,
    /// so it is checked here.
    fn check(&self, url: &Url) -> Result<(), PortError> {
        let refuse = |why: &str| Err(PortError::permanent(format!("{} is not fetched: {why}", shown(url))));
        match url.scheme() {
            "https" => {}
            "http" if self.config.allow_http => {}
            "http" => return refuse("it is not encrypted; use https://"),
            _ => return refuse("it is no https:// address"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("it carries a user name or password; take it out");
        }
        let (name, address) = match url.host() {
            Some(Host::Domain(name)) => (name.to_owned(), None),
            Some(Host::Ipv4(address)) => (address.to_string(), Some(IpAddr::V4(address))),
            Some(Host::Ipv6(address)) => (address.to_string(), Some(IpAddr::V6(address))),
            None => return refuse("it names no host"),
        };
        if !self.config.allows_host(&name) {
            return refuse("the host is not on the list of allowed ones");
        }
        match address.and_then(|address| self.config.refused(address)) {
            Some(whose) => refuse(&format!("the address belongs to {whose}")),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for HttpImageFetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HttpImageFetcher").field(&self.config).finish()
    }
}

#[async_trait]
impl ImageFetcher for HttpImageFetcher {
    async fn fetch(&self, source: &ImageSource, max_bytes: u64) -> Result<Bytes, PortError> {
        match source.location() {
            Ok(ImageLocation::Https(url)) => self.fetch_url(&url, max_bytes).await,
            Ok(_) => Err(PortError::permanent(format!("{source} is no https:// address"))),
            Err(error) => Err(PortError::permanent(error.to_string())),
        }
    }
}

fn tls_config(certificates: &str) -> Result<ClientConfig, PortError> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is of no use; the others still are.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in CertificateDer::pem_slice_iter(certificates.as_bytes()) {
        let bad = "the certificates for fetching pictures are not valid PEM text";
        let certificate = certificate.map_err(|error| PortError::permanent(bad).because(error))?;
        roots.add(certificate).map_err(|error| PortError::permanent(bad).because(error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PortError::permanent("TLS cannot be set up").because(error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Without what stands behind the path: it may be a signature.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let path: String = url.path().chars().take(100).collect();
    format!("{}://{host}{path}", url.scheme())
}

fn redirect(url: &Url, response: &Response<Incoming>) -> Result<Option<Url>, PortError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let fault = || PortError::permanent(format!("{} redirects to nowhere; name the picture itself", shown(url)));
    let location = response.headers().get(header::LOCATION).ok_or_else(fault)?;
    let location = location.to_str().map_err(|error| fault().because(error))?;
    url.join(location).map(Some).map_err(|error| fault().because(error))
}

async fn read(url: &Url, mut body: Incoming, max_bytes: u64) -> Result<Bytes, PortError> {
    // What the server says of the length; what it sends is counted all the same.
    let said = body.size_hint().lower();
    if said > max_bytes {
        return Err(too_large(url, &said.to_string(), max_bytes));
    }
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            PortError::transient(format!("{} broke off in the middle of the picture", shown(url))).because(error)
        })?;
        let Ok(piece) = frame.into_data() else { continue };
        if (all.len() + piece.len()) as u64 > max_bytes {
            return Err(too_large(url, &format!("more than {max_bytes}"), max_bytes));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

fn too_large(url: &Url, size: &str, max_bytes: u64) -> PortError {
    PortError::permanent(format!("{} has {size} bytes; the limit is {max_bytes}, use a smaller picture", shown(url)))
}

/// Nobody could be asked. Whether a name does not exist or cannot be looked up just now, the system does not tell.
fn connect_error(url: &Url, error: hyper_util::client::legacy::Error) -> PortError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(now) = cause {
        if let Some(refused) = now.downcast_ref::<Refused>() {
            let message = format!("{} is not fetched: {refused}", shown(url));
            return PortError::permanent(message);
        }
        if let Some(tls) = tls_error(now) {
            return PortError::permanent(format!("{} has no valid certificate: {tls}", shown(url)));
        }
        cause = now.source();
    }
    let what = if error.is_connect() { "cannot be reached" } else { "gave no answer" };
    PortError::transient(format!("{} {what}", shown(url))).because(error)
}

/// A certificate that does not hold. It comes packed into errors of input and output, which do not show what they hold
/// as their cause.
fn tls_error(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(rustls::Error::InvalidCertificate(why)) = cause.downcast_ref() {
        return Some(format!("{why:?}"));
    }
    let packed = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
    tls_error(packed)
}

fn status_error(url: &Url, status: StatusCode, headers: &HeaderMap) -> PortError {
    let what = format!("{} answered {status}", shown(url));
    let wait = headers.get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.trim().parse().ok());
    match status.as_u16() {
        408 | 425 | 429 | 500..=599 => {
            let made = PortError::transient(what);
            match wait {
                Some(seconds) => made.retry_in(Duration::from_secs(seconds)),
                None => made,
            }
        }
        404 | 410 => PortError::permanent(format!("{what}; there is no picture, check the address")),
        401 | 403 => {
            PortError::permanent(format!("{what}; the picture must be readable by everybody who has the address"))
        }
        _ => PortError::permanent(format!("{what}; name the picture itself")),
    }
}
