//! Callbacks: the end of a job as a CloudEvent, posted to the client's own server.
//!
//! The body is the event in CloudEvents' structured mode. With a secret every call is signed as Standard Webhooks say
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>), so that the client
//! can verify the sender: with the installation's secret, and with the one that is derived for the job's tenant, so that tenants
//! need not share one. Only a status of 200 to 299 counts as received. Deliberately absent: redirects, which would send
//! what is signed for one server to another, and reading the body of the response.

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{CallbackReply, CallbackSender, Fault, Secret, callback_secrets_of};
use echogen_protocol::JobEvent;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use url::Url;

use super::{
    CallbackConfig,
    client::{WebClient, busy, shown},
    signing_key::{SigningKey, signed_headers},
};

/// The content type of an event in CloudEvents' structured mode.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/cloudevents+json; charset=utf-8");

/// Sends callbacks by `https://`.
#[derive(Clone)]
pub struct HttpCallbackSender {
    client: WebClient,
    keys: Vec<SigningKey>,
    secret: Secret,
}

impl HttpCallbackSender {
    /// Makes a sender that signs with every secret of the settings: while both are set, receivers can change from the old
    /// one to the new one at any time.
    pub fn new(config: CallbackConfig) -> Result<Self, Fault> {
        let (keys, client) = (config.keys()?, WebClient::new(config.access()?, "called")?);
        Ok(Self { client, keys, secret: config.secret.unwrap_or_default() })
    }

    /// The keys that sign a call: the installation's, and those of the job's tenant.
    fn keys_for(&self, tenant: Option<&str>) -> Result<Vec<SigningKey>, Fault> {
        let of_tenant = tenant.map(|tenant| callback_secrets_of(&self.secret, tenant)).unwrap_or_default();
        let of_tenant = of_tenant.iter().map(|secret| secret.expose().parse().map_err(Fault::internal));
        self.keys.iter().cloned().map(Ok).chain(of_tenant).collect()
    }

    async fn call(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<CallbackReply, Fault> {
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

/// What a refusal means for the next attempt. A receiver in redeployment answers with almost any status: its ingress
/// knows no path, its keys are not loaded yet. Only 410 says that nobody will be there again.
fn refusal(url: &Url, status: StatusCode) -> Fault {
    let advice = match status.as_u16() {
        300..=399 => "redirects are not followed, name the final address",
        404 => "check the address",
        410 => "it wants no more calls",
        401 | 403 => "it must take calls from here",
        _ => "it must answer 200 to 299 when it has the event",
    };
    let message = format!("{} answered {status}; {advice}", shown(url));
    if status == StatusCode::GONE { Fault::refused(message) } else { Fault::unavailable(message) }
}

impl std::fmt::Debug for HttpCallbackSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.keys.len();
        f.debug_struct("HttpCallbackSender").field("client", &self.client).field("keys", &keys).finish()
    }
}

#[async_trait]
impl CallbackSender for HttpCallbackSender {
    async fn send(&self, address: &str, tenant: Option<&str>, event: &JobEvent) -> Result<CallbackReply, Fault> {
        let url = Url::parse(address).map_err(|error| Fault::refused("the callback is no address").because(error))?;
        let body = serde_json::to_vec(event)
            .map_err(|error| Fault::internal("the event cannot be written as JSON").because(error))?;
        let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut headers = signed_headers(&self.keys_for(tenant)?, &event.id, timestamp, &body)?;
        headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
        let limit = self.client.timeout();
        match tokio::time::timeout(limit, self.call(&url, headers, body.into())).await {
            Ok(called) => called,
            Err(_) => {
                let limit = limit.as_secs_f64();
                Err(Fault::timed_out(format!("{} did not answer in {limit} seconds", shown(&url))))
            }
        }
    }
}

#[cfg(test)]
mod tests;
