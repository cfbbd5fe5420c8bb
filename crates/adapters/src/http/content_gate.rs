//! The content gate: a hook of the operator's own, which is asked about words and pictures.
//!
//! A question is a signed POST of JSON, a verdict a small JSON document with the status 200. Everything else is no verdict:
//! no connection, another status, another document. What holds then is a setting. The hook's address is the operator's, so
//! it may be in any network. Deliberately absent: redirects, which would send pictures elsewhere.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use echogen_ports::{
    ContentGate, Fault, GateContent, GatePlace, GateSubject, Secret, Verdict, WhenUnreachable, spawn_blocking,
};
use echogen_protocol::{
    json::{self, Bounds},
    text::one_line,
};
use echogen_telemetry::{GateAnswer, metrics};
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::warn;
use url::Url;

use super::{
    HttpConfig,
    client::{WebClient, shown},
    config::WebAccess,
    networks::AllowedNetwork,
    signing_key::{SigningKey, signed_headers, signing_keys},
};

/// Largest verdict in bytes.
const MAX_VERDICT_BYTES: usize = 16 * 1024;

/// How long a task waits that lacks a verdict.
const ASK_AGAIN_IN: Duration = Duration::from_secs(5);

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/json");

/// The settings of an [`HttpContentGate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SafetyConfig {
    /// Address of a service of your own that decides which words and pictures are used, such as `https://safety.internal/check`.
    /// Absent: everything is.
    pub hook: Option<String>,
    /// Signs questions as Standard Webhooks specify, like `callbacks.secret`. Absent: they are not signed.
    pub secret: Option<Secret>,
    /// Authorities whose certificates are trusted in addition to the system's, as PEM text or as the path of a PEM file.
    pub certificates: Option<String>,
    /// Seconds to wait for a connection.
    pub connect_timeout_seconds: f64,
    /// Seconds to wait for a verdict.
    pub timeout_seconds: f64,
    /// What holds while the hook gives no verdict: `open`, everything is used, or `closed`, jobs wait for a verdict.
    pub when_unreachable: WhenUnreachable,
    /// Tenants for which everything is used then, whatever `when_unreachable` says.
    pub open_for: Vec<String>,
    /// Tenants whose jobs wait then, whatever `when_unreachable` says. One that is in both lists waits.
    pub closed_for: Vec<String>,
    /// Whether prompt, negative prompt and name of a job are checked, by the gateway.
    pub check_words: bool,
    /// Whether subjects' pictures are checked, before they are stored.
    pub check_subjects: bool,
    /// Whether the pictures that are made are checked, before they are stored. Then there are no previews.
    pub check_results: bool,
    /// Largest picture in bytes that is sent to the hook. A larger one has no verdict: it is used if `when_unreachable` is
    /// `open`, and withheld otherwise.
    #[schemars(range(min = 1, max = 268_435_456))]
    pub max_image_bytes: u64,
}

impl Default for SafetyConfig {
    fn default() -> Self {
        Self {
            hook: None,
            secret: None,
            certificates: None,
            connect_timeout_seconds: 5.0,
            timeout_seconds: 10.0,
            when_unreachable: WhenUnreachable::Closed,
            open_for: Vec::new(),
            closed_for: Vec::new(),
            check_words: true,
            check_subjects: true,
            check_results: true,
            max_image_bytes: 32 << 20,
        }
    }
}

impl SafetyConfig {
    /// Checks what can be checked without a server. Errors begin with the setting's name.
    pub fn check(&self) -> Result<(), Fault> {
        signing_keys("safety.secret", self.secret.as_ref())?;
        self.access()?;
        self.url().map(drop)
    }

