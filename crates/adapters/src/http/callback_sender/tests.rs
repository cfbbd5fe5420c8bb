//! Callbacks to small servers of the test's own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_ports::memory::CallbackAnswer;
use echogen_protocol::{EventKind, JobId};
use echogen_testkit::contract::{CallbackServers, callback_sender_contract};
use jiff::Timestamp;
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinSet};

use super::*;
use crate::{
    test_request::{header, read_request},
    test_tls,
};

/// A secret of 24 bytes.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A request that a server received: its head in lower case, and its body.
type Heard = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// An encrypted server that answers with the status that the path names; it ends with this value.
struct Server {
    address: SocketAddr,
    certificate: String,
    heard: Heard,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (acceptor, certificate) = test_tls::localhost();
        let (address, heard, mut tasks) = (listener.local_addr().unwrap(), Heard::default(), JoinSet::new());
        let noted = Arc::clone(&heard);
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that closes the connection is not an error of the server.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let (head, body) = read_request(&mut stream).await.unwrap();
                let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
                if path == "204" {
                    noted.lock().unwrap().push((head, body));
                }
                if path == "silent" {
                    std::future::pending::<()>().await;
                }
                let answer = format!(
                    "HTTP/1.1 {path} As-Asked\r\nRetry-After: 7\r\nLocation: /204\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.ok();
            }
        });
        Self { address, certificate, heard, _tasks: tasks }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.address.port())
    }

    fn config(&self) -> CallbackConfig {
        CallbackConfig {
            allowed_networks: vec!["127.0.0.1".parse().unwrap()],
            certificates: Some(self.certificate.clone()),
            timeout_seconds: 20.0,
            ..CallbackConfig::default()
        }
    }

    fn sender(&self, secrets: &[&str]) -> HttpCallbackSender {
        let secret = (!secrets.is_empty()).then(|| secrets.join(",").into());
        HttpCallbackSender::new(CallbackConfig { secret, ..self.config() }).unwrap()
    }

    fn only(&self) -> (String, Vec<u8>) {
        let heard = self.heard.lock().unwrap();
        assert_eq!(heard.len(), 1);
        heard[0].clone()
    }
}

fn event() -> JobEvent {
    JobEvent::new(EventKind::Completed, &JobId("one".to_owned()), Timestamp::UNIX_EPOCH, serde_json::json!({ "a": 1 }))
}

impl CallbackServers for Server {
    fn address(&self, answer: CallbackAnswer) -> String {
        self.url(match answer {
            CallbackAnswer::Heard => "204",
            CallbackAnswer::Busy => "503",
            CallbackAnswer::Refused => "410",
        })
    }

    fn nobody(&self) -> String {
        "https://localhost:1/".to_owned()
    }

