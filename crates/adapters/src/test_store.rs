//! A tiny S3 lookalike for tests: it keeps objects in memory, checks no signatures, and refuses what some stores refuse.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

use crate::S3Config;

/// What a store refuses, or does in its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    NoBucket,
    Deny,
    ReadOnly,
    WriteOnly,
    /// Checksums: 501.
    NoChecksums,
    /// Checksums: 400.
    InvalidChecksums,
    /// `If-None-Match`: 501.
    NoConditions,
    /// `If-None-Match` is as good as not there.
    IgnoredConditions,
    NeedsEncryption,
    OtherRegion,
    Skewed,
}

type Objects = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// A running store; it ends when this value is dropped.
pub(crate) struct TestStore {
    address: SocketAddr,
    objects: Objects,
    _tasks: JoinSet<()>,
}

impl TestStore {
    pub(crate) async fn start(habit: Option<Habit>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, objects, mut tasks) = (listener.local_addr().unwrap(), Objects::default(), JoinSet::new());
        let kept = Arc::clone(&objects);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let objects = Arc::clone(&kept);
                let service = service_fn(move |request| {
                    let objects = Arc::clone(&objects);
                    async move { Ok::<_, Infallible>(answer(request, habit, &objects).await) }
                });
                connections.spawn(async move {
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Self { address, objects, _tasks: tasks }
    }

    /// Settings of a client with keys that are not checked.
    pub(crate) fn config(&self) -> S3Config {
        S3Config {
            endpoint: Some(format!("http://{}", self.address)),
            bucket: "bucket".to_owned(),
            prefix: "results/".to_owned(),
            access_key_id: Some("key".into()),
            secret_access_key: Some("secret".into()),
            ..S3Config::default()
        }
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
}

async fn answer(request: Request<Incoming>, habit: Option<Habit>, objects: &Objects) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if let Some(refusal) = habit.and_then(|habit| refuse(habit, &head.method, &head.headers)) {
        return refusal;
    }
    let (key, mut objects) = (head.uri.path().to_owned(), objects.lock().unwrap());
    let is_conditional = head.headers.contains_key("if-none-match") && habit != Some(Habit::IgnoredConditions);
    match head.method {
        Method::PUT if is_conditional && objects.contains_key(&key) => {
            error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        }
        Method::PUT => {
            objects.insert(key, body);
            Response::new(Full::default())
        }
        _ => match objects.get(&key) {
            Some(found) => Response::new(Full::new(found.clone())),
            None => error(404, "NoSuchKey", "The specified key does not exist."),
        },
    }
}

fn refuse(habit: Habit, method: &Method, headers: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let is_write = method == Method::PUT;
    let checksum = headers.keys().find(|name| name.as_str().starts_with("x-amz-checksum")).filter(|_| is_write);
    let denied = || error(403, "AccessDenied", "Access Denied");
    let unknown_header =
        || error(501, "NotImplemented", "A header you provided implies functionality that is not implemented.");
    match habit {
        Habit::NoBucket => Some(error(404, "NoSuchBucket", "The specified bucket does not exist")),
        Habit::Deny => Some(denied()),
        Habit::ReadOnly => is_write.then(denied),
        Habit::WriteOnly => (!is_write).then(denied),
        Habit::NoChecksums => checksum.map(|_| unknown_header()),
        Habit::InvalidChecksums => checksum.map(|name| {
            error(400, "InvalidArgument", &format!("Unsupported header '{name}' received for this API call."))
        }),
        Habit::NoConditions => headers.contains_key("if-none-match").then(unknown_header),
        Habit::IgnoredConditions => None,
        Habit::NeedsEncryption => (is_write && !headers.contains_key("x-amz-server-side-encryption")).then(denied),
        Habit::OtherRegion => {
            let text = "The bucket you are attempting to access must be addressed using another endpoint.";
            let mut response = error(301, "PermanentRedirect", text);
            response.headers_mut().insert("x-amz-bucket-region", "eu-central-1".parse().unwrap());
            Some(response)
        }
        Habit::Skewed => {
            let text = "The difference between the request time and the current time is too large.";
            Some(error(403, "RequestTimeTooSkewed", text))
        }
    }
}

fn error(status: u16, code: &str, message: &str) -> Response<Full<Bytes>> {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
