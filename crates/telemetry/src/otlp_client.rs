//! Posts to a collector, with the program's own HTTP and TLS stack.
//!
//! The exporter runs on a thread of its own without a runtime. This client has one, so that spans are sent while the
//! program's threads are busy, and after the program's runtime has ended. It must not be used on an async thread.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tracing::warn;

/// Bytes of a collector's answer that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The client.
#[derive(Debug)]
pub(crate) struct OtlpClient {
    runtime: Mutex<Runtime>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    limit: Duration,
    failures: AtomicU64,
}

impl OtlpClient {
    /// A client for a collector at `endpoint`; an error is one line.
    pub(crate) fn new(endpoint: &str, authorities: &[CertificateDer<'_>], limit: Duration) -> Result<Self, String> {
        let uri: Uri = endpoint.parse().map_err(|error| format!("{endpoint:?} is no address ({error})"))?;
        let mut roots = RootCertStore::empty();
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                // Some of a system's certificates may be unusable; the others suffice.
                roots.add_parsable_certificates(authorities.iter().cloned());
                if roots.is_empty() {
                    return Err("the system has no certificates for https".to_owned());
                }
            }
            _ => return Err(format!("{endpoint:?} begins neither with http:// nor with https://")),
        }
        let tls = tls_config(roots)?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        // An idle connection may be closed between two exports, so each export opens its own.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        Ok(Self { runtime: Mutex::new(runtime), client, limit, failures: AtomicU64::new(0) })
    }

    /// Spans that cannot be sent are lost; jobs are not affected.
    fn note(&self, why: &str) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        // Logged at each power of two, so that a long outage of the collector does not fill the log.
        if failures.is_power_of_two() {
            warn!(failures, why, "spans did not reach the collector");
        }
    }

    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

#[async_trait]
impl HttpClient for OtlpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let sent: Result<_, HttpError> = match runtime.block_on(async { timeout(self.limit, self.post(request)).await })
        {
            Ok(sent) => sent,
            Err(late) => Err(late.into()),
        };
        match &sent {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => self.note(&format!("it answered {}", answer.status())),
            Err(error) => self.note(&error.to_string()),
        }
        sent
    }
}

fn tls_config(roots: RootCertStore) -> Result<ClientConfig, String> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_are_taken() {
        let new = |endpoint: &str| OtlpClient::new(endpoint, &[], Duration::from_secs(1)).map(drop);
        assert_eq!(new("http://127.0.0.1:4318"), Ok(()));
        assert!(new("collector:4318").unwrap_err().contains("http://"));
        assert!(new("https://collector:4318").unwrap_err().contains("no certificates"));
        assert!(new("grpc://collector:4317").is_err());
        assert!(new("not an address").is_err());
    }
}
