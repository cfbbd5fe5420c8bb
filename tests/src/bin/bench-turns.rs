//! Measures how long a small interactive job waits amid large ones: `cargo run --release -p echogen-tests --bin bench-turns`.
//!
//! The mini bundle's networks sample batches of 1M pixels, the published schedule of 13 scales, one after the other. At even
//! distances over such a batch, an interactive job of one picture of 0.06M pixels arrives. It is measured twice: with batches
//! that are stepped scale by scale, as the sampler does, and with networks that do all work of a batch in its first step, so
//! that whoever comes waits for the end of the batch. Latencies are given in seconds, and as multiples of the longest scale of
//! a large batch (the median of the batches).
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use echogen_checkpoint::bundle::Bundle;
use echogen_imaging::RgbImage;
use echogen_models::{
    DType, Device, Tensor,
    echogen::{Sampling, SamplingOptions, Schedule, Schedules},
    encoded_subject::EncodedSubject,
    generator::{Generator, ImageRequest},
};
use echogen_protocol::Lane;
use echogen_sampler::{BatchNetworks, BatchThread, ImageSampler, Part, SampleError, SampleRequest, SamplerConfig};
use echogen_tests::{constant::Constant, producer};
use tokio::{sync::mpsc, time::sleep};

const HEADER: &str = "| batches | alone, s | p50, s | largest, s | p50, in longest scales | largest | longest scale, s | \
                      large batch, s |";

#[derive(Parser)]
struct Settings {
    /// Pictures of each large batch.
    #[arg(long, default_value_t = 1)]
    pictures: usize,
    /// Interactive jobs, each amid a large batch of its own.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let networks = Networks::load()?;
    println!("{} x 1M pixels, {} interactive jobs of 0.06M", settings.pictures, settings.jobs);
    println!("{HEADER}");
    println!("|---|---|---|---|---|---|---|---|");
    for (name, is_stepped) in [("run to their end", false), ("stepped", true)] {
        let scales: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let device = MiniDevice { networks: networks.clone(), is_stepped, scales: Arc::clone(&scales) };
        let config = SamplerConfig { max_wait_seconds: 0.0, ..SamplerConfig::default() };
        let caller = Caller { thread: BatchThread::start("mini-device", &config, device)?, networks: networks.clone() };
        println!("| {name} {}", measure(&caller, &settings, &scales).await?);
    }
    Ok(())
}

/// Measures all jobs on one thread; returns the rest of a line of the table.
async fn measure(caller: &Caller, settings: &Settings, scales: &Mutex<Vec<Duration>>) -> anyhow::Result<String> {
    let large = || caller.sample("1M", settings.pictures, Lane::Bulk);
    let small = || caller.sample("0.06M", 1, Lane::Interactive);
    // The first of each computes conditions that the others find in the cache.
    large().await?;
    small().await?;
    let (batch, alone) = (large().await?, small().await?);
    let (mut latencies, mut batches) = (Vec::new(), Vec::new());
    let mut longest = Vec::new();
    for job in 0..settings.jobs {
        take(scales);
        let arrival = async {
            sleep(batch.mul_f64((f64::from(job) + 0.5) / f64::from(settings.jobs))).await;
            small().await
        };
        let (batch, latency) = tokio::join!(large(), arrival);
        batches.push(batch?);
        latencies.push(latency?);
        longest.push(take(scales).into_iter().max().unwrap_or_default());
    }
    let largest = latencies.iter().max().copied().unwrap_or_default().as_secs_f64();
    let (alone, p50, batch, scale) = (alone.as_secs_f64(), median(latencies), median(batches), median(longest));
    let (p50_scales, largest_scales) = (p50 / scale, largest / scale);
    Ok(format!(
        "| {alone:.2} | {p50:.2} | {largest:.2} | {p50_scales:.2} | {largest_scales:.2} | {scale:.2} | {batch:.2} |"
    ))
}

