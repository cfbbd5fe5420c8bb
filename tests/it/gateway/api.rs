//! A client of the gateway's API that holds every answer against the OpenAPI document.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use bytes::Bytes;
use echogen_gateway::{Route, openapi, table};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Timeout of every request.
const LIMIT: Duration = Duration::from_secs(60);

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same answer, which must have this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A client with a key.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

impl Api {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string().into()).await
    }

    pub(crate) async fn act(&self, method: Method, path: &str) -> Answer {
        self.send(method, path, &[], Bytes::new()).await
    }

    /// Sends a request and checks the answer against the document.
    pub(crate) async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer {
        let response = self.open(method.clone(), path, headers, body).await;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(LIMIT, body.collect())
            .await
            .expect("the answer ends")
            .expect("it is whole")
            .to_bytes();
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        check(&method, path, &answer);
        answer
    }

    /// Sends a request and returns the answer as soon as it begins.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> http::Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.expect("the gateway listens");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
        tokio_util::task::TaskTracker::new().spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        if !self.key.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.key));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("it is a request");
        tokio::time::timeout(LIMIT, sender.send_request(request)).await.expect("it answers").expect("it answers whole")
    }
}

/// The operation of a path in the document.
fn operation(method: &Method, path: &str) -> Option<Route> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |route: &Route| {
        let (pattern, given): (Vec<&str>, Vec<&str>) = (route.path.split('/').collect(), path.split('/').collect());
        let equal = |(wanted, given): (&&str, &&str)| wanted.starts_with('{') || wanted == given;
        route.method == *method && pattern.len() == given.len() && pattern.iter().zip(&given).all(equal)
    };
    let mut fitting: Vec<Route> = table().into_iter().filter(|route| fits(route)).collect();
    // `/v1/jobs/{id}` fits less than a path without parameters.
    fitting.sort_by_key(|route| route.path.matches('{').count());
    fitting.into_iter().next()
}

/// Compiled schemas by operation and status.
static VALIDATORS: LazyLock<Mutex<HashMap<String, &'static jsonschema::Validator>>> = LazyLock::new(Mutex::default);

fn check(method: &Method, path: &str, answer: &Answer) {
    let Some(route) = operation(method, path) else { return };
    let status = answer.status.as_u16().to_string();
    let operation = &openapi()["paths"][route.path][method.as_str().to_ascii_lowercase()];
    let mut response = &operation["responses"][&status];
    if let Some(reference) = response["$ref"].as_str() {
        response = openapi().pointer(&reference[1..]).expect("the reference leads somewhere");
    }
    assert!(!response.is_null(), "{method} {path} answers {status}, which the document does not know: {answer:?}");
    let Some((media_type, content)) = response["content"].as_object().and_then(|content| content.iter().next()) else {
        assert!(answer.body.is_empty(), "{method} {path} {status} has no body in the document");
        return;
    };
    let sent = answer.header("content-type").split(';').next().unwrap_or_default();
    let family = media_type.strip_suffix('*').unwrap_or(media_type);
    assert!(sent.starts_with(family), "{method} {path} {status}: {sent} is not {media_type}");
    if content["schema"].is_null() {
        return;
    }
    let name = format!("{} {status}", route.name);
    let mut validators = VALIDATORS.lock().expect("no test panics here");
    let validator = *validators.entry(name).or_insert_with(|| {
        let schema = json!({ "allOf": [content["schema"]], "components": openapi()["components"] });
        Box::leak(Box::new(jsonschema::validator_for(&schema).expect("the document's schemas are schemas")))
    });
    let body = answer.json();
    let errors: Vec<String> =
        validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{method} {path} {status}: {errors:?} in {body:#}");
}
