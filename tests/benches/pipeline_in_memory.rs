//! Measures the overhead of the queue loop and the stages: all four stages on the in-memory ports, with constant
//! outputs in place of the networks. Every job has a different picture, so each goes through all four stages.
//!
//! `cargo bench -p echogen-tests --bench pipeline_in_memory [-- JOBS]`
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use echogen_ports::{Broker, MemoryBroker, MemoryCache, MemoryImageFetcher, MemoryObjectStore, Message};
use echogen_protocol::{EventKind, Job, JobId, RoleName, StageTask};
use echogen_service::{
    Backends, LoadedNetworks,
    config::{RoleConcurrency, ServiceConfig},
    work,
};
use echogen_tests::constant::{self, Constant};
use echogen_worker::Clock;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Maximum number of jobs in flight, as a broker would hold them.
const IN_FLIGHT: usize = 256;

/// Maximum number of concurrent tasks.
const CONCURRENCY: RoleConcurrency =
    RoleConcurrency { dispatcher: 32, notifier: 32, segmenter: 32, encoder: 32, sampler: 32 };

struct Installation {
    broker: Arc<MemoryBroker>,
    fetcher: Arc<MemoryImageFetcher>,
    workers: TaskTracker,
    shutdown: CancellationToken,
}

fn start() -> Installation {
    let (broker, fetcher) = (Arc::new(MemoryBroker::new()), Arc::new(MemoryImageFetcher::new()));
    let (store, results) = (Arc::new(MemoryObjectStore::new()), Arc::new(MemoryObjectStore::new()));
    let cache = Arc::new(MemoryCache::new(1 << 26));
    let (workers, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let backends = Backends::new(broker.clone(), cache, store, results, fetcher.clone(), &TaskTracker::new());
    let small = Arc::new(Constant { subject_bytes: 1_024, side: 8, ..Constant::taking(Duration::ZERO) });
    let networks = LoadedNetworks { encoder: small.clone(), sampler: small, ..constant::networks(Duration::ZERO) };
    let (mut config, end) = (ServiceConfig::default(), shutdown.clone());
    config.worker.concurrency = CONCURRENCY;
    workers.spawn(async move { work(&RoleName::WORKERS, &networks, &backends, &config, &end).await });
    Installation { broker, fetcher, workers, shutdown }
}

/// Returns a unique picture for each number.
fn picture(number: usize) -> Bytes {
    let colour = (number as u32).to_le_bytes();
    let image = RgbImage::from_pixel(8, 8, [colour[0], colour[1], colour[2]].into());
    encode_image(&image, ImageFormat::Png, 100).expect("a small picture can be written").into()
}

/// Sends the jobs, with a bounded number in flight, and returns when the last one has ended.
async fn run(installation: &Installation, jobs: usize) {
    let mut events = installation.broker.subscribe("job").await.expect("the twin takes listeners");
    let (mut sent, mut ended) = (0, 0);
    while ended < jobs {
        while sent < jobs && sent - ended < IN_FLIGHT {
            let image = format!("{sent}.png");
            let job = Job { id: JobId(format!("job-{sent}")), ..Job::new(image.as_str().into(), "a dog on a beach") };
            let message = Message::of_job(&job, Clock::system().now());
            installation.broker.publish(&job.queue(), message).await.expect("the twin takes everything");
            sent += 1;
        }
        let event = events.next().await.expect("the twin lives").to_job().expect("a job's event");
        assert!(event.kind != EventKind::Failed && event.kind != EventKind::Parked, "{event:?}");
        ended += usize::from(event.kind == EventKind::Completed);
    }
}

/// Returns the CPU time that this process has used, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn main() {
    let jobs = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        let installation = start();
        for number in 0..jobs {
            installation.fetcher.insert(format!("{number}.png").as_str(), picture(number));
        }
        let (began, cpu) = (Instant::now(), cpu_seconds());
        run(&installation, jobs).await;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        let thousands = jobs as f64 / 1_000.0;
        println!(
            "{jobs} jobs, 4 hops: {:.0} jobs/s, {:.3} CPU seconds per 1,000 jobs",
            jobs as f64 / seconds,
            cpu / thousands
        );
        installation.shutdown.cancel();
        installation.workers.close();
        tokio::time::timeout(Duration::from_secs(10), installation.workers.wait()).await.expect("the workers end");
    });
}