    fn heard(&self) -> Vec<JobEvent> {
        let heard = self.heard.lock().unwrap();
        heard.iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let server = Server::start().await;
    callback_sender_contract(&server.sender(&[]), &server).await;
}

#[tokio::test]
async fn an_event_is_posted_as_it_is_and_without_a_secret_not_signed() {
    let server = Server::start().await;
    server.sender(&[]).send(&server.url("204"), None, &event()).await.unwrap().heard().unwrap();
    let (head, body) = server.only();
    assert!(head.starts_with("post /204 http/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "content-type"), Some("application/cloudevents+json; charset=utf-8"));
    assert_eq!(header(&head, "webhook-id"), Some("one/completed"));
    assert!(header(&head, "webhook-timestamp").unwrap().parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(header(&head, "webhook-signature"), None);
    assert_eq!(body, serde_json::to_vec(&event()).unwrap());
}

#[tokio::test]
async fn every_secret_signs() {
    let server = Server::start().await;
    let other = format!("whsec_{}", BASE64_STANDARD.encode([7; 64]));
    server.sender(&[SECRET, &other]).send(&server.url("204"), None, &event()).await.unwrap().heard().unwrap();
    let (head, body) = server.only();
    let timestamp = header(&head, "webhook-timestamp").unwrap().parse().unwrap();
    let expected = [SECRET, &other].map(|secret| {
        secret.parse::<SigningKey>().unwrap().sign("one/completed", timestamp, &body).unwrap().to_lowercase()
    });
    assert_ne!(expected[0], expected[1]);
    assert_eq!(header(&head, "webhook-signature"), Some(expected.join(" ").as_str()));
}

#[tokio::test]
async fn a_tenants_own_secret_signs_too_and_another_tenants_does_not() {
    let server = Server::start().await;
    server.sender(&[SECRET]).send(&server.url("204"), Some("acme"), &event()).await.unwrap().heard().unwrap();
    let (head, body) = server.only();
    let timestamp = header(&head, "webhook-timestamp").unwrap().parse().unwrap();
    let signed = |secret: &str| secret.parse::<SigningKey>().unwrap().sign("one/completed", timestamp, &body).unwrap();
    let of = |tenant| callback_secrets_of(&SECRET.into(), tenant)[0].expose().to_owned();
    let signatures = header(&head, "webhook-signature").unwrap();
    for (secret, signs) in [(SECRET.to_owned(), true), (of("acme"), true), (of("other"), false)] {
        assert_eq!(signatures.split(' ').any(|one| one == signed(&secret).to_lowercase()), signs, "{secret}");
    }
    assert_eq!(signatures.split(' ').count(), 2);
}

#[tokio::test]
async fn only_a_server_that_is_gone_for_good_is_not_called_again() {
    let server = Server::start().await;
    let sender = server.sender(&[]);
    for status in ["301", "307", "400", "401", "404", "409", "410", "422"] {
        let error = sender.send(&server.url(status), None, &event()).await.unwrap().heard().unwrap_err();
        assert!(error.is_permanent() == (status == "410") && error.to_string().contains(status), "{error}");
    }
    for status in ["408", "425", "429", "500", "503"] {
        let error = sender.send(&server.url(status), None, &event()).await.unwrap().heard().unwrap_err();
        assert!(!error.is_permanent(), "{error}");
        assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(7)));
    }
    assert_eq!(server.heard.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_no_more_than_the_limit() {
    let server = Server::start().await;
    let hasty = CallbackConfig { timeout_seconds: 0.5, ..server.config() };
    let sender = HttpCallbackSender::new(hasty).unwrap();
    let error = sender.send(&server.url("silent"), None, &event()).await.unwrap_err();
    assert!(!error.is_permanent() && error.to_string().contains("did not answer in 0.5 seconds"), "{error}");
}

#[tokio::test]
async fn what_must_not_be_reached_is_not_called() {
    let server = Server::start().await;
    let strict = CallbackConfig { allowed_networks: Vec::new(), ..server.config() };
    let port = server.address.port();
    for address in [
        server.url("204"),
        format!("https://127.0.0.1:{port}/204"),
        format!("https://[::ffff:127.0.0.1]:{port}/204"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        format!("http://localhost:{port}/204"),
        "nonsense".to_owned(),
    ] {
        let sender = HttpCallbackSender::new(strict.clone()).unwrap();
        assert!(sender.send(&address, None, &event()).await.unwrap_err().is_permanent(), "{address}");
    }
    let elsewhere = CallbackConfig { allowed_hosts: vec!["example.org".to_owned()], ..server.config() };
    let error = HttpCallbackSender::new(elsewhere).unwrap().send(&server.url("204"), None, &event()).await;
    assert!(error.unwrap_err().to_string().contains("is not called: the host is not on the list"));
    assert_eq!(server.heard.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_user_agent_of_the_operators_is_sent() {
    let server = Server::start().await;
    let config = CallbackConfig { user_agent: "echogen/1 (bots@example.org)".to_owned(), ..server.config() };
    drop(HttpCallbackSender::new(config).unwrap().send(&server.url("204"), None, &event()).await.unwrap());
    assert_eq!(header(&server.only().0, "user-agent"), Some("echogen/1 (bots@example.org)"));
}
