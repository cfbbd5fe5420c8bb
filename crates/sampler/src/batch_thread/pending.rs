//! A request whose pictures are being made, and its caller.

use std::{collections::VecDeque, time::Instant};

use echogen_imaging::RgbImage;
use echogen_models::echogen::Schedule;
use echogen_worker::RequestHandle;

use crate::{SampleError, SampleRequest, Sampled, ScaleDone, Step};

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

/// A request that the thread has received.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) asked: BatchRequest,
    /// Indices of the seeds whose pictures are not started yet.
    pub(super) missing: VecDeque<usize>,
    /// How many of its pictures are made.
    made: usize,
    pub(super) begun: Option<Instant>,
    pub(super) watcher: Watcher,
}

/// The caller of a request, and the progress reported to it.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) handle: RequestHandle<Sampled, SampleError>,
    /// Number of scales reported so far, over all its pictures.
    done: usize,
    total: usize,
}

impl Watcher {
    /// Reports that another scale of `images` pictures begins.
    pub(super) fn report_scale(&mut self, request: &SampleRequest, images: usize) {
        request.report(Step::Scale(ScaleDone { done: self.done, total: self.total }));
        self.done = (self.done + images).min(self.total);
    }
}

impl Pending {
    /// Creates a pending request that has just arrived.
    pub(super) fn new(asked: BatchRequest, handle: RequestHandle<Sampled, SampleError>) -> Self {
        let images = asked.request.seeds.len();
        let total = asked.schedule.scales().len() * images;
        Self {
            asked,
            missing: (0..images).collect(),
            made: 0,
            begun: None,
            watcher: Watcher { handle, done: 0, total },
        }
    }

    /// Returns whether the caller no longer waits: the request was cancelled, or its deadline has passed.
    pub(super) fn is_abandoned(&self) -> bool {
        self.watcher.handle.is_abandoned()
    }

    /// Sends a picture to the caller.
    pub(super) fn deliver(&mut self, index: usize, image: RgbImage) {
        self.made += 1;
        self.asked.request.send(index, image);
    }

    /// Whether all pictures are made.
    pub(super) fn is_complete(&self) -> bool {
        self.made == self.asked.request.seeds.len()
    }

    /// Tells the caller that all pictures are made.
    pub(super) fn finish(self) {
        let arrived = self.asked.arrived;
        let begun = self.begun.unwrap_or(arrived);
        let timings = [
            ("waited".to_owned(), begun.saturating_duration_since(arrived).as_secs_f64()),
            ("networks".to_owned(), begun.elapsed().as_secs_f64()),
        ];
        self.answer(Ok(Sampled { timings: timings.into() }));
    }

    pub(super) fn answer(self, answer: Result<Sampled, SampleError>) {
        self.watcher.handle.answer(answer);
    }
}
