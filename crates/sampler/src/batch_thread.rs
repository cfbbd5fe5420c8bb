//! The thread that owns the networks and samples batches of requests.
//!
//! Whenever the networks are free, the thread takes the requests that have arrived and samples side by side what its
//! [`BatchScheduler`](crate::batch_scheduler::BatchScheduler) allows. A request whose caller no longer waits is
//! dropped, before a batch or within it, without effect on the others. A batch that fails says nothing about its
//! requests: each is run again by itself, and only the one at fault fails.

mod batches;
mod pending;

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use echogen_imaging::RgbImage;
use echogen_models::{device_fault::is_device_fault, echogen::Schedule};
use echogen_worker::InferenceThread;

use self::{batches::Batches, pending::BatchRequest};
use crate::{BatchCounters, SampleError, SampleRequest, Sampled, SamplerConfig, batch_scheduler::Limits};

/// Requests that may wait to be taken by the thread: far more than a worker has tasks, for a batch can only be filled
/// with what has arrived. What they need until then is small; their subjects are bounded by the worker's concurrency.
const WAITING: usize = 65_536;

/// What samples, on a thread of its own.
pub(crate) trait BatchNetworks: Send + 'static {
    /// What a request needs on the thread besides itself.
    type Subject;

    /// Makes a request ready; what fails here is the request's own fault.
    fn prepare(&mut self, request: &SampleRequest) -> Result<Self::Subject, SampleError>;

    /// Samples one picture for each seed of each part, in their order. `observe` is called before each scale, and may stop
    /// it all.
    fn sample(
        &mut self,
        parts: &[Part<'_, Self::Subject>],
        schedule: &Schedule,
        observe: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<RgbImage>, SampleError>;
}

/// A request's share of a batch.
pub(crate) struct Part<'a, T> {
    pub(crate) request: &'a SampleRequest,
    pub(crate) subject: &'a T,
    pub(crate) seeds: Vec<u64>,
}

/// The thread, and how it is asked; it ends when this is dropped and nothing waits any more.
#[derive(Debug)]
pub(crate) struct BatchThread {
    thread: InferenceThread<BatchRequest, Sampled, SampleError>,
    counters: Arc<BatchCounters>,
}

impl BatchThread {
    /// Starts a thread called `name`. Fails if the system has none to give.
    pub(crate) fn start(name: &str, config: &SamplerConfig, networks: impl BatchNetworks) -> std::io::Result<Self> {
        let limits = Limits {
            max_images: config.max_batch.max(1),
            max_kv_bytes: config.max_kv_bytes,
            max_wait: config.max_wait(),
        };
        let counters = Arc::<BatchCounters>::default();
        let batches = Batches::new(name, limits, networks, Arc::clone(&counters));
        let body = move |requests| batches.run(&requests);
        Ok(Self { thread: InferenceThread::start_loop(name, WAITING, is_device_fault, body)?, counters })
    }

    /// Samples the pictures of one request. `kv_bytes` is what each needs, `max_images` how many of its shape may be
    /// sampled side by side. Dropping the future withdraws the request.
    pub(crate) async fn ask(
        &self,
        request: SampleRequest,
        schedule: Schedule,
        kv_bytes: u64,
        max_images: usize,
    ) -> Result<Sampled, SampleError> {
        let deadline = request.deadline;
        let asked = BatchRequest { request, schedule, kv_bytes, max_images, arrived: Instant::now() };
        self.thread.ask(asked, deadline).await
    }

    /// What was run so far.
    pub(crate) fn counters(&self) -> &BatchCounters {
        &self.counters
    }
}

#[cfg(test)]
mod tests;