    /// The hook's address, if there is a hook.
    fn url(&self) -> Result<Option<Url>, Fault> {
        let Some(hook) = self.hook.as_deref().filter(|hook| !hook.is_empty()) else { return Ok(None) };
        let refuse =
            |why: &str| Fault::refused(format!("safety.hook {why}; write an address such as https://safety/check"));
        let url = Url::parse(hook).map_err(|error| refuse(&format!("is no address: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refuse("begins with neither https:// nor http://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("carries a user name or password, use safety.secret"));
        }
        Ok(Some(url))
    }

    /// The operator names the hook: it may be reached wherever it is.
    fn access(&self) -> Result<WebAccess, Fault> {
        let everywhere = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|network| network.parse::<AllowedNetwork>().ok());
        let web = HttpConfig {
            allowed_networks: everywhere.collect(),
            allow_http: true,
            certificates: self.certificates.clone(),
            connect_timeout_seconds: self.connect_timeout_seconds,
            timeout_seconds: self.timeout_seconds,
            ..HttpConfig::default()
        };
        web.access("safety")
    }

    fn places(&self) -> Vec<GatePlace> {
        let checked = [self.check_words, self.check_subjects, self.check_results];
        GatePlace::ALL.into_iter().zip(checked).filter(|(_, checked)| *checked).map(|(place, _)| place).collect()
    }
}

/// What holds without a verdict, for whom.
#[derive(Debug)]
struct Fallback {
    otherwise: WhenUnreachable,
    open_for: Vec<String>,
    closed_for: Vec<String>,
}

impl Fallback {
    fn of(config: &SafetyConfig) -> Self {
        let (open_for, closed_for) = (config.open_for.clone(), config.closed_for.clone());
        Self { otherwise: config.when_unreachable, open_for, closed_for }
    }

    fn for_tenant(&self, tenant: Option<&str>) -> WhenUnreachable {
        let is_in = |list: &[String]| tenant.is_some_and(|tenant| list.iter().any(|name| name == tenant));
        if is_in(&self.closed_for) {
            WhenUnreachable::Closed
        } else if is_in(&self.open_for) {
            WhenUnreachable::Open
        } else {
            self.otherwise
        }
    }
}

/// Asks a hook by HTTP.
pub struct HttpContentGate {
    client: WebClient,
    url: Url,
    keys: Vec<SigningKey>,
    places: Vec<GatePlace>,
    fallback: Fallback,
    max_image_bytes: u64,
}

impl HttpContentGate {
    /// Makes a gate; `None` if the settings name no hook.
    pub fn new(config: &SafetyConfig) -> Result<Option<Self>, Fault> {
        let Some(url) = config.url()? else { return Ok(None) };
        Ok(Some(Self {
            client: WebClient::new(config.access()?, "asked")?,
            url,
            keys: signing_keys("safety.secret", config.secret.as_ref())?,
            places: config.places(),
            fallback: Fallback::of(config),
            max_image_bytes: config.max_image_bytes,
        }))
    }

    async fn ask(&self, subject: GateSubject) -> Result<Verdict, Fault> {
        let id = question_id(&subject);
        let body = spawn_blocking(move || question(&subject)).await??;
        let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = signed_headers(&self.keys, &id, timestamp, &body)?;
        request.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        let limit = self.client.timeout();
        tokio::time::timeout(limit, self.answer(request)).await.unwrap_or_else(|_| {
            let limit = limit.as_secs_f64();
            Err(Fault::timed_out(format!("{} gave no verdict in {limit} seconds", shown(&self.url))))
        })
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Verdict, Fault> {
        let response = self.client.request(&self.url, request).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let message = format!("{} answered {status}; it must answer 200 with a verdict", shown(&self.url));
            return Err(Fault::unavailable(message));
        }
        let no_verdict =
            || Fault::unavailable(format!("{} answered with no verdict that can be read", shown(&self.url)));
        let body = Limited::new(response.into_body(), MAX_VERDICT_BYTES).collect().await;
        let body = body.map_err(|error| no_verdict().because(error))?.to_bytes();
        let answer: Answer = json::read(&body, &Bounds::MESSAGE).map_err(|error| no_verdict().because(error))?;
        Ok(match answer {
            Answer::Allowed => Verdict::Allowed,
            Answer::Withheld { reason } => Verdict::Withheld { reason: one_line(&reason) },
        })
    }

