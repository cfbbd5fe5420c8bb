//! A private S3 within the test's own process.
//!
//! The protocol (signatures, checksums, conditions, errors) is that of `s3s`, the storage that of `s3s-fs`: files in a
//! folder that is removed with the server. Some of the storage's gaps are closed, see [`storage`]; for measuring there
//! is one in memory, see [`memory`]. It runs on threads of its own, so a test's paused clock does not reach it.

mod memory;
mod storage;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::{
    Body, HttpError, S3,
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::{JoinHandle, JoinSet},
};

use memory::MemoryStorage;
use storage::Storage;

const BUCKET: &str = "echogen-test";

/// A private S3 server; it ends when this value is dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    /// Taken out only when the server ends.
    runtime: Option<Runtime>,
    front: Arc<Front>,
    listening: Option<JoinHandle<()>>,
    _folder: Option<TempDir>,
}

/// The first layer of a call: counting and faults.
struct Front {
    service: S3Service,
    calls: Mutex<BTreeMap<String, u64>>,
    number: AtomicU64,
    connections: AtomicU64,
    fail_every: AtomicU64,
    lose_every: AtomicU64,
    refuses_reads: AtomicBool,
}

impl S3Server {
    pub(super) const ACCESS_KEY: &str = "test-access-key";
    pub(super) const SECRET_KEY: &str = "test-secret-key";

    /// Starts a server on a free port, with one empty [bucket](S3Server::bucket).
    pub fn start() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join(BUCKET))?;
        let storage = Storage::open(folder.path())?;
        Self::start_with(storage, Some(folder))
    }

    /// The same with objects in memory, for measuring: it costs as little as the protocol allows.
    pub fn start_in_memory() -> io::Result<Self> {
        Self::start_with(MemoryStorage::with_bucket(BUCKET), None)
    }

    fn start_with(storage: impl S3, folder: Option<TempDir>) -> io::Result<Self> {
        let mut service = S3ServiceBuilder::new(storage);
        service.set_auth(SimpleAuth::from_single(Self::ACCESS_KEY, Self::SECRET_KEY));
        let front = Arc::new(Front::new(service.build()));
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("s3-server").enable_all().build()?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (address, listening) = listen(&runtime, any, &front)?;
        Ok(Self { address, runtime: Some(runtime), front, listening: Some(listening), _folder: folder })
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its port, for a proxy.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The bucket that exists from the start.
    pub fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The one access key that is accepted.
    pub fn access_key(&self) -> &'static str {
        Self::ACCESS_KEY
    }

    /// The secret of the access key.
    pub fn secret_key(&self) -> &'static str {
        Self::SECRET_KEY
    }

    /// Calls so far, also those that failed on purpose.
    pub fn calls(&self) -> u64 {
        self.front.number.load(Ordering::SeqCst)
    }

    /// Calls so far with a method, such as `PUT`.
    pub fn calls_of(&self, method: &str) -> u64 {
        self.front.lock().get(method).copied().unwrap_or(0)
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.front.connections.load(Ordering::SeqCst)
    }

    /// From now on every `n`th call fails with 503 and does nothing; 0 ends it.
    pub fn fail_every(&self, n: u64) {
        self.front.fail_every.store(n, Ordering::SeqCst);
    }

    /// From now on every `n`th call is done and answered with 503 all the same; 0 ends it.
    pub fn lose_answer_every(&self, n: u64) {
        self.front.lose_every.store(n, Ordering::SeqCst);
    }

    /// From now on reading an object is denied, or allowed again.
    pub fn refuse_reads(&self, refuse: bool) {
        self.front.refuses_reads.store(refuse, Ordering::SeqCst);
    }

    /// Stops listening and closes all connections. The objects stay.
    pub fn go_away(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        listening.abort();
        // The port is free once the task is gone; it runs on the server's own threads.
        while !listening.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Listens again on the same port, after [`S3Server::go_away`].
    pub fn come_back(&mut self) -> io::Result<()> {
        self.go_away();
        let Some(runtime) = &self.runtime else { return Ok(()) };
        self.listening = Some(listen(runtime, self.address, &self.front)?.1);
        Ok(())
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Waiting for threads is not allowed within async code, so they are left to end on their own.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn listen(runtime: &Runtime, at: SocketAddr, front: &Arc<Front>) -> io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let _inside = runtime.enter();
    let listener = TcpListener::from_std(listener)?;
    let front = Arc::clone(front);
    Ok((address, runtime.spawn(async move { accept(listener, front).await })))
}

/// Serves until it is aborted; then its connections end with it.
async fn accept(listener: TcpListener, front: Arc<Front>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // Answers are written in one piece; waiting for more to send would only add latency.
        stream.set_nodelay(true).ok();
        front.connections.fetch_add(1, Ordering::SeqCst);
        let front = Arc::clone(&front);
        let service = service_fn(move |request| {
            let front = Arc::clone(&front);
            async move { front.call(request).await }
        });
        connections.spawn(async move {
            let mut connection = http1::Builder::new();
            // A broken connection is detected by the client.
            connection.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await.ok();
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Front {
    fn new(service: S3Service) -> Self {
        let (number, connections, fail_every, lose_every) = Default::default();
        let refuses_reads = AtomicBool::new(false);
        Self { service, calls: Mutex::default(), number, connections, fail_every, lose_every, refuses_reads }
    }

    async fn call(&self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        let number = self.count(request.method());
        if is_nth(number, &self.fail_every) {
            return Ok(busy());
        }
        if request.method() == Method::GET && self.refuses_reads.load(Ordering::SeqCst) {
            return Ok(error(StatusCode::FORBIDDEN, "AccessDenied"));
        }
        let answer = self.service.call(request.map(Body::from)).await;
        if is_nth(number, &self.lose_every) { Ok(busy()) } else { answer }
    }

    fn count(&self, method: &Method) -> u64 {
        *self.lock().entry(method.to_string()).or_default() += 1;
        self.number.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("calls", &*self.lock()).finish_non_exhaustive()
    }
}

fn is_nth(number: u64, every: &AtomicU64) -> bool {
    let every = every.load(Ordering::SeqCst);
    every > 0 && number.is_multiple_of(every)
}

fn busy() -> Response<Body> {
    error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let text = format!("<Error><Code>{code}</Code><Message>failed on purpose</Message></Error>");
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    response
}
