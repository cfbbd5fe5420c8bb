//! A simulated device: networks that take a known time for each picture, on the sampler's own inference thread. So the
//! capacity of a sampler is known, and its batches are formed as for real networks.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use async_trait::async_trait;
use echogen_imaging::RgbImage;
use echogen_models::echogen::{Schedule, Schedules};
use echogen_protocol::{Job, Parameters};
use echogen_sampler::{
    BatchNetworks, BatchThread, ImageSampler, Part, SampleError, SampleRequest, Sampled, SamplerConfig,
};
use echogen_service::LoadedNetworks;

use crate::constant::{self, Constant};

/// Bytes that the key-value caches of a picture are said to take.
const KV_BYTES: u64 = 1 << 20;

/// Returns constant networks whose sampler takes `picture` for each picture.
pub fn networks(picture: Duration, config: &SamplerConfig) -> anyhow::Result<LoadedNetworks> {
    let schedule = Schedules::published().nearest(1.0, "0.06M").context("the schedule of a square")?;
    let thread = BatchThread::start("simulated-device", config, Device { picture, busy_until: Instant::now() })?;
    let sampler = Arc::new(DeviceSampler { constant: Constant::taking(Duration::ZERO), schedule, thread });
    Ok(LoadedNetworks { sampler, ..constant::networks(Duration::ZERO) })
}

/// Asks the device.
#[derive(Debug)]
struct DeviceSampler {
    /// For everything but the time.
    constant: Constant,
    schedule: Schedule,
    thread: BatchThread,
}

#[async_trait]
impl ImageSampler for DeviceSampler {
    fn plan(&self, job: &Job) -> Result<Parameters, SampleError> {
        self.constant.plan(job)
    }

    async fn sample(&self, request: SampleRequest) -> Result<Sampled, SampleError> {
        self.thread.ask(request, self.schedule.clone(), KV_BYTES, usize::MAX).await
    }

    fn models(&self) -> BTreeMap<String, String> {
        ImageSampler::models(&self.constant)
    }
}

/// The device: each scale of a batch takes an even part of what its pictures take.
struct Device {
    picture: Duration,
    /// Until a time and not for one: late wake-ups do not add up.
    busy_until: Instant,
}

/// A batch on the device.
struct DeviceBatch {
    scales: usize,
    /// Width and height of each picture.
    pictures: Vec<(u32, u32)>,
}

impl BatchNetworks for Device {
    type Subject = ();
    type Sampling = DeviceBatch;
    type Codes = (u32, u32);

    fn prepare(&mut self, _: &SampleRequest) -> Result<(), SampleError> {
        Ok(())
    }

    fn start(&mut self, parts: &[Part<'_, ()>], schedule: &Schedule) -> Result<DeviceBatch, SampleError> {
        let size = |part: &Part<'_, ()>| {
            let Parameters { width, height, .. } = part.request.parameters;
            (width, height)
        };
        let pictures = parts.iter().flat_map(|part| part.seeds.iter().map(move |_| size(part)));
        // What is late by more than a scale was idle.
        self.busy_until = self.busy_until.max(Instant::now() - self.picture);
        Ok(DeviceBatch { scales: schedule.scales().len(), pictures: pictures.collect() })
    }

    fn step(&mut self, batch: &mut DeviceBatch) -> Result<(), SampleError> {
        self.busy_until += self.picture.mul_f64(batch.pictures.len() as f64 / batch.scales as f64);
        std::thread::sleep(self.busy_until.saturating_duration_since(Instant::now()));
        Ok(())
    }

    fn remove(&mut self, batch: &mut DeviceBatch, pictures: Range<usize>) {
        batch.pictures.drain(pictures);
    }

    fn finish(&mut self, batch: &DeviceBatch) -> Result<Vec<(u32, u32)>, SampleError> {
        Ok(batch.pictures.clone())
    }

    fn decode(&mut self, (width, height): &(u32, u32)) -> Result<RgbImage, SampleError> {
        Ok(RgbImage::from_pixel(*width, *height, [200, 120, 40].into()))
    }
}
