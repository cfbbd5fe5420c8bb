//! The console's session: a key, traded for a sealed cookie.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{ConnectInfo, Extension, State},
};
use echogen_ports::Secret;
use echogen_tenants::{Scope, TenantName};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Gateway,
    authentication::{Caller, require_same_origin},
    body,
    problem::{Kind, Problem},
    request::parsed,
    router::address_of,
};

/// The cookie's name over TLS. The prefix makes browsers refuse it from another host or without TLS.
pub(crate) const COOKIE: &str = "__Host-echogen";

/// Its name on a machine of one's own, where there is no TLS.
const PLAIN_COOKIE: &str = "echogen-session";

/// The time after which the key has to be given again.
const LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// Bytes of a request to sign in.
const MAX_BYTES: u64 = 4 * 1024;

/// A request to sign in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionRequest {
    /// The key.
    #[schemars(with = "String")]
    key: Secret,
}

/// Who the caller is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct SessionView {
    /// The tenant.
    #[schemars(with = "String")]
    pub tenant: TenantName,
    /// What the key may do.
    #[schemars(with = "Vec<String>")]
    pub scopes: Vec<Scope>,
    /// The key's public id.
    pub key: String,
}

/// `GET /v1/session`
pub(crate) async fn show(caller: Caller) -> Json<SessionView> {
    let (scopes, key) = (caller.key.scopes.clone(), caller.key.id.to_string());
    Json(SessionView { tenant: caller.tenant, scopes, key })
}

/// `POST /v1/session`
pub(crate) async fn sign_in(
    State(gateway): State<Gateway>,
    Extension(ConnectInfo(connection)): Extension<ConnectInfo<SocketAddr>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, HeaderMap), Problem> {
    require_same_origin(&headers)?;
    let sessions = gateway.sessions.as_ref().ok_or_else(|| {
        Problem::new(Kind::Forbidden, "the console's sign-in is off here: gateway.sealing_secret is not set")
    })?;
    let json = body::read(body, MAX_BYTES, gateway.config.body_bytes_per_second).await?;
    let request: SessionRequest = parsed(&json)?;
    let Some(caller) = gateway.caller_of_key(request.key.expose()) else {
        gateway.throttle.failed(address_of(&gateway, connection, &headers))?;
        return Err(Problem::new(Kind::Unauthorized, "this key is not valid"));
    };
    let now = gateway.clock.now();
    let expires = now.checked_add(LIFETIME).unwrap_or(now);
    let sealed = sessions.seal(&caller.key.id, &caller.tenant, now, expires)?;
    Ok((StatusCode::NO_CONTENT, gateway.cookie(&sealed, LIFETIME.as_secs())))
}

/// `DELETE /v1/session`
pub(crate) async fn sign_out(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
) -> Result<(StatusCode, HeaderMap), Problem> {
    require_same_origin(&headers)?;
    Ok((StatusCode::NO_CONTENT, gateway.cookie("", 0)))
}

/// Who a session's cookie stands for.
pub(crate) fn caller(gateway: &Gateway, headers: &HeaderMap) -> Option<Caller> {
    let sessions = gateway.sessions.as_ref()?;
    let sent = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut cookies = sent.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    let (_, value) = cookies.find(|(name, _)| *name == gateway.cookie_name())?;
    let opened = sessions.open(value, &gateway.tenants.current(), gateway.clock.now())?;
    Some(Caller::by_session(opened.caller))
}

impl Gateway {
    fn is_behind_tls(&self) -> bool {
        self.config.public_url.as_ref().is_some_and(|url| url.starts_with("https://"))
    }

    fn cookie_name(&self) -> &'static str {
        if self.is_behind_tls() { COOKIE } else { PLAIN_COOKIE }
    }

    fn cookie(&self, value: &str, seconds: u64) -> HeaderMap {
        let secure = if self.is_behind_tls() { "; Secure" } else { "" };
        let name = self.cookie_name();
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
        HeaderValue::from_str(&text)
            .map(|value| HeaderMap::from_iter([(header::SET_COOKIE, value)]))
            .unwrap_or_default()
    }
}
