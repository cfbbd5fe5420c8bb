//! The inference thread: owns the networks and samples batches of requests, a step at a time.
//!
//! Before each step, one scale of a batch or the decoding of one picture, the thread takes the requests that have arrived and
//! asks its [`StepScheduler`](crate::step_scheduler::StepScheduler) which batch is stepped, or which new one begins. So an
//! interactive request waits for a step of a large batch, not for its end. A request whose caller no longer waits is dropped
//! between two steps, without effect on the others, and its memory is free at once. A failed batch does not show which request
//! caused the failure: each request is run again by itself, and only the one that caused it fails.

mod batches;
mod pending;
mod previews;
mod running;

use std::{ops::Range, sync::Arc, time::Instant};

use echogen_imaging::RgbImage;
use echogen_models::{device_fault::is_device_fault, echogen::Schedule};
use echogen_worker::{FOREVER, InferenceThread};

use self::{batches::Batches, pending::BatchRequest};
use crate::{BatchCounters, SampleError, SampleRequest, Sampled, SamplerConfig, batch_scheduler::Limits};

/// Capacity of the channel to the thread: far more than the tasks that a worker runs, because only requests that have
/// arrived can fill a batch. A waiting request is small; its subject's bytes are bounded by the worker's concurrency.
const WAITING: usize = 65_536;

/// The networks, which run on a thread of their own. They keep nothing of a batch but what is in its
/// [`Sampling`](Self::Sampling), so several batches may be alive and be stepped in any order.
pub trait BatchNetworks: Send + 'static {
    /// The decoded data that a request needs on the thread.
    type Subject;

    /// The state of a batch between two scales, from which also the code sums so far can be read.
    type Sampling;

    /// All that is needed to decode one picture.
    type Codes;

    /// Prepares a request. An error here is caused by the request itself.
    fn prepare(&mut self, request: &SampleRequest) -> Result<Self::Subject, SampleError>;

    /// Starts a batch with one picture for each seed of each part, in their order.
    fn start(&mut self, parts: &[Part<'_, Self::Subject>], schedule: &Schedule) -> Result<Self::Sampling, SampleError>;

    /// Samples the next scale of all pictures. Called once for each scale of the schedule.
    fn step(&mut self, sampling: &mut Self::Sampling) -> Result<(), SampleError>;

    /// Removes pictures from a batch and frees their memory. The others keep their order.
    fn remove(&mut self, sampling: &mut Self::Sampling, pictures: Range<usize>);

    /// Returns what is needed to decode each picture as it is after the scales so far.
    fn finish(&mut self, sampling: &Self::Sampling) -> Result<Vec<Self::Codes>, SampleError>;

    /// Decodes one picture.
    fn decode(&mut self, codes: &Self::Codes) -> Result<RgbImage, SampleError>;

    /// Decodes a picture on its way. It needs no more than `max_side` pixels on a side; the default decodes it whole.
    fn preview(&mut self, codes: &Self::Codes, max_side: u32) -> Result<RgbImage, SampleError> {
        let _ = max_side;
        self.decode(codes)
    }
}

/// A request's share of a batch.
pub struct Part<'a, T> {
    /// The request.
    pub request: &'a SampleRequest,
    /// What the networks have prepared for it.
    pub subject: &'a T,
    /// The seeds of the pictures that this batch makes.
    pub seeds: Vec<u64>,
}

/// A handle to the thread. When it is dropped, the thread finishes the waiting requests and ends.
#[derive(Debug)]
pub struct BatchThread {
    thread: InferenceThread<BatchRequest, Sampled, SampleError>,
    counters: Arc<BatchCounters>,
}

impl BatchThread {
    /// Starts a thread called `name`. Fails if the operating system cannot create one.
    pub fn start(name: &str, config: &SamplerConfig, networks: impl BatchNetworks) -> std::io::Result<Self> {
        let limits = Limits {
            max_images: config.max_batch.max(1),
            max_kv_bytes: config.kv_bytes(),
            max_wait: config.max_wait(),
        };
        let counters = Arc::<BatchCounters>::default();
        let (thread, noted) = (name.to_owned(), Arc::clone(&counters));
        let body = move |requests| Batches::new(thread, limits, networks, noted).run(&requests);
        Ok(Self { thread: InferenceThread::start_loop(name, WAITING, is_device_fault, body)?, counters })
    }

    /// Samples the pictures of one request. `kv_bytes` is the size of each picture's key-value caches, `max_images`
    /// the maximum number of pictures of this shape in one batch. Dropping the future cancels the request.
    pub async fn ask(
        &self,
        request: SampleRequest,
        schedule: Schedule,
        kv_bytes: u64,
        max_images: usize,
    ) -> Result<Sampled, SampleError> {
        // How long it may wait, and how long the networks may take, is for the caller to say, by dropping the future.
        let deadline = tokio::time::Instant::now() + FOREVER;
        let asked = BatchRequest { request, schedule, kv_bytes, max_images, arrived: Instant::now() };
        self.thread.ask(asked, deadline).await
    }

    /// Returns the counters of the batches run so far.
    pub fn counters(&self) -> &BatchCounters {
        &self.counters
    }
}

#[cfg(test)]
mod tests;
