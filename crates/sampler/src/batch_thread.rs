//! The inference thread: owns the networks and samples batches of requests.
//!
//! Whenever the networks are free, the thread takes the requests that have arrived and samples in one batch what its
//! [`BatchScheduler`](crate::batch_scheduler::BatchScheduler) allows. A request whose caller no longer waits is
//! dropped, before a batch or during it, without effect on the others. A failed batch does not show which request
//! caused the failure: each request is run again by itself, and only the one that caused it fails.

mod batches;
mod pending;

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use echogen_imaging::RgbImage;
use echogen_models::{device_fault::is_device_fault, echogen::Schedule};
use echogen_worker::{FOREVER, InferenceThread};

use self::{batches::Batches, pending::BatchRequest};
use crate::{BatchCounters, SampleError, SampleRequest, Sampled, SamplerConfig, batch_scheduler::Limits};

/// Capacity of the channel to the thread: far more than the tasks that a worker runs, because only requests that have
/// arrived can fill a batch. A waiting request is small; its subject's bytes are bounded by the worker's concurrency.
const WAITING: usize = 65_536;

/// The networks, which run on a thread of their own.
pub trait BatchNetworks: Send + 'static {
    /// The decoded data that a request needs on the thread.
    type Subject;

    /// Prepares a request. An error here is caused by the request itself.
    fn prepare(&mut self, request: &SampleRequest) -> Result<Self::Subject, SampleError>;

    /// Samples one picture for each seed of each part, in their order. Calls `observe` before each scale; `observe`
    /// may stop the batch.
    fn sample(
        &mut self,
        parts: &[Part<'_, Self::Subject>],
        schedule: &Schedule,
        observe: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<RgbImage>, SampleError>;
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
        let batches = Batches::new(name, limits, networks, Arc::clone(&counters));
        let body = move |requests| batches.run(&requests);
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
