//! Questions to a small hook of the test's own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use echogen_protocol::JobId;
use echogen_testkit::contract::{FORBIDDEN, Gates, REASON, content_gate_contract};
use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinSet};

use super::*;
use crate::test_request::{header, read_request};

/// A secret of 24 bytes.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A question: its head in lower case, and its body.
type Asked = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A hook that withholds what contains [`FORBIDDEN`], or answers what its path names; it ends with this value.
struct Hook {
    address: SocketAddr,
    asked: Asked,
    _tasks: JoinSet<()>,
}

impl Hook {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, asked, mut tasks) = (listener.local_addr().unwrap(), Asked::default(), JoinSet::new());
        let noted = Arc::clone(&asked);
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A client that gives up is no error of the hook.
                let Ok((head, body)) = read_request(&mut stream).await else { continue };
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let (status, answer) = answer(&path, &body);
                noted.lock().unwrap().push((head, body));
                if path == "/silent" {
                    std::future::pending::<()>().await;
                }
                let length = answer.len();
                let head = format!(
                    "HTTP/1.1 {status} As-Asked\r\nLocation: /\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                stream.write_all(format!("{head}{answer}").as_bytes()).await.ok();
                stream.shutdown().await.ok();
            }
        });
        Self { address, asked, _tasks: tasks }
    }

    fn config(&self, path: &str) -> SafetyConfig {
        let hook = Some(format!("http://{}/{path}", self.address));
        SafetyConfig { hook, timeout_seconds: 20.0, ..SafetyConfig::default() }
    }
}

fn answer(path: &str, body: &[u8]) -> (u16, String) {
    let is_forbidden = || {
        let question: Value = serde_json::from_slice(body).unwrap();
        let image = question["image"].as_str().map(|image| BASE64_STANDARD.decode(image).unwrap()).unwrap_or_default();
        let contains = |bytes: &[u8]| bytes.windows(FORBIDDEN.len()).any(|part| part == FORBIDDEN.as_bytes());
        contains(&image) || contains(question["words"].to_string().as_bytes())
    };
    match path {
        "/" if is_forbidden() => (200, json!({ "verdict": "withheld", "reason": REASON, "score": 0.9 }).to_string()),
        "/" => (200, json!({ "verdict": "allowed", "score": 0.1 }).to_string()),
        "/long" => (200, format!("{:>20000}", json!({ "verdict": "allowed" }).to_string())),
        "/perhaps" => (200, json!({ "verdict": "perhaps" }).to_string()),
        "/lines" => (200, json!({ "verdict": "withheld", "reason": "a\nb".repeat(2_000) }).to_string()),
        "/nothing" => (200, String::new()),
        path => (path.trim_start_matches('/').parse().unwrap_or(404), json!({ "verdict": "allowed" }).to_string()),
    }
}

fn gate(config: SafetyConfig) -> Arc<dyn ContentGate> {
    Arc::new(HttpContentGate::new(&config).unwrap().unwrap())
}

impl Gates for Hook {
    fn at(&self, places: &[GatePlace]) -> Arc<dyn ContentGate> {
        gate(SafetyConfig {
            check_words: places.contains(&GatePlace::Words),
            check_subjects: places.contains(&GatePlace::Subject),
            check_results: places.contains(&GatePlace::Result),
            ..self.config("")
        })
    }

    fn away(&self, when_unreachable: WhenUnreachable) -> Arc<dyn ContentGate> {
        gate(SafetyConfig { hook: Some("http://127.0.0.1:1/".to_owned()), when_unreachable, ..self.config("") })
    }
}

fn picture() -> GateSubject {
    let content = GateContent::ResultImage { image: Bytes::from_static(b"a picture"), index: 2, seed: u64::MAX };
    GateSubject { job: JobId("one".to_owned()), tenant: Some("acme".to_owned()), content }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    content_gate_contract(&Hook::start().await).await;
}

#[tokio::test]
async fn a_question_is_signed_and_says_what_is_asked() {
    let hook = Hook::start().await;
    let config = SafetyConfig { secret: Some(SECRET.into()), ..hook.config("") };
    assert!(!format!("{:?}", HttpContentGate::new(&config)).contains("MfKQ"));
    assert_eq!(gate(config).check(picture()).await.unwrap(), Verdict::Allowed);
    let content =
        GateContent::Words { prompt: "a \"dog\"".to_owned(), negative_prompt: None, name: Some("dog".to_owned()) };
    gate(hook.config("")).check(GateSubject { content, tenant: None, ..picture() }).await.unwrap();
    let asked = hook.asked.lock().unwrap().clone();
    let [(head, body), (unsigned, words)] = &asked[..] else { panic!("{asked:?}") };
    assert!(head.starts_with("post / http/1.1\r\n"), "{head}");
    assert_eq!(header(head, "content-type"), Some("application/json"));
    assert_eq!(header(head, "webhook-id"), Some("one/result/2"));
    let timestamp = header(head, "webhook-timestamp").unwrap().parse().unwrap();
    let signature = SECRET.parse::<SigningKey>().unwrap().sign("one/result/2", timestamp, body).unwrap();
    assert_eq!(header(head, "webhook-signature"), Some(signature.to_lowercase().as_str()));
    let question = json!({ "place": "result", "job": "one", "tenant": "acme", "index": 2, "seed": u64::MAX, "image": "YSBwaWN0dXJl" });
    assert_eq!(serde_json::from_slice::<Value>(body).unwrap(), question);
    let expected = json!({ "prompt": "a \"dog\"", "negative_prompt": null, "name": "dog" });
    let question = json!({ "place": "words", "job": "one", "tenant": null, "words": expected });
    assert_eq!(serde_json::from_slice::<Value>(words).unwrap(), question);
    assert_eq!(header(unsigned, "webhook-signature"), None);
}

