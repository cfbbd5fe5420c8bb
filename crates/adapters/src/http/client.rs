//! Requests to servers that a client named: checked before anything is sent, and with a timeout.

use std::{
    error::Error,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use echogen_ports::{Fault, FaultKind};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use url::{Host, Url};

use super::{
    config::WebAccess,
    resolver::{CheckedResolver, Refused},
};
use crate::retry_after::retry_after;

/// Idle connections that are kept for further requests to the same server.
const IDLE_CONNECTIONS: usize = 4;

/// How long an idle connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Sends requests to untrusted servers.
#[derive(Clone)]
pub(super) struct WebClient {
    client: Client<HttpsConnector<HttpConnector<CheckedResolver>>, Full<Bytes>>,
    access: Arc<WebAccess>,
    /// The participle for error messages, such as `fetched`.
    done: &'static str,
}

impl WebClient {
    /// A client with the system's certificates and those of the settings.
    pub(super) fn new(access: WebAccess, done: &'static str) -> Result<Self, Fault> {
        let tls = access.trust.client_config();
        let tls = tls.map_err(|error| Fault::refused("TLS cannot be set up").because(error))?;
        let access = Arc::new(access);
        let mut connector = HttpConnector::new_with_resolver(CheckedResolver(Arc::clone(&access)));
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(access.connect_timeout));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Ok(Self { client, access, done })
    }

    /// The limit of a whole request.
    pub(super) fn timeout(&self) -> Duration {
        self.access.timeout
    }

    /// Sends a request to `url`, if that may be reached, and returns the head of the response. The caller reads the
    /// body and follows redirects.
    pub(super) async fn request(
        &self,
        url: &Url,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Fault> {
        self.check(url)?;
        let cannot = |cause: Box<dyn Error + Send + Sync>| {
            Fault::refused(format!("{} cannot be {}", shown(url), self.done)).because(cause)
        };
        *request.uri_mut() = url.as_str().parse().map_err(|error: http::uri::InvalidUri| cannot(error.into()))?;
        request.headers_mut().insert(header::USER_AGENT, self.access.user_agent.clone());
        self.client.request(request).await.map_err(|error| self.connect_error(url, error))
    }

    /// Checks what is known before a name is resolved. An IP address in place of a name is never resolved, so it is checked
    /// here.
    fn check(&self, url: &Url) -> Result<(), Fault> {
        let refuse = |why: &str| Err(Fault::refused(format!("{} is not {}: {why}", shown(url), self.done)));
        match url.scheme() {
            "https" => {}
            "http" if self.access.allow_http => {}
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
        if !self.access.allows_host(&name) {
            return refuse("the host is not on the list of allowed ones");
        }
        match address.and_then(|address| self.access.refused(address)) {
            Some(whose) => refuse(&format!("the address belongs to {whose}")),
            None => Ok(()),
        }
    }

    /// The fault for a request without a response. Transient if a name cannot be resolved: the system does not tell a name
    /// that does not exist from a failed look-up.
    fn connect_error(&self, url: &Url, error: hyper_util::client::legacy::Error) -> Fault {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(now) = cause {
            if let Some(refused) = now.downcast_ref::<Refused>() {
                return Fault::refused(format!("{} is not {}: {refused}", shown(url), self.done));
            }
            if let Some(tls) = tls_error(now) {
                return Fault::refused(format!("{} has no valid certificate: {tls}", shown(url)));
            }
            cause = now.source();
        }
        let what = if error.is_connect() { "cannot be reached" } else { "gave no answer" };
        Fault::unavailable(format!("{} {what}", shown(url))).because(error)
    }
}

impl std::fmt::Debug for WebClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebClient").field("access", &self.access).finish_non_exhaustive()
    }
}

/// The address without its query and fragment, which may contain a signature.
pub(super) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let path: String = url.path().chars().take(100).collect();
    format!("{}://{host}{port}{path}", url.scheme())
}

/// The fault for a response that asks to retry later, after `Retry-After` if it has one; `None` for any other response.
pub(super) fn busy(url: &Url, status: StatusCode, headers: &HeaderMap) -> Option<Fault> {
    if !matches!(status.as_u16(), 408 | 425 | 429 | 500..=599) {
        return None;
    }
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => FaultKind::Throttled,
        StatusCode::REQUEST_TIMEOUT => FaultKind::Timeout,
        _ => FaultKind::Unavailable,
    };
    let made = Fault::new(kind, format!("{} answered {status}", shown(url)));
    let wait = headers.get(header::RETRY_AFTER).and_then(|wait| retry_after(wait.to_str().ok()?, SystemTime::now()));
    Some(match wait {
        Some(wait) => made.retry_in(wait),
        None => made,
    })
}

/// The error of an invalid certificate. It is wrapped in an I/O error, which does not expose it as its source.
fn tls_error(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(rustls::Error::InvalidCertificate(why)) = cause.downcast_ref() {
        return Some(format!("{why:?}"));
    }
    let packed = cause.downcast_ref::<std::io::Error>()?.get_ref()?;
    tls_error(packed)
}
