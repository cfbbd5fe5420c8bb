//! The web fetcher against small servers of the test's own, plain and encrypted, good and hostile.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use echogen_ports::{Fault, ImageFetcher, MemoryBudget};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use url::Url;

use super::{HttpConfig, HttpImageFetcher, PictureMemory};
use crate::test_tls;

const LIMIT: u64 = 1_000;
const UNIT: u64 = MemoryBudget::UNIT;

/// A server; it ends with this value.
struct Site {
    address: SocketAddr,
    visitors: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
}

impl Site {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn visitors(&self) -> u32 {
        self.visitors.load(Ordering::SeqCst)
    }
}

async fn site() -> Site {
    site_at(Ipv4Addr::LOCALHOST, None).await
}

async fn site_at(address: Ipv4Addr, tls: Option<TlsAcceptor>) -> Site {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let (address, visitors) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
    let (mut tasks, seen) = (JoinSet::new(), visitors.clone());
    tasks.spawn(async move {
        let mut visits = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::SeqCst);
            let tls = tls.clone();
            visits.spawn(async move {
                // A client that closes the connection is not an error of the server.
                match tls {
                    None => answer(stream).await.ok(),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => answer(stream).await.ok(),
                        Err(_) => None,
                    },
                };
            });
        }
    });
    Site { address, visitors, _tasks: tasks }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let plain = |status: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
    };
    let text = match path.as_str() {
        "/dog.png" => plain("200 OK", "Content-Type: image/png\r\n", "12345"),
        "/head" => plain("200 OK", "", &head),
        "/exact" => plain("200 OK", "", &"x".repeat(LIMIT as usize)),
        "/large" => plain("200 OK", "", &"x".repeat(LIMIT as usize + 1)),
        "/huge" => "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n".to_owned(),
        "/chunked" => {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n3\r\n345\r\n0\r\n\r\n".to_owned()
        }
        "/short" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n12345".to_owned(),
        "/long" => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n12345".to_owned(),
        "/zipped" => plain("200 OK", "Content-Encoding: gzip\r\n", "12345"),
        "/nonsense" => "I am no web server\r\n\r\n".to_owned(),
        "/loop" => plain("302 Found", "Location: /loop\r\n", ""),
        "/nowhere" => plain("302 Found", "", ""),
        "/busy" => plain("429 Too Many Requests", "Retry-After: 7\r\n", ""),
        "/busy-all-day" => plain("429 Too Many Requests", "Retry-After: 86400\r\n", ""),
        "/endless" | "/slow" | "/slow-announced" | "/silent" => return never_end(stream, &path).await,
        _ => match (path.strip_prefix("/to/"), path.strip_prefix("/status/")) {
            (Some(location), _) => plain("301 Moved Permanently", &format!("Location: {location}\r\n"), "not here"),
            (_, Some(status)) => plain(&format!("{status} As Asked"), "", "a page about the status"),
            _ => plain("404 Not Found", "", ""),
        },
    };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