#[tokio::test]
async fn what_is_no_verdict_leaves_it_to_the_setting() {
    let hook = Hook::start().await;
    for path in ["204", "301", "401", "500", "long", "perhaps", "nothing", "silent"] {
        let config = SafetyConfig { timeout_seconds: if path == "silent" { 0.5 } else { 20.0 }, ..hook.config(path) };
        let error = gate(config.clone()).check(picture()).await.unwrap_err();
        assert!(!error.is_permanent() && error.retry_after() == Some(ASK_AGAIN_IN), "{path}: {}", error.story());
        let open = SafetyConfig { when_unreachable: WhenUnreachable::Open, ..config };
        assert_eq!(gate(open).check(picture()).await.unwrap(), Verdict::Allowed, "{path}");
        if path == "silent" {
            break; // The hook answers nobody any more.
        }
    }
    assert!(hook.asked.lock().unwrap().iter().all(|(head, _)| !head.starts_with("post / ")), "no redirect is followed");
}

#[tokio::test]
async fn without_a_verdict_a_tenants_own_rule_holds() {
    let hook = Hook::start().await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let config = SafetyConfig {
        open_for: names(&["acme", "both"]),
        closed_for: names(&["globex", "both"]),
        ..hook.config("500")
    };
    for (otherwise, of_others) in [(WhenUnreachable::Closed, false), (WhenUnreachable::Open, true)] {
        for max_image_bytes in [1, 1_000] {
            let gate = gate(SafetyConfig { when_unreachable: otherwise, max_image_bytes, ..config.clone() });
            let expected = [
                (Some("acme"), true),
                (Some("globex"), false),
                (Some("both"), false),
                (Some("c"), of_others),
                (None, of_others),
            ];
            for (tenant, is_used) in expected {
                let subject = GateSubject { tenant: tenant.map(str::to_owned), ..picture() };
                let verdict = gate.check(subject).await;
                assert_eq!(
                    verdict.is_ok_and(|verdict| verdict == Verdict::Allowed),
                    is_used,
                    "{tenant:?} {otherwise:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_reason_is_one_line_of_bounded_length() {
    let hook = Hook::start().await;
    let Verdict::Withheld { reason } = gate(hook.config("lines")).check(picture()).await.unwrap() else { panic!() };
    assert!(reason.chars().count() <= 1_000 && !reason.contains('\n'), "{reason}");
}

#[tokio::test]
async fn a_picture_that_is_too_large_to_be_checked_is_withheld_unless_the_gate_is_open() {
    let hook = Hook::start().await;
    let small = SafetyConfig { max_image_bytes: 8, ..hook.config("") };
    let withheld = Verdict::Withheld { reason: "it has 9 bytes; at most 8 can be checked".to_owned() };
    assert_eq!(gate(small.clone()).check(picture()).await.unwrap(), withheld);
    let open = SafetyConfig { when_unreachable: WhenUnreachable::Open, ..small };
    assert_eq!(gate(open).check(picture()).await.unwrap(), Verdict::Allowed);
    assert!(hook.asked.lock().unwrap().is_empty());
}

#[test]
fn wrong_settings_are_refused_by_name_and_no_hook_is_no_gate() {
    let with = |hook: &str| SafetyConfig { hook: Some(hook.to_owned()), ..SafetyConfig::default() };
    let secret = SafetyConfig { secret: Some("hunter2".into()), ..with("https://a/") };
    for (config, start) in [
        (with("nonsense"), "safety.hook is no address"),
        (with("ftp://a/"), "safety.hook begins with neither"),
        (with("https://me:secret@a/"), "safety.hook carries a user name or password"),
        (SafetyConfig { timeout_seconds: 0.0, ..with("https://a/") }, "safety.timeout_seconds is 0"),
        (secret, "safety.secret is no signing secret"),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with(start) && !error.contains("hunter2") && !error.contains("me:secret"), "{error}");
    }
    for none in [SafetyConfig::default(), with("")] {
        none.check().unwrap();
        assert!(HttpContentGate::new(&none).unwrap().is_none());
    }
    let everything = SafetyConfig::default().places();
    assert_eq!(everything, GatePlace::ALL);
}
