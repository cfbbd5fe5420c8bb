//! A job with the thread, and whoever waits for it.

use std::{collections::VecDeque, time::Instant};

use echogen_imaging::RgbImage;
use echogen_models::echogen::Schedule;
use tokio::sync::{mpsc, oneshot};
use tracing::{Span, debug};

use crate::{SampleError, SampleRequest, Sampled, ScaleDone};

/// A job with the thread.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request: SampleRequest,
    pub(super) schedule: Schedule,
    pub(super) kv_bytes: u64,
    pub(super) max_images: usize,
    /// Indices of seeds whose pictures are still to be begun.
    pub(super) missing: VecDeque<usize>,
    pub(super) images: Vec<Option<RgbImage>>,
    pub(super) arrived: Instant,
    pub(super) begun: Option<Instant>,
    pub(super) span: Span,
    pub(super) watch: Watch,
}

/// Whoever waits for a job.
#[derive(Debug)]
pub(super) struct Watch {
    reply: oneshot::Sender<Result<Sampled, SampleError>>,
    progress: mpsc::UnboundedSender<ScaleDone>,
    deadline: tokio::time::Instant,
    /// Scales told so far, of all its pictures.
    done: usize,
    total: usize,
}

impl Watch {
    /// Whether nobody waits any more: the job was taken back or cancelled, or its time is over.
    pub(super) fn is_gone(&self) -> bool {
        self.reply.is_closed() || tokio::time::Instant::now() >= self.deadline
    }

    /// Tells that another scale of `images` pictures begins.
    pub(super) fn tell(&mut self, images: usize) {
        if self.progress.send(ScaleDone { done: self.done, total: self.total }).is_err() {
            debug!("nobody follows the scales");
        }
        self.done = (self.done + images).min(self.total);
    }
}

impl Job {
    /// A job that has just come, to be answered by `reply`.
    pub(super) fn new(
        request: SampleRequest,
        schedule: Schedule,
        kv_bytes: u64,
        max_images: usize,
        reply: oneshot::Sender<Result<Sampled, SampleError>>,
    ) -> Self {
        let (images, progress, deadline) = (request.seeds.len(), request.progress.clone(), request.deadline);
        let total = schedule.scales().len() * images;
        Self {
            request,
            schedule,
            kv_bytes,
            max_images,
            missing: (0..images).collect(),
            images: vec![None; images],
            arrived: Instant::now(),
            begun: None,
            span: Span::current(),
            watch: Watch { reply, progress, deadline, done: 0, total },
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.watch.is_gone()
    }

    pub(super) fn finish(mut self) {
        let images = std::mem::take(&mut self.images).into_iter().flatten().collect();
        let begun = self.begun.unwrap_or(self.arrived);
        let timings = [
            ("waited".to_owned(), begun.saturating_duration_since(self.arrived).as_secs_f64()),
            ("networks".to_owned(), begun.elapsed().as_secs_f64()),
        ];
        self.answer(Ok(Sampled { images, timings: timings.into() }));
    }

    pub(super) fn answer(self, answer: Result<Sampled, SampleError>) {
        if self.watch.reply.send(answer).is_err() {
            debug!("answer dropped, nobody waits for it");
        }
    }
}