async fn never_end(mut stream: impl AsyncWrite + Unpin, path: &str) -> std::io::Result<()> {
    match path {
        "/silent" => {}
        "/slow-announced" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n").await?,
        _ => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?,
    }
    loop {
        match path {
            "/endless" => stream.write_all(&[0; 100]).await?,
            "/slow" | "/slow-announced" => stream.write_all(&[0]).await?,
            _ => {}
        }
        stream.flush().await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reaches 127.0.0.1 and nothing else that is not public.
fn config() -> HttpConfig {
    HttpConfig {
        allowed_networks: vec!["127.0.0.1".parse().unwrap()],
        allow_http: true,
        timeout_seconds: 20.0,
        ..HttpConfig::default()
    }
}

async fn fetch_with(config: HttpConfig, url: &str) -> Result<Vec<u8>, Fault> {
    let fetcher = HttpImageFetcher::new(config).unwrap();
    fetcher.fetch_url(&Url::parse(url).unwrap(), LIMIT).await.map(|bytes| bytes.to_vec())
}

async fn fetch(url: &str) -> Result<Vec<u8>, Fault> {
    fetch_with(config(), url).await
}

#[track_caller]
fn check_refused(fetched: Result<Vec<u8>, Fault>, part: &str) {
    let error = fetched.unwrap_err();
    let text = error.to_string();
    assert!(error.is_permanent(), "{text}");
    assert!(text.contains(part) && !text.contains('\n'), "{text}");
}

#[track_caller]
fn check_transient(fetched: Result<Vec<u8>, Fault>, part: &str) {
    let error = fetched.unwrap_err();
    assert!(!error.is_permanent() && error.to_string().contains(part), "{error}");
}

#[tokio::test]
async fn pictures_come_whole_in_every_way_of_sending_them() {
    let site = site().await;
    assert_eq!(fetch(&site.url("/dog.png")).await.unwrap(), b"12345");
    assert_eq!(fetch(&site.url("/chunked")).await.unwrap(), b"12345");
    assert_eq!(fetch(&site.url("/exact")).await.unwrap().len() as u64, LIMIT);
    assert_eq!(fetch(&site.url("/long")).await.unwrap(), b"123", "what was announced counts");
    assert_eq!(fetch(&site.url("/to//dog.png")).await.unwrap(), b"12345");
}

#[tokio::test]
async fn the_server_learns_who_asks_and_nothing_more() {
    let site = site().await;
    let head = String::from_utf8(fetch(&site.url("/head")).await.unwrap()).unwrap().to_lowercase();
    assert!(head.contains(concat!("user-agent: echogen/", env!("CARGO_PKG_VERSION"))), "{head}");
    assert!(head.contains("accept-encoding: identity"), "{head}");
    for private in ["cookie", "authorization", "referer"] {
        assert!(!head.contains(private), "{head}");
    }
}

#[tokio::test]
async fn a_contact_is_sent_where_one_is_set() {
    let site = site().await;
    let user_agent = "echogen/1 (+https://example.org/bots; bots@example.org)";
    let config = HttpConfig { user_agent: user_agent.to_owned(), ..config() };
    // Also after a redirect.
    for path in ["/head", "/to//head"] {
        let head = String::from_utf8(fetch_with(config.clone(), &site.url(path)).await.unwrap()).unwrap();
        assert!(
            head.lines().any(|line| line.to_lowercase() == format!("user-agent: {user_agent}").to_lowercase()),
            "{head}"
        );
    }
}

#[tokio::test]
async fn bytes_are_bounded_whatever_is_announced() {
    let site = site().await;
    check_refused(fetch(&site.url("/large")).await, "has 1001 bytes; the limit is 1000");
    check_refused(fetch(&site.url("/huge")).await, "has 99999999999999 bytes");
    check_refused(fetch(&site.url("/endless")).await, "has more than 1000 bytes; the limit is 1000");
}

#[tokio::test]
async fn time_is_bounded() {
    let site = site().await;
    let quick = || HttpConfig { timeout_seconds: 0.3, ..config() };
    let started = Instant::now();
    check_transient(fetch_with(quick(), &site.url("/slow")).await, "did not send the picture in 0.3 seconds");
    check_transient(fetch_with(quick(), &site.url("/silent")).await, "did not send the picture in 0.3 seconds");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// A fetcher with so many units of memory.
fn fetcher_with_memory(config: HttpConfig, units: u64) -> HttpImageFetcher {
    HttpImageFetcher { memory: PictureMemory::new(units * UNIT), ..HttpImageFetcher::new(config).unwrap() }
}

#[tokio::test]
async fn a_picture_without_memory_waits_until_another_is_gone() {
    let site = site().await;
    let fetcher = fetcher_with_memory(config(), 1);
    let url = Url::parse(&site.url("/dog.png")).unwrap();
    let first = fetcher.fetch_url(&url, LIMIT).await.unwrap();
    let clone = fetcher.clone();
    let mut second = pin!(clone.fetch_url(&url, LIMIT));
    assert!(tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await.is_err(), "there is no memory");
    let large = fetcher.fetch_url(&Url::parse(&site.url("/large")).unwrap(), LIMIT).await;
    check_refused(large.map(|bytes| bytes.to_vec()), "has 1001 bytes");
    drop(first);
    assert_eq!(second.await.unwrap(), "12345");
}

#[tokio::test]
async fn waiting_for_memory_takes_no_longer_than_the_limit() {
    let site = site().await;
    let fetcher = fetcher_with_memory(HttpConfig { timeout_seconds: 2.0, ..config() }, 1);
    let url = Url::parse(&site.url("/dog.png")).unwrap();
    let first = fetcher.fetch_url(&url, LIMIT).await.unwrap();
    let second = fetcher.fetch_url(&url, LIMIT).await;
    check_transient(second.map(|bytes| bytes.to_vec()), "in 2 seconds");
    drop(first);
    assert_eq!(fetcher.fetch_url(&url, LIMIT).await.unwrap(), "12345");
}

#[tokio::test]
async fn servers_that_send_slowly_take_no_memory_from_others() {
    let site = site().await;
    let fetcher = fetcher_with_memory(config(), 5);
    let mut slow = FuturesUnordered::new();
    for path in ["/slow", "/slow", "/slow", "/slow-announced"] {
        let (fetcher, url) = (fetcher.clone(), Url::parse(&site.url(path)).unwrap());
        slow.push(async move { fetcher.fetch_url(&url, 5 * UNIT).await });
    }
    assert!(tokio::time::timeout(Duration::from_millis(300), slow.next()).await.is_err(), "they never end");
    let url = Url::parse(&site.url("/chunked")).unwrap();
    let mut slow = pin!(slow.next());
    tokio::select! {
        fetched = fetcher.fetch_url(&url, 5 * UNIT) => assert_eq!(fetched.unwrap(), "12345"),
        ended = slow.as_mut() => panic!("{ended:?}"),
    }
}

#[tokio::test]
async fn broken_answers_are_told_apart() {
    let site = site().await;
    check_transient(fetch(&site.url("/short")).await, "broke off");
    check_transient(fetch(&site.url("/nonsense")).await, "gave no answer");
    check_refused(fetch(&site.url("/zipped")).await, "is sent compressed");
    check_refused(fetch(&site.url("/status/404")).await, "there is no picture");
    check_refused(fetch(&site.url("/status/403")).await, "readable by everybody");
    check_refused(fetch(&site.url("/status/403")).await, "fetch.user_agent");
    check_refused(fetch(&site.url("/status/204")).await, "answered 204");
    check_transient(fetch(&site.url("/status/503")).await, "answered 503");
    let busy = fetch(&site.url("/busy")).await.unwrap_err();
    assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
    let busy = fetch(&site.url("/busy-all-day")).await.unwrap_err();
    assert_eq!(busy.retry_after(), Some(Duration::from_secs(600)), "nobody may ask for a day");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    check_transient(fetch(&format!("http://127.0.0.1:{port}/")).await, "cannot be reached");
}

#[tokio::test]
async fn redirects_are_bounded_and_may_be_forbidden() {
    let site = site().await;
    check_refused(fetch(&site.url("/loop")).await, "redirects more than 5 times");
    assert_eq!(site.visitors(), 6);
    check_refused(fetch(&site.url("/nowhere")).await, "redirects to nowhere");
    check_refused(fetch(&site.url("/to/file:///etc/passwd")).await, "it is no https:// address");
    check_refused(fetch(&site.url("/to/http://me:secret@127.0.0.1/")).await, "take it out");
    let strict = HttpConfig { max_redirects: 0, ..config() };
    check_refused(fetch_with(strict, &site.url("/to//dog.png")).await, "redirects more than 0 times");
}

#[tokio::test]
async fn a_redirect_does_not_lead_where_a_first_address_may_not() {
    let (site, hidden) = (site().await, site_at(Ipv4Addr::new(127, 0, 0, 2), None).await);
    let reaching = HttpConfig { allowed_networks: vec!["127.0.0.2".parse().unwrap()], ..config() };
    assert!(fetch_with(reaching, &hidden.url("/dog.png")).await.is_ok(), "the hidden one is alive");
    let seen = hidden.visitors();
    let to = |target: &str| site.url(&format!("/to/{target}"));
    check_refused(fetch(&to(&hidden.url("/dog.png"))).await, "the address belongs to this machine");
    let mapped = format!("http://[::ffff:127.0.0.2]:{}/dog.png", hidden.address.port());
    check_refused(fetch(&to(&mapped)).await, "no public network");
    for target in ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/"] {
        check_refused(fetch(&to(target)).await, "the address belongs to");
    }
    assert_eq!(hidden.visitors(), seen, "nobody asked it");
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_refused_after_it_is_resolved() {
    let site = site().await;
    let port = site.address.port();
    let none = HttpConfig { allowed_networks: Vec::new(), ..config() };
    for host in ["localhost", "LOCALHOST"] {
        let refused = fetch_with(none.clone(), &format!("http://{host}:{port}/dog.png")).await;
        check_refused(refused, "belongs to");
    }
    assert_eq!(site.visitors(), 0);
    assert_eq!(fetch(&format!("http://localhost:{port}/dog.png")).await.unwrap(), b"12345", "if allowed it is reached");
}

#[tokio::test]
async fn no_way_of_writing_an_address_gets_around() {
    let site = site().await;
    let port = site.address.port();
    let none = HttpConfig { allowed_networks: Vec::new(), ..config() };
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0177.0.0.1",
        "2130706433",
        "0",
        "127.0.0.1.",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "%31%32%37.0.0.1",
    ] {
        check_refused(
            fetch_with(none.clone(), &format!("http://{host}:{port}/dog.png")).await,
            "the address belongs to",
        );
    }
    let whole = HttpConfig { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..config() };
    check_refused(fetch_with(whole, &format!("http://[::ffff:127.0.0.1]:{port}/")).await, "no public network");
    assert_eq!(site.visitors(), 0);
}

#[tokio::test]
async fn only_hosts_on_the_list_are_asked() {
    let site = site().await;
    let listed = |host: &str| HttpConfig { allowed_hosts: vec![host.to_owned()], ..config() };
    check_refused(fetch_with(listed("example.org"), &site.url("/dog.png")).await, "not on the list of allowed ones");
    assert_eq!(site.visitors(), 0);
    assert!(fetch_with(listed("127.0.0.1"), &site.url("/dog.png")).await.is_ok());
    let elsewhere = site.url("/to/http://example.com/dog.png");
    check_refused(fetch_with(listed("127.0.0.1"), &elsewhere).await, "not on the list of allowed ones");
    let allowed_but_private = HttpConfig { allowed_networks: Vec::new(), ..listed("127.0.0.1") };
    check_refused(fetch_with(allowed_but_private, &site.url("/dog.png")).await, "belongs to this machine");
}

#[tokio::test]
async fn an_unencrypted_address_needs_to_be_allowed() {
    let site = site().await;
    let strict = HttpConfig { allow_http: false, ..config() };
    check_refused(fetch_with(strict, &site.url("/dog.png")).await, "use https://");
    assert_eq!(site.visitors(), 0);
}

/// An encrypted server and its certificate.
async fn encrypted_site() -> (Site, String) {
    let (acceptor, certificate) = test_tls::localhost();
    (site_at(Ipv4Addr::LOCALHOST, Some(acceptor)).await, certificate)
}

#[tokio::test]
async fn encrypted_pictures_need_a_certificate_that_is_trusted_and_fits() {
    let (site, certificates) = encrypted_site().await;
    let plain = self::site().await;
    let port = site.address.port();
    let trusting = HttpConfig { certificates: Some(certificates), allow_http: false, ..config() };
    let fetcher = HttpImageFetcher::new(trusting.clone()).unwrap();
    let source = format!("https://localhost:{port}/dog.png");
    assert_eq!(fetcher.fetch(&source.as_str().into(), LIMIT).await.unwrap(), "12345");
    check_refused(fetch(&source).await, "has no valid certificate");
    let other_name = format!("https://127.0.0.1:{port}/dog.png");
    check_refused(fetch_with(trusting.clone(), &other_name).await, "has no valid certificate");
    let downgrade = format!("https://localhost:{port}/to/{}", plain.url("/dog.png"));
    check_refused(fetch_with(trusting, &downgrade).await, "use https://");
    assert_eq!(plain.visitors(), 0);
}

#[tokio::test]
async fn other_kinds_of_sources_are_not_for_this_fetcher() {
    let fetcher = HttpImageFetcher::new(config()).unwrap();
    for source in ["dog.png", "data:,x", "s3://bucket/dog.png", "http://example.org/", ""] {
        assert!(fetcher.fetch(&source.into(), LIMIT).await.unwrap_err().is_permanent(), "{source}");
    }
}

#[test]
fn bad_certificates_are_an_error_at_the_start() {
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = HttpImageFetcher::new(HttpConfig { certificates: Some(broken.into()), ..config() }).unwrap_err();
    assert!(error.is_permanent(), "{error}");
}
