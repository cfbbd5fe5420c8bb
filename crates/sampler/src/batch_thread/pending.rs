//! A request whose pictures are being made, and its caller.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use echogen_models::echogen::Schedule;
use echogen_telemetry::metrics;
use echogen_worker::RequestHandle;

use super::{
    previews::is_preview_scale,
    running::{Picture, StepKind},
};
use crate::{Made, PreviewRequest, SampleError, SampleRequest, Sampled, ScaleDone, Step};

/// A request as the caller sends it to the thread.
#[derive(Debug)]
pub(super) struct BatchRequest {
    pub(super) request: SampleRequest,
    pub(super) schedule: Schedule,
    /// Size of each picture's key-value caches in bytes.
    pub(super) kv_bytes: u64,
    /// Maximum number of pictures of this shape in one batch.
    pub(super) max_images: usize,
    pub(super) arrived: Instant,
}

/// A request that the thread has received and not answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) asked: BatchRequest,
    /// Indices of the seeds whose pictures are not started yet.
    pub(super) missing: VecDeque<usize>,
    /// How many of its pictures are made.
    made: usize,
    /// Number of scales reported so far, over all its pictures.
    scales_done: usize,
    /// Time that the networks have spent on batches with its pictures.
    networks: Duration,
    /// Time that its previews have taken since the last picture was delivered.
    previews: Duration,
    /// Since when nothing of it is computed.
    waits_since: Instant,
    pub(super) handle: RequestHandle<Sampled, SampleError>,
}

impl Pending {
    /// Creates a pending request that has just arrived.
    pub(super) fn new(asked: BatchRequest, handle: RequestHandle<Sampled, SampleError>) -> Self {
        Self {
            missing: (0..asked.request.seeds.len()).collect(),
            made: 0,
            scales_done: 0,
            networks: Duration::ZERO,
            previews: Duration::ZERO,
            waits_since: asked.arrived,
            asked,
            handle,
        }
    }

    /// Returns whether the caller no longer waits: the request was cancelled, or its deadline has passed.
    pub(super) fn is_abandoned(&self) -> bool {
        self.handle.is_abandoned()
    }

    /// Reports that the turn of a batch with `images` of its pictures has come.
    pub(super) fn report_turn(&mut self, step: StepKind, images: usize) {
        metrics().turn_waited(self.asked.request.lane, self.waits_since.elapsed());
        match step {
            StepKind::Scale(_) => {
                let progress = self.progress();
                self.asked.request.report(Step::Scale(progress));
                self.scales_done = (self.scales_done + images).min(progress.total);
            }
            StepKind::Decode => self.asked.request.report(Step::Decode),
        }
    }

    /// How far its pictures are.
    pub(super) fn progress(&self) -> ScaleDone {
        let total = self.asked.schedule.scales().len() * self.asked.request.seeds.len();
        ScaleDone { done: self.scales_done, total }
    }

    /// The previews that are wanted of a picture with so many scales.
    pub(super) fn previews_at(&self, scale: usize) -> Option<&PreviewRequest> {
        let wanted = self.asked.request.previews.as_ref()?;
        is_preview_scale(scale, wanted.count, self.asked.schedule.scales().len()).then_some(wanted)
    }

    /// Notes how long the networks took for a preview.
    pub(super) fn note_preview(&mut self, took: Duration) {
        self.previews += took;
        self.note_networks(took);
    }

    /// Notes how long the networks took for a step.
    pub(super) fn note_networks(&mut self, took: Duration) {
        self.networks += took;
        self.waits_since = Instant::now();
    }

    /// Sends a picture to the caller.
    pub(super) fn deliver(&mut self, Picture { index, image, device_time, .. }: Picture) {
        self.made += 1;
        let device_time = device_time + std::mem::take(&mut self.previews);
        self.asked.request.deliver(Made { index, image, device_time });
    }

    /// Whether all pictures are made.
    pub(super) fn is_complete(&self) -> bool {
        self.made == self.asked.request.seeds.len()
    }

    /// Tells the caller that all pictures are made.
    pub(super) fn finish(self) {
        let timings = [
            ("waited".to_owned(), self.asked.arrived.elapsed().saturating_sub(self.networks).as_secs_f64()),
            ("networks".to_owned(), self.networks.as_secs_f64()),
        ];
        self.answer(Ok(Sampled { timings: timings.into() }));
    }

    pub(super) fn answer(self, answer: Result<Sampled, SampleError>) {
        self.handle.answer(answer);
    }
}
