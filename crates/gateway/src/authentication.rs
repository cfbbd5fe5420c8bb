//! Who calls: a key in the header, or the console's session in a cookie. Every route passes [`guard`].

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, Extension, FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use echogen_tenants::{Authenticated, KeyEntry, Scope, Tenant, TenantName};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};

use crate::{
    Gateway,
    limits::{self, Charged},
    openapi::is_safe,
    problem::{Kind, Problem},
    route::Access,
    router::address_of,
    session,
};

/// Failed keys of one address within a minute before it has to wait.
const FAILURES: u32 = 10;

/// The time after which failures are forgotten.
const MINUTE: Duration = Duration::from_secs(60);

/// Addresses with failures that are remembered.
const ADDRESSES: usize = 10_000;

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Whose things the call can reach.
    pub(crate) tenant: TenantName,
    /// What the tenant may do.
    rules: Arc<Tenant>,
    /// The key.
    pub(crate) key: Arc<KeyEntry>,
    /// Whether the call came with a cookie, which a browser sends by itself.
    by_session: bool,
}

impl Caller {
    /// A caller by a key.
    pub(crate) fn by_key(found: Authenticated) -> Self {
        Self { tenant: found.name, rules: found.tenant, key: found.key, by_session: false }
    }

    /// A caller by a session that was opened with a key.
    pub(crate) fn by_session(found: Authenticated) -> Self {
        Self { by_session: true, ..Self::by_key(found) }
    }

    /// What the tenant may do.
    pub(crate) fn rules(&self) -> &Tenant {
        &self.rules
    }

    fn may(&self, access: Access) -> bool {
        match access {
            Access::Open | Access::AnyKey => true,
            Access::Tenant => self.key.scopes.contains(&Scope::Jobs),
            Access::Admin => self.key.scopes.contains(&Scope::Admin),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Absent only on a route that is open to everybody.
        parts.extensions.get::<Self>().cloned().ok_or_else(unauthorized)
    }
}

fn unauthorized() -> Problem {
    Problem::new(Kind::Unauthorized, "send a valid key as `Authorization: Bearer eg_...`")
}

/// Lets a request through to its handler if its caller may make it.
pub(crate) async fn guard(
    State((gateway, access)): State<(Gateway, Access)>,
    Extension(ConnectInfo(connection)): Extension<ConnectInfo<SocketAddr>>,
    mut request: Request,
    next: Next,
) -> Response {
    let passed = pass(&gateway, access, connection, request.method(), request.headers()).await;
    let charged = match passed {
        Ok((caller, charged)) => {
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            charged
        }
        Err(problem) => return problem.into_response(),
    };
    let mut response = next.run(request).await;
    if let Some(charged) = charged {
        show_limits(response.headers_mut(), charged);
    }
    response
}

async fn pass(
    gateway: &Gateway,
    access: Access,
    connection: SocketAddr,
    method: &Method,
    headers: &HeaderMap,
) -> Result<(Option<Caller>, Option<Charged>), Problem> {
    if access == Access::Open {
        return Ok((None, None));
    }
    let caller = identify(gateway, headers).map_err(|problem| {
        if !headers.contains_key(header::AUTHORIZATION) {
            return problem;
        }
        // A valid key is never refused for those that failed beside it.
        gateway.throttle.failed(address_of(gateway, connection, headers)).err().unwrap_or(problem)
    })?;
    if !caller.may(access) {
        return Err(Problem::new(Kind::Forbidden, "the key lacks the scope that this request needs"));
    }
    if caller.by_session && !is_safe(method) {
        require_same_origin(headers)?;
    }
    let charged = limits::charge(&*gateway.ports.quota, &caller).await?;
    Ok((Some(caller), Some(charged)))
}

fn identify(gateway: &Gateway, headers: &HeaderMap) -> Result<Caller, Problem> {
    match headers.get(header::AUTHORIZATION) {
        Some(value) => by_key(gateway, value),
        None => session::caller(gateway, headers).ok_or_else(unauthorized),
    }
}

fn by_key(gateway: &Gateway, value: &HeaderValue) -> Result<Caller, Problem> {
    let given = value.to_str().map_err(|_| unauthorized())?;
    let (scheme, key) = given.split_once(' ').ok_or_else(unauthorized)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthorized());
    }
    gateway.caller_of_key(key.trim()).ok_or_else(unauthorized)
}

