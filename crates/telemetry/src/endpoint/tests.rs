//! The endpoint over real connections.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::Consuming;

struct Bench {
    address: SocketAddr,
    health: &'static Health,
    metrics: &'static Metrics,
    end: CancellationToken,
    tracker: TaskTracker,
}

impl Bench {
    async fn new() -> Self {
        // They live as long as a process, so one for each test is kept for ever.
        let health: &'static Health = Box::leak(Box::default());
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new()));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = Endpoint::showing(address, metrics, health, LogControl::for_test("info")).await.unwrap();
        let (end, tracker) = (CancellationToken::new(), TaskTracker::new());
        let address = endpoint.address().unwrap();
        tracker.spawn(endpoint.serve(end.clone()));
        Self { address, health, metrics, end, tracker }
    }

    /// Sends bytes, and reads all that comes back until the other side closes.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // One that is refused early may not take all of it.
        stream.write_all(bytes).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).unwrap()
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = self.send(request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

#[tokio::test]
async fn probes_follow_the_health() {
    let bench = Bench::new().await;
    bench.health.starting("sampler");
    assert_eq!(bench.ask("GET", "/livez", "").await, (200, "ok\n".to_owned()));
    assert_eq!(bench.ask("GET", "/readyz", "").await, (503, "the sampler is loading\n".to_owned()));
    bench.health.loaded("sampler", || Consuming { now: true, since: Duration::ZERO });
    assert_eq!(bench.ask("GET", "/readyz", "").await.0, 200);
    assert!(bench.ask("GET", "/metrics", "").await.1.contains("echogen_ready{stage=\"sampler\"} 1"));
    bench.health.device_fault("gone");
    assert_eq!(bench.ask("GET", "/readyz", "").await.0, 503);
    bench.end.cancel();
    bench.tracker.close();
    bench.tracker.wait().await;
    assert!(TcpStream::connect(bench.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn metrics_are_shown_as_prometheus_reads_them() {
    let bench = Bench::new().await;
    bench.metrics.expect_stage(echogen_protocol::StageName::Encoder, 4);
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = bench.send(request).await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("# TYPE echogen_task_seconds histogram"), "{answer}");
    assert!(answer.contains("echogen_tasks_total{outcome=\"retried\",stage=\"encoder\"} 0"), "{answer}");
}

#[tokio::test]
async fn the_log_filter_is_changed_and_nonsense_is_refused() {
    let bench = Bench::new().await;
    assert_eq!(bench.ask("GET", "/log", "").await, (200, "info\n".to_owned()));
    assert_eq!(bench.ask("PUT", "/log", "warn,echogen_worker=debug\n").await.0, 200);
    assert_eq!(bench.ask("GET", "/log", "").await.1, "warn,echogen_worker=debug\n");
    let (status, why) = bench.ask("PUT", "/log", "a=b=c").await;
    assert!(status == 400 && why.contains("write it like info"), "{status} {why}");
    assert_eq!(bench.ask("PUT", "/log", &"x".repeat(MAX_BODY_BYTES + 1)).await.0, 413);
    assert_eq!(bench.ask("GET", "/log", "").await.1, "warn,echogen_worker=debug\n", "it stays as it was");
}

#[test]
fn only_who_is_on_the_same_machine_changes_the_log() {
    for here in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
        assert!(is_here(here.parse().unwrap()), "{here}");
    }
    for elsewhere in ["10.0.0.7", "192.168.1.1", "fe80::1", "::ffff:10.0.0.7", "0.0.0.0"] {
        assert!(!is_here(elsewhere.parse().unwrap()), "{elsewhere}");
    }
}

#[tokio::test]
async fn other_requests_get_a_short_no() {
    let bench = Bench::new().await;
    assert_eq!(bench.ask("GET", "/", "").await.0, 404);
    assert_eq!(bench.ask("GET", "/../etc/passwd", "").await.0, 404);
    assert_eq!(bench.ask("POST", "/metrics", "").await.0, 405);
    assert_eq!(bench.ask("DELETE", "/log", "").await.0, 405);
    assert!(bench.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let long = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(2 * MAX_HEADER_BYTES));
    assert!(bench.send(long.as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert_eq!(bench.ask("GET", "/livez", "").await.0, 200, "and it goes on");
}

#[tokio::test]
async fn idle_connections_do_not_lock_others_out_for_long() {
    let bench = Bench::new().await;
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 4 {
        idle.push(TcpStream::connect(bench.address).await.unwrap());
    }
    // Each is closed when its headers have not come in time.
    let asked = timeout(3 * HEADER_TIME, bench.ask("GET", "/livez", "")).await;
    assert_eq!(asked.expect("it is answered").0, 200);
}
