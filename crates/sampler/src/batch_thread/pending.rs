//! A request whose pictures are being made, and its caller.

use std::{collections::VecDeque, time::Instant};

use echogen_imaging::RgbImage;
use echogen_models::echogen::Schedule;
use echogen_worker::RequestHandle;
use tracing::debug;

use crate::{SampleError, SampleRequest, Sampled, ScaleDone};

/// What the thread is asked for.
#[derive(Debug)]
pub(super) struct BatchRequest {
    pub(super) request: SampleRequest,
    pub(super) schedule: Schedule,
    /// Bytes of key-value caches that each picture needs.
    pub(super) kv_bytes: u64,
    /// Pictures of this shape that may be sampled side by side.
    pub(super) max_images: usize,
    pub(super) arrived: Instant,
}

/// A request with the thread.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) asked: BatchRequest,
    /// Indices of seeds whose pictures are still to be begun.
    pub(super) missing: VecDeque<usize>,
    pub(super) images: Vec<Option<RgbImage>>,
    pub(super) begun: Option<Instant>,
    pub(super) watcher: Watcher,
}

/// The caller of a request, and the progress reported to it.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) handle: RequestHandle<Sampled, SampleError>,
    /// Scales reported so far, of all its pictures.
    done: usize,
    total: usize,
}

impl Watcher {
    /// Reports that another scale of `images` pictures begins.
    pub(super) fn report_scale(&mut self, request: &SampleRequest, images: usize) {
        if request.progress.send(ScaleDone { done: self.done, total: self.total }).is_err() {
            debug!("no receiver for the progress of the scales");
        }
        self.done = (self.done + images).min(self.total);
    }
}

impl Pending {
    /// A request that has just come.
    pub(super) fn new(asked: BatchRequest, handle: RequestHandle<Sampled, SampleError>) -> Self {
        let images = asked.request.seeds.len();
        let total = asked.schedule.scales().len() * images;
        Self {
            asked,
            missing: (0..images).collect(),
            images: vec![None; images],
            begun: None,
            watcher: Watcher { handle, done: 0, total },
        }
    }

    /// Whether the caller no longer waits: the request was withdrawn, or its time is over.
    pub(super) fn is_abandoned(&self) -> bool {
        self.watcher.handle.is_abandoned()
    }

    /// Answers with the pictures, all of which are made.
    pub(super) fn finish(mut self) {
        let images = std::mem::take(&mut self.images).into_iter().flatten().collect();
        let arrived = self.asked.arrived;
        let begun = self.begun.unwrap_or(arrived);
        let timings = [
            ("waited".to_owned(), begun.saturating_duration_since(arrived).as_secs_f64()),
            ("networks".to_owned(), begun.elapsed().as_secs_f64()),
        ];
        self.answer(Ok(Sampled { images, timings: timings.into() }));
    }

    pub(super) fn answer(self, answer: Result<Sampled, SampleError>) {
        self.watcher.handle.answer(answer);
    }
}
