//! The client: one TLS stack, explicit timeouts, and as few passes over the bytes as possible.

use std::{fmt::Write, time::Duration};

use aws_config::{BehaviorVersion, Region};
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::{
    Client,
    config::{
        AppName, Config, ConfigBag, Credentials, Intercept, RequestChecksumCalculation, ResponseChecksumValidation,
        RuntimeComponents, SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
        interceptors::BeforeTransmitInterceptorContextMut, retry::RetryConfig, timeout::TimeoutConfig,
    },
    error::BoxError,
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use echogen_ports::Fault;

use super::{ChecksumCalculation, S3Config, config::Keys};
use crate::tls::Trust;

/// The clients of a server.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) client: Client,
    /// The same without the library's own retries.
    pub(super) single_try: Client,
    /// The same at the address that clients know; it makes links and sends nothing.
    pub(super) public: Client,
    /// Seconds that a call may take with all its tries.
    pub(super) operation_timeout: Duration,
}

/// Makes the clients; no request is sent to the store.
pub(super) async fn connect(config: &S3Config) -> Result<Clients, Fault> {
    let checked = config.check_server()?;
    let http = http_client(&checked.trust)?;
    let credentials = credentials(config, checked.keys, &http).await?;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(checked.connect_timeout)
        .operation_attempt_timeout(checked.attempt_timeout)
        .operation_timeout(checked.operation_timeout)
        .build();
    let retries =
        RetryConfig::standard().with_max_attempts(config.max_attempts).with_initial_backoff(Duration::from_millis(100));
    let mut builder = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(config.region.clone()))
        .credentials_provider(credentials)
        .http_client(http)
        .timeout_config(timeouts)
        .retry_config(retries)
        // The timeouts have the same effect at a lower cost.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(match config.checksum_calculation() {
            ChecksumCalculation::WhenRequired => RequestChecksumCalculation::WhenRequired,
            ChecksumCalculation::WhenSupported => RequestChecksumCalculation::WhenSupported,
        })
        // Objects that are read are either verified by their hash or decoded strictly.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .force_path_style(config.path_style());
    if let Ok(name) = AppName::new("echogen") {
        builder = builder.app_name(name);
    }
    if let Some(endpoint) = checked.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    let config = builder.build();
    let single_try = config.to_builder().retry_config(RetryConfig::disabled()).build();
    let mut public = config.to_builder();
    if let Some(endpoint) = checked.public_endpoint {
        public = public.endpoint_url(endpoint);
    }
    Ok(Clients {
        public: Client::from_conf(public.build()),
        client: Client::from_conf(config),
        single_try: Client::from_conf(single_try),
        operation_timeout: checked.operation_timeout,
    })
}

fn http_client(trust: &Trust) -> Result<SharedHttpClient, Fault> {
    let store = TrustStore::empty().with_pem_certificate(trust.pem());
    let context = TlsContext::builder().with_trust_store(store).build();
    let context = context.map_err(|error| Fault::internal("TLS cannot be set up").because(error))?;
    Ok(Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context).build_https())
}

/// The keys of the settings, or those that AWS's own tools would find: environment, profile, web identity, instance.
async fn credentials(
    config: &S3Config,
    keys: Option<Keys>,
    http: &SharedHttpClient,
) -> Result<SharedCredentialsProvider, Fault> {
    if let Some(Keys { id, secret, token }) = keys {
        let token = token.map(|token| token.expose().to_owned());
        let keys = Credentials::new(id.expose(), secret.expose(), token, None, "echogen settings");
        return Ok(SharedCredentialsProvider::new(keys));
    }
    let found = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .region(Region::new(config.region.clone()))
        .load()
        .await;
    found.credentials_provider().ok_or_else(|| {
        Fault::refused("there are no access keys for s3; set store.access_key_id and store.secret_access_key")
    })
}

/// Gives the signer a SHA-256 that is already known, so that it does not compute it again.
#[derive(Debug)]
pub(super) struct KnownHash(String);

impl KnownHash {
    pub(super) fn new(sha256: &[u8]) -> Self {
        let mut hex = String::with_capacity(2 * sha256.len());
        for byte in sha256 {
            // Writing into a string cannot fail.
            write!(hex, "{byte:02x}").ok();
        }
        Self(hex)
    }
}

impl Intercept for KnownHash {
    fn name(&self) -> &'static str {
        "KnownHash"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(PayloadSigningOverride::Precomputed(self.0.clone()));
        Ok(())
    }
}