fn take(scales: &Mutex<Vec<Duration>>) -> Vec<Duration> {
    std::mem::take(&mut scales.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The upper median, in seconds.
fn median(mut durations: Vec<Duration>) -> f64 {
    durations.sort();
    durations.get(durations.len() / 2).copied().unwrap_or_default().as_secs_f64()
}

/// The networks and a subject.
#[derive(Clone)]
struct Networks {
    generator: Arc<Generator>,
    subject: Arc<EncodedSubject>,
}

impl Networks {
    fn load() -> anyhow::Result<Self> {
        let bundle = Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles/mini"))?;
        let generator = Generator::load(&bundle, &Device::Cpu, DType::F32, 1 << 26)?;
        let subject = EncodedSubject::blank(generator.sampler().model().config(), 64).context("an empty subject")?;
        Ok(Self { generator: Arc::new(generator), subject: Arc::new(subject) })
    }
}

/// Asks the thread.
struct Caller {
    thread: BatchThread,
    networks: Networks,
}

impl Caller {
    /// Samples pictures; returns how long it took.
    async fn sample(&self, budget: &str, pictures: usize, lane: Lane) -> anyhow::Result<Duration> {
        let schedule = Schedules::published().nearest(1.0, budget)?;
        let options = SamplingOptions::default();
        let kv_bytes = self.networks.generator.kv_cache_bytes(&schedule, &options) as u64;
        let ((progress, _steps), (made, _images)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let request = SampleRequest {
            // Of any job: the device uses its own.
            parameters: Constant::taking(Duration::ZERO).plan(&producer::job("any", 0, "a square on a beach"))?,
            seeds: (0..pictures as u64).collect(),
            subject_key: "subjects/blank".into(),
            subject: Vec::new().into(),
            lane,
            alone: false,
            progress,
            made,
            previews: None,
        };
        let began = Instant::now();
        self.thread.ask(request, schedule, kv_bytes, usize::MAX).await?;
        Ok(began.elapsed())
    }
}

/// The sampler's networks; `is_stepped` says whether they do a scale at a time.
struct MiniDevice {
    networks: Networks,
    is_stepped: bool,
    /// How long each scale took.
    scales: Arc<Mutex<Vec<Duration>>>,
}

/// A batch; one that was run to its end has all its pictures.
struct MiniBatch {
    sampling: Sampling,
    scales: usize,
    images: Vec<RgbImage>,
}

/// What is left to be done for a picture.
enum MiniCodes {
    Sum(Tensor),
    Decoded(RgbImage),
}

impl MiniDevice {
    fn scale(&self, sampling: &mut Sampling) -> Result<(), SampleError> {
        let began = Instant::now();
        sampling.step().map_err(|error| SampleError::Failed(error.into()))?;
        self.scales.lock().unwrap_or_else(PoisonError::into_inner).push(began.elapsed());
        Ok(())
    }

    fn sums(sampling: &Sampling) -> Result<Vec<Tensor>, SampleError> {
        sampling.summed().map_err(|error| SampleError::Failed(error.into()))
    }
}

impl BatchNetworks for MiniDevice {
    type Subject = ();
    type Sampling = MiniBatch;
    type Codes = MiniCodes;

    fn prepare(&mut self, _: &SampleRequest) -> Result<(), SampleError> {
        Ok(())
    }

    fn start(&mut self, parts: &[Part<'_, ()>], schedule: &Schedule) -> Result<MiniBatch, SampleError> {
        let request = |seed: &u64| ImageRequest {
            prompt: "a square on a beach".into(),
            negative_prompt: None,
            subject: Arc::clone(&self.networks.subject),
            seed: *seed,
            options: SamplingOptions::default(),
        };
        let requests: Vec<_> = parts.iter().flat_map(|part| part.seeds.iter().map(request)).collect();
        let sampling = self.networks.generator.start(&requests, schedule)?;
        Ok(MiniBatch { sampling, scales: schedule.scales().len(), images: Vec::new() })
    }

    fn step(&mut self, batch: &mut MiniBatch) -> Result<(), SampleError> {
        if self.is_stepped {
            return self.scale(&mut batch.sampling);
        }
        if batch.images.is_empty() {
            (0..batch.scales).try_for_each(|_| self.scale(&mut batch.sampling))?;
            for codes in Self::sums(&batch.sampling)? {
                batch.images.push(self.networks.generator.decode(&codes)?);
            }
        }
        Ok(())
    }

    fn remove(&mut self, batch: &mut MiniBatch, pictures: Range<usize>) {
        batch.sampling.remove(pictures.clone());
        if !batch.images.is_empty() {
            batch.images.drain(pictures);
        }
    }

    fn finish(&mut self, batch: &MiniBatch) -> Result<Vec<MiniCodes>, SampleError> {
        if self.is_stepped {
            return Ok(Self::sums(&batch.sampling)?.into_iter().map(MiniCodes::Sum).collect());
        }
        Ok(batch.images.iter().cloned().map(MiniCodes::Decoded).collect())
    }

    fn decode(&mut self, codes: &MiniCodes) -> Result<RgbImage, SampleError> {
        match codes {
            MiniCodes::Sum(codes) => Ok(self.networks.generator.decode(codes)?),
            MiniCodes::Decoded(image) => Ok(image.clone()),
        }
    }
}
