//! Callbacks: a job's end as a CloudEvent, posted to the client's own server.
//!
//! The body is the event in CloudEvents' structured mode. With a secret every call is signed as Standard Webhooks say
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>), so that the client
//! knows who calls. Only a status of 200 to 299 counts as heard. Deliberately absent: redirects, which would take what is
//! signed for one server to another, and any reading of the answer's body.

use std::{str::FromStr, time::SystemTime};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use echogen_ports::{CallbackReply, CallbackSender, PortError};
use echogen_protocol::JobEvent;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use sha2::Sha256;
use url::Url;

use super::{
    HttpConfig,
    client::{WebClient, busy, shown},
};

/// The content type of an event in CloudEvents' structured mode.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";

/// Bytes of a secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret that is shared with those who are called, written as `whsec_` and 24 to 64 bytes in base64.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackSecret(Vec<u8>);

impl FromStr for CallbackSecret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The text itself is never shown.
        let fault =
            "is no secret; write whsec_ and 24 to 64 random bytes in base64, as `openssl rand -base64 32` gives";
        let bytes = text.strip_prefix(SECRET_PREFIX).and_then(|bytes| BASE64_STANDARD.decode(bytes).ok());
        bytes.filter(|bytes| SECRET_BYTES.contains(&bytes.len())).map(Self).ok_or_else(|| fault.to_owned())
    }
}

impl std::fmt::Debug for CallbackSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallbackSecret(…)")
    }
}

impl CallbackSecret {
    /// The signature of a message, as it stands in the header.
    fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> Result<String, PortError> {
        let made = Hmac::<Sha256>::new_from_slice(&self.0);
        let mut mac =
            made.map_err(|error| PortError::permanent("the callback's secret is of no use").because(error))?;
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        Ok(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
    }
}

/// Calls servers by `https://`.
#[derive(Clone)]
pub struct HttpCallbackSender {
    client: WebClient,
    secrets: Vec<CallbackSecret>,
}

impl HttpCallbackSender {
    /// Makes a sender that signs with every one of `secrets`: with two of them, an old one can be given up without haste.
    /// Of the settings those about redirects have no effect.
    pub fn new(config: HttpConfig, secrets: Vec<CallbackSecret>) -> Result<Self, PortError> {
        Ok(Self { client: WebClient::new(config, "called")?, secrets })
    }

    fn headers(&self, id: &str, timestamp: u64, body: &[u8]) -> Result<HeaderMap, PortError> {
        let bad = |error| PortError::permanent("the event's id does not fit into a header").because(error);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
        headers.insert(ID, HeaderValue::from_str(id).map_err(bad)?);
        headers.insert(TIMESTAMP, timestamp.into());
        let signatures = self.secrets.iter().map(|secret| secret.sign(id, timestamp, body));
        let signatures = signatures.collect::<Result<Vec<_>, _>>()?.join(" ");
        if !signatures.is_empty() {
            headers.insert(SIGNATURE, HeaderValue::from_str(&signatures).map_err(bad)?);
        }
        Ok(headers)
    }

    async fn call(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<CallbackReply, PortError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        let response = self.client.request(url, request).await?;
        Ok(match response.status() {
            status if status.is_success() => CallbackReply::Heard,
            status => {
                CallbackReply::Refused(busy(url, status, response.headers()).unwrap_or_else(|| refusal(url, status)))
            }
        })
    }
}

fn refusal(url: &Url, status: StatusCode) -> PortError {
    let advice = match status.as_u16() {
        300..=399 => "redirects are not followed, name the final address",
        404 | 410 => "check the address",
        401 | 403 => "it must take calls from here",
        _ => "it must answer 200 to 299 when it knows",
    };
    PortError::permanent(format!("{} answered {status}; {advice}", shown(url)))
}

impl std::fmt::Debug for HttpCallbackSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = self.client.config();
        f.debug_struct("HttpCallbackSender").field("config", config).field("secrets", &self.secrets.len()).finish()
    }
}

#[async_trait]
impl CallbackSender for HttpCallbackSender {
    async fn send(&self, address: &str, event: &JobEvent) -> Result<CallbackReply, PortError> {
        let url =
            Url::parse(address).map_err(|error| PortError::permanent("the callback is no address").because(error))?;
        let body = serde_json::to_vec(event)
            .map_err(|error| PortError::permanent("the event cannot be written as JSON").because(error))?;
        let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let headers = self.headers(&event.id, timestamp, &body)?;
        let config = self.client.config();
        match tokio::time::timeout(config.timeout(), self.call(&url, headers, body.into())).await {
            Ok(called) => called,
            Err(_) => {
                let limit = config.timeout_seconds;
                Err(PortError::transient(format!("{} did not answer in {limit} seconds", shown(&url))))
            }
        }
    }
}

#[cfg(test)]
mod tests;
