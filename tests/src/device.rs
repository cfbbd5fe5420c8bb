//! A simulated device: networks that take a known time for each picture, on the sampler's own inference thread. So the
//! capacity of a sampler is known, and its batches are formed as for real networks.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
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
    let thread = BatchThread::start("simulated-device", config, Device { picture })?;
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

/// The device: it makes one picture after the other, and reports the scales of a batch at even intervals.
struct Device {
    picture: Duration,
}

impl BatchNetworks for Device {
    type Subject = ();

    fn prepare(&mut self, _: &SampleRequest) -> Result<(), SampleError> {
        Ok(())
    }

    fn sample(
        &mut self,
        parts: &[Part<'_, ()>],
        schedule: &Schedule,
        observe: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<RgbImage>, SampleError> {
        let pictures: usize = parts.iter().map(|part| part.seeds.len()).sum();
        let (begun, scales) = (Instant::now(), schedule.scales().len());
        let scale = self.picture.mul_f64(pictures as f64 / scales as f64);
        for done in 1..=scales {
            if observe().is_break() {
                return Err(SampleError::Failed("nobody waits for these pictures".into()));
            }
            // Until a time and not for one: late wake-ups do not add up.
            let until = begun + scale.mul_f64(done as f64);
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
        }
        let picture = |part: &Part<'_, ()>| {
            let Parameters { width, height, .. } = part.request.parameters;
            RgbImage::from_pixel(width, height, [200, 120, 40].into())
        };
        Ok(parts.iter().flat_map(|part| part.seeds.iter().map(move |_| picture(part))).collect())
    }
}
