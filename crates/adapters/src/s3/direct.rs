//! The first try of a call, without the client library: one signed request on a connection of our own.
//!
//! The library builds an operation's parts anew for every call, which takes several times as long as everything else that
//! a job needs. Here only what goes well is understood. Any other answer, and any failure to get one, says so, and the
//! caller repeats the call with the library, which knows retries, redirects, skewed clocks and the meaning of errors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_sdk_s3::config::{
    Credentials, ProvideCredentials, SharedCredentialsProvider,
    endpoint::{DefaultResolver, Params, ResolveEndpoint},
};
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::{sync::Mutex, time::timeout};
use tracing::debug;

use super::{
    S3Config,
    config::{Checked, ChecksumCalculation, UploadChecksum},
};

/// Bytes of an error answer that are read, to see whether an object or its bucket is missing.
const MAX_ERROR_BYTES: u64 = 16 * 1024;

/// Temporary keys are renewed so long before they run out.
const KEYS_MARGIN: Duration = Duration::from_secs(120);

/// How long an idle connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(90);

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("echogen/", env!("CARGO_PKG_VERSION")));

/// The SHA-256 of nothing.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The way to one bucket. Clones are the same.
#[derive(Clone)]
pub(super) struct Direct(Arc<Inner>);

struct Inner {
    http: Http,
    /// The address of the bucket, without a slash at its end.
    bucket: String,
    region: String,
    keys: SharedCredentialsProvider,
    /// The keys that were provided last.
    known_keys: Mutex<Option<Credentials>>,
    attempt_timeout: Duration,
    settings: SigningSettings,
    can_write: bool,
    is_off: AtomicBool,
}

/// The call did not go well: the status of the answer, if there was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unclear(pub(super) Option<StatusCode>);

impl Unclear {
    /// Whether the call may have been carried out all the same.
    pub(super) fn may_be_done(self) -> bool {
        self.0.is_none_or(|status| status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT)
    }

    /// Whether the store needs a pause before the next try.
    pub(super) fn is_busy(self) -> bool {
        self.0.is_none_or(|status| status.is_server_error() || matches!(status.as_u16(), 408 | 409 | 429))
    }
}

/// What is written.
pub(super) struct Upload {
    pub(super) bytes: Bytes,
    /// The headers that the settings ask for.
    pub(super) headers: HeaderMap,
    /// The SHA-256 in hexadecimal digits, if the signature covers it.
    pub(super) sha256: Option<String>,
}

/// An object that was read.
pub(super) enum Read {
    Whole(Bytes),
    Absent,
    /// It has at least this many bytes.
    TooLarge(u64),
}

impl Direct {
    /// The way to the bucket of these settings; `None` where only the library knows the way.
    pub(super) async fn open(config: &S3Config, checked: &Checked, keys: &SharedCredentialsProvider) -> Option<Self> {
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
        // This is the first of at least two tries. Buckets of S3 Express have keys of their own for each session, and access
        // points other addresses.
        let is_usual = is_plain(&config.bucket) && !config.bucket.ends_with("--x-s3") && is_plain(&config.prefix);
        if config.max_attempts < 2 || !is_usual {
            return None;
        }
        let mut params = Params::builder().bucket(&config.bucket).region(&config.region);
        params = params.force_path_style(config.path_style()).set_endpoint(checked.endpoint.clone());
        let endpoint = DefaultResolver::new().resolve_endpoint(&params.build().ok()?).await.ok()?;
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let adds_checksum = config.upload_checksum == UploadChecksum::None
            && config.checksum_calculation() == ChecksumCalculation::WhenSupported;
        Some(Self(Arc::new(Inner {
            http: http_client(checked)?,
            bucket: endpoint.url().trim_end_matches('/').to_owned(),
            region: config.region.clone(),
            keys: keys.clone(),
            known_keys: Mutex::default(),
            attempt_timeout: checked.first_try_timeout(),
            settings,
            can_write: !adds_checksum,
            is_off: AtomicBool::new(false),
        })))
    }

    /// The library has got through where this way was refused: from now on only the library is used.
    pub(super) fn switch_off(&self) {
        if !self.0.is_off.swap(true, Ordering::Relaxed) {
            debug!("the store refuses plain requests; the client library is used for all");
        }
    }

    /// Whether this way can be tried at all, to write or to read.
    pub(super) fn is_open(&self, to_write: bool) -> bool {
        !self.0.is_off.load(Ordering::Relaxed) && (self.0.can_write || !to_write)
    }

    /// Writes an object. With `If-None-Match` among the headers: returns whether it was absent.
    pub(super) async fn put(&self, name: &str, upload: Upload) -> Result<bool, Unclear> {
        let is_conditional = upload.headers.contains_key(header::IF_NONE_MATCH);
        self.attempt(async {
            let answer = self.send(Method::PUT, name, upload).await?;
            let status = answer.status();
            // The answer is read to its end, so that the connection can be used again.
            drain(answer.into_body()).await?;
            match status {
                StatusCode::OK => Ok(true),
                StatusCode::PRECONDITION_FAILED if is_conditional => Ok(false),
                other => Err(Unclear(Some(other))),
            }
        })
        .await
    }

