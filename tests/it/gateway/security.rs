//! What keeps others out: sessions, foreign pages, slow and oversized requests.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use echogen_adapters::CallbackConfig;
use echogen_protocol::RoleName;
use echogen_service::config::ServiceConfig;
use echogen_tests::{
    callback_server::{CallbackServer, trusting},
    role::CALLBACK_SECRET,
};
use http::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{House, api::Api, job};
use crate::installation::LIMIT;

/// Signs in and returns the cookie.
async fn cookie(house: &House) -> String {
    let own = [("sec-fetch-site", "same-origin"), ("content-type", "application/json")];
    let nobody = Api { key: String::new(), ..house.acme.clone() };
    let body = json!({ "key": house.acme.key }).to_string();
    let answer = nobody.send(Method::POST, "/v1/session", &own, body.into()).await.expect(204);
    let cookie = answer.header("set-cookie");
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; ") && !cookie.contains(&house.acme.key), "{cookie}");
    cookie.split(';').next().expect("it has a value").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_works_from_the_consoles_own_page_only() {
    let house = House::open().await;
    let cookie = cookie(&house).await;
    let browser = Api { key: String::new(), ..house.acme.clone() };
    let body = || Bytes::from(job("a mug").to_string());
    let own = [("cookie", cookie.as_str()), ("sec-fetch-site", "same-origin")];
    browser.send(Method::GET, "/v1/jobs", &own[..1], Bytes::new()).await.expect(200);
    let view = browser.send(Method::GET, "/v1/session", &own[..1], Bytes::new()).await.expect(200).json();
    assert_eq!(view["tenant"], "acme");
    browser.send(Method::POST, "/v1/jobs", &own, body()).await.expect(202);
    let host = house.acme.address.to_string();
    let origin = format!("http://{host}");
    browser.send(Method::POST, "/v1/jobs", &[own[0], ("origin", &origin)], body()).await.expect(202);
    for foreign in [
        &[own[0]][..],
        &[own[0], ("sec-fetch-site", "cross-site")],
        &[own[0], ("sec-fetch-site", "same-site")],
        &[own[0], ("origin", "https://evil.example.org")],
        &[own[0], ("origin", "null")],
    ] {
        browser.send(Method::POST, "/v1/jobs", foreign, body()).await.expect(403);
    }
    // A cookie that was changed anywhere is none.
    let (name, value) = cookie.split_once('=').expect("it has a name");
    for at in [0, value.len() / 2, value.len() - 1] {
        let mut changed = value.to_owned().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = format!("{name}={}", String::from_utf8(changed).expect("it is ASCII"));
        browser.send(Method::GET, "/v1/jobs", &[("cookie", &changed)], Bytes::new()).await.expect(401);
    }
    let out = browser.send(Method::DELETE, "/v1/session", &own, Bytes::new()).await.expect(204);
    assert!(out.header("set-cookie").contains("Max-Age=0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_needs_the_own_page_and_a_valid_key() {
    let house = House::open().await;
    let nobody = Api { key: String::new(), ..house.acme.clone() };
    let sign_in = async |headers: &[(&str, &str)], key: &str| {
        nobody.send(Method::POST, "/v1/session", headers, json!({ "key": key }).to_string().into()).await
    };
    sign_in(&[("sec-fetch-site", "cross-site")], &house.acme.key).await.expect(403);
    let own = [("sec-fetch-site", "same-origin")];
    let refused = sign_in(&own, "eg_wrong").await.expect(401);
    assert!(!String::from_utf8_lossy(&refused.body).contains("eg_wrong"));
    for _ in 0..20 {
        sign_in(&own, "eg_wrong").await;
    }
    sign_in(&own, "eg_wrong").await.expect(429);
    let without = House::with(&[RoleName::Gateway], |config| config.gateway.sealing_secret = None, "").await;
    let nobody = Api { key: String::new(), ..without.acme.clone() };
    let body = json!({ "key": without.acme.key }).to_string();
    nobody.send(Method::POST, "/v1/session", &own, body.into()).await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_pages_are_allowed_by_name_and_never_with_cookies() {
    let allow = |config: &mut ServiceConfig| {
        config.gateway.origins = vec!["https://app.example.org".to_owned()];
    };
    let house = House::with(&RoleName::ALL, allow, "").await;
    let api = &house.acme;
    let preflight = [("origin", "https://app.example.org"), ("access-control-request-method", "POST")];
    let answer = api.send(Method::OPTIONS, "/v1/jobs", &preflight, Bytes::new()).await.expect(204);
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example.org");
    assert_eq!(answer.header("access-control-allow-credentials"), "");
    let foreign = [("origin", "https://evil.example.org"), ("access-control-request-method", "POST")];
    let answer = api.send(Method::OPTIONS, "/v1/jobs", &foreign, Bytes::new()).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
    let answer = api.send(Method::GET, "/v1/jobs", &foreign[..1], Bytes::new()).await.expect(200);
    assert_eq!((answer.header("access-control-allow-origin"), answer.header("vary")), ("", "origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_forbids_guessing_and_keeping() {
    let house = House::open().await;
    for path in ["/v1/jobs", "/v1/openapi.json", "/console/", "/console/main.js", "/nothing", "/livez"] {
        let answer = house.acme.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert!(!answer.header("cache-control").is_empty(), "{path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "{path}");
    }
}

/// Sends bytes as they are and returns what comes back until the connection closes.
async fn raw(house: &House, pieces: &[&[u8]], pause: Duration) -> String {
    let mut stream = TcpStream::connect(house.acme.address).await.expect("the gateway listens");
    for piece in pieces {
        // The gateway may have closed the connection meanwhile.
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::time::sleep(pause).await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(40), stream.read_to_end(&mut answer)).await;
    drop(read.expect("the gateway closes the connection"));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_oversized_headers_cost_nothing() {
    let house = House::open().await;
    let began = Instant::now();
    let answer = raw(&house, &[b"GET /v1/jobs HTTP/1.1\r\nhost: x\r\n"], Duration::ZERO).await;
    assert!(!answer.contains("200") && began.elapsed() < Duration::from_secs(30), "{answer}");
    let long = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(64 << 10));
    let answer = raw(&house, &[long.as_bytes()], Duration::ZERO).await;
    assert!(answer.is_empty() || answer.contains("431"), "{answer}");
    house.acme.get("/livez").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_before_it_has_come() {
    let house = House::open().await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 9000000\r\n\r\n",
        house.acme.key
    );
    let answer = raw(&house, &[head.as_bytes()], Duration::ZERO).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_refused() {
    let house = House::open().await;
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100000\r\n\r\n",
        house.acme.key
    );
    let mut pieces: Vec<&[u8]> = vec![head.as_bytes()];
    pieces.extend([&b"{"[..]; 8]);
    let answer = raw(&house, &pieces, Duration::from_secs(1)).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_address_are_bounded() {
    let few = |config: &mut ServiceConfig| config.gateway.connections_per_address = 3;
    let house = House::with(&[RoleName::Gateway], few, "").await;
    // The one that found out whether the gateway listens may still be open.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(TcpStream::connect(house.acme.address).await.expect("the gateway listens"));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut fourth = TcpStream::connect(house.acme.address).await.expect("the system accepts");
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(2), fourth.read(&mut byte)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "it is closed at once: {read:?}");
    drop(open);
    tokio::time::sleep(Duration::from_millis(200)).await;
    house.acme.get("/livez").await.expect(200);
}

/// Each tenant's server believes only what is signed with the secret that this tenant is told.
#[tokio::test(flavor = "multi_thread")]
async fn callbacks_are_signed_with_the_tenants_own_secret() {
    let mut servers = [(); 2].map(|()| CallbackServer::start(CALLBACK_SECRET).expect("the example runs"));
    let certificates = servers.each_ref().map(CallbackServer::certificate).join("\n");
    let change = |config: &mut ServiceConfig| {
        config.callbacks = CallbackConfig { secret: Some(CALLBACK_SECRET.into()), ..trusting(&certificates) };
    };
    let house = House::with(&RoleName::ALL, change, "").await;
    let mut secrets = HashSet::from([CALLBACK_SECRET.to_owned()]);
    for (api, server) in [&house.acme, &house.globex].into_iter().zip(&mut servers) {
        let answer = api.get("/v1/callback-secret").await.expect(200);
        assert_eq!(answer.header("cache-control"), "no-store");
        let secret = answer.json()["secrets"][0].as_str().expect("a secret").to_owned();
        server.run_with(&secret).expect("it runs");
        assert!(secrets.insert(secret), "it is nobody else's");
        let mut job = job("a mug");
        job["callback"] = server.url().into();
        let sent = api.post("/v1/jobs", &job).await.expect(202).json();
        let heard = async {
            while server.heard().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, heard).await.expect("the server believes it");
        assert!(server.heard()[0].contains(sent["id"].as_str().expect("an id")));
    }
}
