//! What a gateway writes: no secret, whatever a client sends and however much is logged.

use std::{
    fs::File,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use echogen_gateway::{Access, table};
use echogen_tests::role::CALLBACK_SECRET;
use http::Method;
use rustix::process::Signal;
use serde_json::json;

use super::{api::Api, free_address, job};
use crate::{
    installation::LIMIT,
    program::{Folder, Running, wait_for},
};

const SEALING: &str = "sealing-sealing-sealing-sealing-sealing";

/// Has the form of a key and is none.
const STRANGER: &str = "eg_AbCdEfGh_0123456789012345678901234567890123456789012";

/// In the address of a picture.
const PASSWORD: &str = "pass-word-of-a-picture";

/// The program with everything logged, and the file that it logs to.
fn start(folder: &Folder) -> (Running, Api, PathBuf) {
    let address: SocketAddr = free_address();
    let listen = address.to_string();
    let mut command = folder.command(&["up", "--gateway", &listen, "--gateway-admin-listen", &listen]);
    command.args(["--bundle", "mini", "--store-url", "store", "--threads", "1", "--log", "trace"]);
    let key = echogen_tenants::Key::generate().expect("there are random numbers").expose().to_owned();
    command.env("ECHOGEN_GATEWAY_KEY", &key).env("ECHOGEN_GATEWAY_SEALING_SECRET", SEALING);
    command.env("ECHOGEN_CALLBACKS_SECRET", CALLBACK_SECRET);
    let log = folder.path("log");
    let program = Running::start(command, File::create(&log).expect("the file is written"));
    (program, Api { address, key }, log)
}

/// Every route with a key in its place, in the path and in the query, with a wrong one and with none.
async fn use_all_routes(api: &Api) {
    let stranger = Api { key: STRANGER.to_owned(), ..api.clone() };
    for route in table().iter().filter(|route| route.access != Access::Open) {
        let path = route.path.replace("{id}", &api.key).replace("{n}", "0");
        for path in [path.clone(), format!("{path}?after={0}&key={0}", api.key)] {
            // Streams do not end by themselves: only the beginning of an answer matters.
            drop(api.open(route.method.clone(), &path, &[], Bytes::from_static(b"{}")).await);
            drop(stranger.open(route.method.clone(), &path, &[], Bytes::from_static(b"{}")).await);
        }
    }
}

/// All text below a folder, and that of a file.
fn written(path: &Path, text: &mut Vec<u8>) {
    if path.is_dir() {
        for entry in path.read_dir().expect("it is readable") {
            written(&entry.expect("it is there").path(), text);
        }
    } else {
        File::open(path).and_then(|mut file| file.read_to_end(text)).expect("it is readable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_logs_nor_records_hold_a_secret() {
    let folder = Folder::new();
    let (mut program, api, log) = start(&folder);
    wait_for("the gateway listens", LIMIT, || std::net::TcpStream::connect(api.address).ok());
    use_all_routes(&api).await;
    let nobody = Api { key: String::new(), ..api.clone() };
    let own = [("sec-fetch-site", "same-origin"), ("content-type", "application/json")];
    let sign_in = |key: &str| Bytes::from(json!({ "key": key }).to_string());
    nobody.send(Method::POST, "/v1/session", &own, sign_in(STRANGER)).await;
    let signed_in = nobody.send(Method::POST, "/v1/session", &own, sign_in(&api.key)).await.expect(204);
    let cookie = signed_in.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    nobody.send(Method::GET, "/v1/jobs", &[("cookie", &cookie)], Bytes::new()).await.expect(200);
    let told = api.get("/v1/callback-secret").await.expect(200).json()["secrets"][0].clone();
    let mut of_stranger = job("a mug");
    of_stranger["subject"]["image"] = format!("https://me:{PASSWORD}@127.0.0.1:1/mug.png").into();
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    let refused = api.send(Method::POST, "/v1/jobs", &headers, of_stranger.to_string().into()).await;
    let mut good = job("a mug");
    good["callback"] = "https://127.0.0.1:1/done".into();
    api.send(Method::POST, "/v1/jobs", &headers, good.to_string().into()).await.expect(200);
    program.signal(Signal::TERM);
    assert_eq!(program.end(LIMIT), Some(0));

    let mut text = refused.body.to_vec();
    written(&log, &mut text);
    written(&folder.path("store"), &mut text);
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("DEBUG") && text.contains("https://127.0.0.1:1/done"), "something was logged and recorded");
    let value_of_cookie = cookie.split_once('=').expect("it has a value").1;
    let secrets = [
        ("the key", &api.key[12..]),
        ("a wrong key", &STRANGER[12..]),
        ("the cookie", value_of_cookie),
        ("the sealing secret", SEALING),
        ("the installation's callback secret", &CALLBACK_SECRET[6..]),
        ("the tenant's callback secret", told.as_str().expect("a secret").trim_start_matches("whsec_")),
        ("the password of a picture", PASSWORD),
    ];
    for (what, secret) in secrets {
        let at = text.find(secret);
        let around =
            at.map(|at| text[..at].chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect::<String>());
        assert_eq!(around, None, "{what} is written");
    }
}
