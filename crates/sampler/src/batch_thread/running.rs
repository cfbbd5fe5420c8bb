//! A batch that has begun, between two steps.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use echogen_imaging::RgbImage;
use echogen_models::echogen::Schedule;
use tracing::Span;

use super::BatchNetworks;
use crate::{SampleError, step_scheduler::Need};

/// A request's share of a batch.
pub(super) struct Member {
    pub(super) ticket: u64,
    /// Indices of the seeds whose pictures are not made yet.
    pub(super) pictures: VecDeque<usize>,
    /// Size of each picture's key-value caches in bytes.
    pub(super) kv_bytes: u64,
}

/// A batch, and its pictures in the order of its members.
pub(super) struct Running<N: BatchNetworks> {
    schedule: Schedule,
    pub(super) members: Vec<Member>,
    phase: Phase<N>,
    /// The share of each picture in the time that the batch has had on the thread.
    each: Duration,
    /// Whether its callers know that it waits for its turn.
    pub(super) is_waiting: bool,
    /// Its span, which ends with it.
    _span: Span,
}

/// How far a batch is.
enum Phase<N: BatchNetworks> {
    /// The scale with this index is the next.
    Scales(usize, N::Sampling),
    /// All scales are sampled; these are still to be decoded.
    Decoding(VecDeque<N::Codes>),
}

/// The step that a batch does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepKind {
    /// The scale with this index.
    Scale(usize),
    /// One picture is decoded.
    Decode,
}

/// A picture that is made.
pub(super) struct Picture {
    pub(super) ticket: u64,
    pub(super) index: usize,
    pub(super) image: RgbImage,
    /// Its share of the time that the batch has had on the thread.
    pub(super) device_time: Duration,
}

/// Returns the image tokens left of a picture from this scale on. The decoding counts as much as the last scale.
pub(super) fn tokens_left(schedule: &Schedule, scale: usize) -> u64 {
    let scales = schedule.scales().get(scale..).unwrap_or_default();
    scales.iter().chain([&schedule.last()]).map(|(height, width)| (height * width) as u64).sum()
}

impl<N: BatchNetworks> Running<N> {
    pub(super) fn new(schedule: Schedule, members: Vec<Member>, sampling: N::Sampling, span: Span) -> Self {
        let phase = Phase::Scales(0, sampling);
        Self { schedule, members, phase, each: Duration::ZERO, is_waiting: false, _span: span }
    }

    pub(super) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The number of pictures that are not made yet.
    fn pictures(&self) -> usize {
        self.members.iter().map(|member| member.pictures.len()).sum()
    }

    pub(super) fn next(&self) -> StepKind {
        match &self.phase {
            Phase::Scales(scale, _) => StepKind::Scale(*scale),
            Phase::Decoding(_) => StepKind::Decode,
        }
    }

    /// Charges the pictures with a time that all of them share.
    pub(super) fn charge(&mut self, took: Duration) {
        self.each += took / u32::try_from(self.pictures()).unwrap_or(u32::MAX).max(1);
    }

    /// Returns what a preview of each picture is decoded from; nothing after the last scale.
    pub(super) fn codes(&self, networks: &mut N) -> Result<Vec<N::Codes>, SampleError> {
        match &self.phase {
            Phase::Scales(_, sampling) => networks.finish(sampling),
            Phase::Decoding(_) => Ok(Vec::new()),
        }
    }

    /// Does the next step; returns the picture that it made, if it made one. After the last scale only the code sums
    /// are left of the batch's state.
    pub(super) fn step(&mut self, networks: &mut N) -> Result<Option<Picture>, SampleError> {
        let expected = self.pictures();
        match &mut self.phase {
            Phase::Scales(scale, sampling) => {
                networks.step(sampling)?;
                *scale += 1;
                if *scale == self.schedule.scales().len() {
                    let codes = networks.finish(sampling)?;
                    if codes.len() != expected {
                        let message = format!("{} pictures were sampled of {expected}", codes.len());
                        return Err(SampleError::Failed(message.into()));
                    }
                    self.phase = Phase::Decoding(codes.into());
                }
                Ok(None)
            }
            Phase::Decoding(codes) => {
                let Some(first) = codes.front() else { return Ok(None) };
                let began = Instant::now();
                let image = networks.decode(first)?;
                codes.pop_front();
                let device_time = self.each + began.elapsed();
                Ok(self.take_first().map(|(ticket, index)| Picture { ticket, index, image, device_time }))
            }
        }
    }

    /// Takes the first picture from its member; one without further pictures leaves the batch.
    fn take_first(&mut self) -> Option<(u64, usize)> {
        let member = self.members.first_mut()?;
        let taken = (member.ticket, member.pictures.pop_front()?);
        if member.pictures.is_empty() {
            self.members.remove(0);
        }
        Some(taken)
    }

    /// Removes the members that nobody waits for, and frees their memory. Returns whether there were any.
    pub(super) fn retain(&mut self, networks: &mut N, is_wanted: impl Fn(u64) -> bool) -> bool {
        let (before, mut start) = (self.members.len(), 0);
        let phase = &mut self.phase;
        self.members.retain(|member| {
            let pictures = start..start + member.pictures.len();
            if is_wanted(member.ticket) {
                start = pictures.end;
                return true;
            }
            match phase {
                Phase::Scales(_, sampling) => networks.remove(sampling, pictures),
                Phase::Decoding(codes) => drop(codes.drain(pictures)),
            }
            false
        });
        self.members.len() < before
    }

    /// What it still needs.
    pub(super) fn need(&self) -> Need {
        let (height, width) = self.schedule.last();
        match &self.phase {
            Phase::Scales(scale, _) => {
                let (height, width) = self.schedule.scales().get(*scale).copied().unwrap_or((height, width));
                let kv_bytes = self.members.iter().map(|member| member.kv_bytes * member.pictures.len() as u64);
                Need {
                    left: tokens_left(&self.schedule, *scale),
                    step: (height * width * self.pictures()) as u64,
                    kv_bytes: kv_bytes.fold(0, u64::saturating_add),
                }
            }
            Phase::Decoding(_) => {
                let picture = (height * width) as u64;
                Need { left: picture, step: picture, kv_bytes: 0 }
            }
        }
    }
}
