//! The example clients of the HTTP API: each sends a picture, is refused for now, loses its stream, and has its previews and its
//! picture nevertheless; sent again, its order stays one job.

use std::{
    io::BufRead,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    gateway::api::Api,
    program::{Folder, Run, Running, repository, subject},
};

/// What the front answers to the first two connections.
const REFUSALS: [&str; 2] = ["503 Service Unavailable", "429 Too Many Requests"];

/// So many that a client follows the job while they are made.
const PICTURES: &str = "8";

/// What stands between a client and the gateway: it refuses the first requests, and cuts the first stream of events behind its
/// first preview, or its end.
struct Front {
    address: SocketAddr,
    refused: Arc<AtomicUsize>,
    cut: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Front {
    async fn before(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let (refused, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = (Arc::clone(&refused), Arc::clone(&cut));
        let tracker = tokio_util::task::TaskTracker::new();
        let connections = tracker.clone();
        let serving = tracker.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (refused, cut) = counters.clone();
                connections.spawn(async move {
                    match REFUSALS.get(refused.fetch_add(1, Ordering::Relaxed)) {
                        Some(status) => refuse(client, status).await,
                        None => pass(client, gateway, &cut).await,
                    }
                });
            }
        });
        Self { address, refused, cut, serving }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Reads a request with its body, which the client announces, and refuses it.
async fn refuse(mut client: TcpStream, status: &str) -> std::io::Result<()> {
    let (mut request, mut piece) = (Vec::new(), vec![0; 65_536]);
    loop {
        let count = client.read(&mut piece).await?;
        request.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        let length = |head: &str| head.split("content-length: ").nth(1)?.split_whitespace().next()?.parse().ok();
        let Some(head) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        if count == 0 || request.len() >= head + 4 + length(&text).unwrap_or(0) {
            break;
        }
    }
    let answer = format!("HTTP/1.1 {status}\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Passes bytes on in both directions, until a stream of events is to be cut.
async fn pass(client: TcpStream, gateway: SocketAddr, cut: &AtomicUsize) -> std::io::Result<()> {
    let ((mut from_client, mut to_client), server) = (client.into_split(), TcpStream::connect(gateway).await?);
    let (mut from_server, mut to_server) = server.into_split();
    let sending = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let receiving = async {
        let (mut shown, mut piece) = (Vec::new(), vec![0; 65_536]);
        loop {
            let count = from_server.read(&mut piece).await?;
            if count == 0 {
                return to_client.shutdown().await;
            }
            to_client.write_all(&piece[..count]).await?;
            shown.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&shown);
            let is_due = text.contains("text/event-stream") && text.contains("event: preview");
            if is_due && cut.fetch_add(1, Ordering::Relaxed) == 0 {
                return Ok(());
            }
        }
    };
    // A client that has sent its request keeps its side open.
    tokio::select! {
        received = receiving => received,
        Err(error) = sending => Err(error),
    }
}

/// All roles with the mini bundle and the gateway in one process; returns a client of it.
fn start(folder: &Folder) -> (Running, Api) {
    let mut command = folder.command(&["up", "--gateway", "127.0.0.1:0", "--bundle", "mini", "--store-url", "store"]);
    command.args(["--threads", "1"]);
    let (program, output) = Running::start_and_read(command);
    let mut lines = output.lines().map(|line| line.expect("it is text"));
    let mut after = |word: &str| {
        let line = lines.next().expect("the program says where it listens");
        line.strip_prefix(word).unwrap_or_else(|| panic!("{line}")).trim().to_owned()
    };
    let (console, key) = (after("console "), after("key "));
    let address = console.trim_start_matches("http://").trim_end_matches('/').parse().expect("it is an address");
    (program, Api { address, key })
}

/// Runs a client against the program.
async fn check(client: impl Fn(&str, &[&str]) -> Command) {
    let folder = Folder::new();
    let (_program, api) = start(&folder);
    let front = Front::before(api.address).await;
    let url = format!("http://{}", front.address);
    let run = async |out: &str| {
        let mut command = client(&url, &[&subject("mug.png"), "a mug on a beach", out, "order-1"]);
        command.current_dir(folder.path("")).env("KEY", &api.key);
        let ran = tokio::task::spawn_blocking(move || Run::of(command));
        let run = tokio::time::timeout(Duration::from_secs(120), ran).await.expect("the client ends");
        run.expect("no panic").expect(0)
    };
    let first = run("first").await;
    assert!(front.refused.load(Ordering::Relaxed) > REFUSALS.len(), "it came again");
    assert!(front.cut.load(Ordering::Relaxed) > 0, "its stream was cut: {first:?}");
    assert_eq!(folder.read("first/picture-0.png").get(..4), Some(&b"\x89PNG"[..]));
    let saved = std::fs::read_dir(folder.path("first")).expect("the client makes the folder");
    let names = saved.map(|entry| entry.expect("it is readable").file_name().into_string().expect("it is text"));
    let previews: Vec<String> = names.filter(|name| name.starts_with("preview-0-")).collect();
    assert!(!previews.is_empty(), "{first:?}");
    for name in previews {
        assert_eq!(folder.read(&format!("first/{name}")).get(..3), Some(&b"\xff\xd8\xff"[..]), "{name} is a JPEG");
    }
    let again = run("again").await;
    assert_eq!(first.stdout.lines().next(), again.stdout.lines().next(), "the same order is the same job");
    assert_eq!(folder.read("again/picture-0.png"), folder.read("first/picture-0.png"));
    let list = api.get("/v1/jobs").await.expect(200).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list:#}");
}

/// A client's command; `arguments` are the picture, the prompt, the folder and the order's name.
fn with_flags(program: &str, file: &str, url: &str, arguments: &[&str]) -> Command {
    let [picture, prompt, out, order] = arguments else { panic!("{arguments:?}") };
    let mut command = Command::new(program);
    command.arg(repository("examples/clients/http").join(file)).args([picture, prompt]);
    command.args(["--url", url, "--out", out, "--order", order, "--pictures", PICTURES, "--patience", "60"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_of_the_api_has_its_pictures_through_refusals_and_breaks() {
    check(|url, arguments| with_flags("python3", "submit.py", url, arguments)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_client_of_the_api_has_its_pictures_through_refusals_and_breaks() {
    check(|url, arguments| with_flags("node", "submit.mjs", url, arguments)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_client_of_the_api_has_its_pictures_through_refusals_and_breaks() {
    let shell = |url: &str, arguments: &[&str]| {
        let [picture, prompt, out, order] = arguments else { panic!("{arguments:?}") };
        let mut command = Command::new("sh");
        command.arg(repository("examples/clients/http/submit.sh")).args([picture, prompt, url, out, order, PICTURES]);
        command
    };
    check(shell).await;
}