    /// What holds for a picture that is not sent.
    fn too_large(&self, place: GatePlace, bytes: u64, when: WhenUnreachable) -> Verdict {
        let limit = self.max_image_bytes;
        match when {
            WhenUnreachable::Open => {
                warn!(place = place.as_str(), bytes, limit, "a picture is too large to be checked, and is used");
                metrics().gate_checked(place.as_str(), GateAnswer::Open);
                Verdict::Allowed
            }
            WhenUnreachable::Closed => {
                metrics().gate_checked(place.as_str(), GateAnswer::Closed);
                Verdict::Withheld { reason: format!("it has {bytes} bytes; at most {limit} can be checked") }
            }
        }
    }

    /// What holds without a verdict.
    fn unreachable(place: GatePlace, error: Fault, when: WhenUnreachable) -> Result<Verdict, Fault> {
        warn!(place = place.as_str(), error = %error.story(), ?when, "the content gate gives no verdict");
        match when {
            WhenUnreachable::Open => {
                metrics().gate_checked(place.as_str(), GateAnswer::Open);
                Ok(Verdict::Allowed)
            }
            WhenUnreachable::Closed => {
                metrics().gate_checked(place.as_str(), GateAnswer::Closed);
                Err(Fault::circuit_open("the content gate gives no verdict").retry_in(ASK_AGAIN_IN).because(error))
            }
        }
    }
}

#[async_trait]
impl ContentGate for HttpContentGate {
    fn checks(&self, place: GatePlace) -> bool {
        self.places.contains(&place)
    }

    async fn check(&self, subject: GateSubject) -> Result<Verdict, Fault> {
        let place = subject.content.place();
        if !self.checks(place) {
            return Ok(Verdict::Allowed);
        }
        let when = self.fallback.for_tenant(subject.tenant.as_deref());
        let bytes = subject.content.image().map_or(0, Bytes::len) as u64;
        if bytes > self.max_image_bytes {
            return Ok(self.too_large(place, bytes, when));
        }
        let verdict = match self.ask(subject).await {
            Ok(verdict) => verdict,
            Err(error) => return Self::unreachable(place, error, when),
        };
        let answer = if verdict == Verdict::Allowed { GateAnswer::Allowed } else { GateAnswer::Withheld };
        metrics().gate_checked(place.as_str(), answer);
        Ok(verdict)
    }
}

impl std::fmt::Debug for HttpContentGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hook, keys) = (shown(&self.url), self.keys.len());
        f.debug_struct("HttpContentGate")
            .field("hook", &hook)
            .field("keys", &keys)
            .field("places", &self.places)
            .field("fallback", &self.fallback)
            .finish_non_exhaustive()
    }
}

/// A hook's answer. Fields that are not known are ignored.
#[derive(Debug, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
enum Answer {
    Allowed,
    Withheld {
        #[serde(default)]
        reason: String,
    },
}

/// Identifies a question; a repeated one has the same.
fn question_id(subject: &GateSubject) -> String {
    let (job, place) = (&subject.job, subject.content.place().as_str());
    match &subject.content {
        GateContent::ResultImage { index, .. } => format!("{job}/{place}/{index}"),
        _ => format!("{job}/{place}"),
    }
}

/// The body of a question.
fn question(subject: &GateSubject) -> Result<Bytes, Fault> {
    let GateSubject { job, tenant, content } = subject;
    let mut question = json!({ "place": content.place().as_str(), "job": job, "tenant": tenant });
    if let GateContent::Words { prompt, negative_prompt, name } = content {
        question["words"] = json!({ "prompt": prompt, "negative_prompt": negative_prompt, "name": name });
    }
    if let GateContent::ResultImage { index, seed, .. } = content {
        (question["index"], question["seed"]) = (json!(index), json!(seed));
    }
    if let Some(image) = content.image() {
        question["image"] = Value::String(BASE64_STANDARD.encode(image));
    }
    let body = serde_json::to_vec(&question);
    Ok(body.map_err(|error| Fault::internal("the question cannot be written as JSON").because(error))?.into())
}

#[cfg(test)]
mod tests;