impl Gateway {
    /// Who a key belongs to; `None` if it is not valid.
    pub(crate) fn caller_of_key(&self, key: &str) -> Option<Caller> {
        self.tenants.current().authenticate(key, self.clock.now()).map(Caller::by_key)
    }
}

/// Refuses what a foreign page made a browser send. Browsers say where a request comes from; older ones send the origin.
pub(crate) fn require_same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_own = match (text("sec-fetch-site"), text("origin"), text("host")) {
        (Some(site), ..) => site == "same-origin",
        (None, Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, from)| from == host),
        // A browser sends an origin with everything that changes something.
        (None, ..) => false,
    };
    let foreign =
        || Problem::new(Kind::Forbidden, "a session is accepted from the console's own page only; send a key");
    if is_own { Ok(()) } else { Err(foreign()) }
}

/// The limit in force, in the form of the IETF's draft of `RateLimit` headers.
fn show_limits(headers: &mut HeaderMap, charged: Charged) {
    let Charged { limit, remaining, reset } = charged;
    let reset = reset.as_secs_f64().ceil();
    let policy = HeaderValue::from_str(&format!("\"requests\";q={limit}"));
    let left = HeaderValue::from_str(&format!("\"requests\";r={remaining};t={reset}"));
    if let (Ok(policy), Ok(left)) = (policy, left) {
        headers.insert("ratelimit-policy", policy);
        headers.insert("ratelimit", left);
    }
}

/// Slows down who tries keys: by address, in this process.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<HashMap<IpAddr, (Instant, u32)>>);

impl Throttle {
    /// Notes a failure; refuses an address that has failed too often.
    pub(crate) fn failed(&self, address: IpAddr) -> Result<(), Problem> {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES {
            failures.retain(|_, (since, _)| since.elapsed() < MINUTE);
        }
        if failures.len() >= ADDRESSES && !failures.contains_key(&address) {
            return Ok(());
        }
        let (since, count) = failures.entry(address).or_insert_with(|| (Instant::now(), 0));
        if since.elapsed() >= MINUTE {
            (*since, *count) = (Instant::now(), 0);
        }
        *count += 1;
        if *count <= FAILURES {
            return Ok(());
        }
        let detail = "too many requests with keys that are not valid came from your address";
        Err(Problem::new(Kind::RateLimited, detail).retry_in(MINUTE.saturating_sub(since.elapsed())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_foreign_page_cannot_use_a_session() {
        for own in [
            &[("sec-fetch-site", "same-origin"), ("origin", "null")][..],
            &[("origin", "https://images.example.org"), ("host", "images.example.org")],
        ] {
            require_same_origin(&headers(own)).unwrap();
        }
        for foreign in [
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "https://images.example.org"),
                ("host", "images.example.org"),
            ][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://evil.example.org"), ("host", "images.example.org")],
            &[("origin", "null"), ("host", "images.example.org")],
            &[("host", "images.example.org")],
        ] {
            assert_eq!(require_same_origin(&headers(foreign)).unwrap_err().kind(), Kind::Forbidden, "{foreign:?}");
        }
    }

    #[test]
    fn an_address_that_tries_keys_has_to_wait() {
        let (throttle, here, there) = (Throttle::default(), [192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        for _ in 0..FAILURES {
            throttle.failed(here).unwrap();
        }
        assert_eq!(throttle.failed(here).unwrap_err().kind(), Kind::RateLimited);
        throttle.failed(there).unwrap();
    }
}