    /// Reads an object of up to `max_bytes`.
    pub(super) async fn get(&self, name: &str, max_bytes: u64) -> Result<Read, Unclear> {
        self.attempt(async {
            let answer = self.send(Method::GET, name, Upload::nothing()).await?;
            let (head, body) = answer.into_parts();
            match head.status {
                StatusCode::OK => match length(&head.headers) {
                    Some(size) if size > max_bytes => Ok(Read::TooLarge(size)),
                    _ => Ok(read_bounded(body, max_bytes).await?.map_or(Read::TooLarge(max_bytes + 1), Read::Whole)),
                },
                StatusCode::NOT_FOUND => {
                    let answer = read_bounded(body, MAX_ERROR_BYTES).await?.unwrap_or_default();
                    let is_object = answer.windows(NO_SUCH_KEY.len()).any(|text| text == NO_SUCH_KEY);
                    if is_object { Ok(Read::Absent) } else { Err(Unclear(Some(head.status))) }
                }
                other => Err(Unclear(Some(other))),
            }
        })
        .await
    }

    /// Returns whether an object exists.
    pub(super) async fn exists(&self, name: &str) -> Result<bool, Unclear> {
        self.attempt(async {
            match self.send(Method::HEAD, name, Upload::nothing()).await?.status() {
                StatusCode::OK => Ok(true),
                // An answer to HEAD has no body, so a missing bucket looks the same.
                StatusCode::NOT_FOUND => Ok(false),
                other => Err(Unclear(Some(other))),
            }
        })
        .await
    }

    async fn attempt<T>(&self, work: impl Future<Output = Result<T, Unclear>>) -> Result<T, Unclear> {
        timeout(self.0.attempt_timeout, work).await.unwrap_or(Err(Unclear(None)))
    }

    async fn send(&self, method: Method, name: &str, upload: Upload) -> Result<Response<Incoming>, Unclear> {
        let request = self.signed(method, name, upload).await.ok_or(Unclear(None))?;
        let sent = self.0.http.request(request).await;
        sent.map_err(|error| {
            debug!(%error, "no answer to a plain request");
            Unclear(None)
        })
    }

    async fn signed(&self, method: Method, name: &str, upload: Upload) -> Option<Request<Full<Bytes>>> {
        let (uri, identity) = (format!("{}/{name}", self.0.bucket), self.keys().await?.into());
        let params = v4::SigningParams::builder().identity(&identity).region(&self.0.region).name("s3");
        let params = params.time(SystemTime::now()).settings(self.0.settings.clone()).build().ok()?.into();
        let signature = {
            let headers = upload.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
            let body = upload.sha256.map_or(SignableBody::UnsignedPayload, SignableBody::Precomputed);
            let signable = SignableRequest::new(method.as_str(), &*uri, headers, body).ok()?;
            sign(signable, &params).ok()?.into_parts().0
        };
        let mut request = Request::builder().method(method).uri(uri).body(Full::new(upload.bytes)).ok()?;
        *request.headers_mut() = upload.headers;
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        for (name, value) in signature.headers() {
            let value = HeaderValue::from_str(value).ok()?;
            request.headers_mut().insert(HeaderName::from_bytes(name.as_bytes()).ok()?, value);
        }
        Some(request)
    }

    /// The keys, renewed before they run out.
    async fn keys(&self) -> Option<Credentials> {
        let mut known = self.0.known_keys.lock().await;
        let soon = SystemTime::now() + KEYS_MARGIN;
        if let Some(keys) = known.as_ref().filter(|keys| keys.expiry().is_none_or(|end| end > soon)) {
            return Some(keys.clone());
        }
        let keys = self.0.keys.provide_credentials().await.ok()?;
        Some(known.insert(keys).clone())
    }
}

/// The code of an object that is absent; its bucket exists.
const NO_SUCH_KEY: &[u8] = b"<Code>NoSuchKey</Code>";

impl Upload {
    fn nothing() -> Self {
        Self { bytes: Bytes::new(), headers: HeaderMap::new(), sha256: Some(EMPTY_SHA256.to_owned()) }
    }
}

fn http_client(checked: &Checked) -> Option<Http> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(checked.connect_timeout));
    let tls = checked.trust.client_config().ok()?;
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIME)
        .build(connector);
    Some(client)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a body; `None` if it exceeds the limit. One that arrives in one piece is not copied.
async fn read_bounded(mut body: Incoming, max_bytes: u64) -> Result<Option<Bytes>, Unclear> {
    let (mut first, mut all) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|_| Unclear(None))?.into_data() else { continue };
        if (first.len() + all.len() + piece.len()) as u64 > max_bytes {
            return Ok(None);
        }
        if first.is_empty() && all.is_empty() {
            first = piece;
        } else {
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&piece);
        }
    }
    Ok(Some(if all.is_empty() { first } else { all.freeze() }))
}

async fn drain(body: Incoming) -> Result<(), Unclear> {
    read_bounded(body, MAX_ERROR_BYTES).await.map(drop)
}

#[cfg(test)]
mod tests;
