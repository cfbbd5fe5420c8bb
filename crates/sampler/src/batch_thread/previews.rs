//! Previews: the pictures on their way, decoded small between two steps.
//!
//! A preview is made only while the thread has nothing to do but one batch of jobs that all asked for previews. As soon as
//! another request arrives, those that are not made yet are dropped: no job waits for another's previews but by one of them.

use std::collections::VecDeque;

use echogen_imaging::RgbImage;
use echogen_telemetry::{PreviewEnd, metrics};
use tokio::sync::mpsc::OwnedPermit;

use crate::{Previews, image_sampler::PreviewRequest};

/// The previews of one request after one scale of its batch.
pub(super) struct PreviewGroup<C> {
    /// The batch, which goes on when they are made or dropped.
    pub(super) batch: u64,
    pub(super) ticket: u64,
    permit: OwnedPermit<Previews>,
    made: Previews,
    /// The pictures without a preview yet, and what each is decoded from.
    left: VecDeque<(usize, C)>,
}

/// The previews that are to be made before the next step.
pub(super) struct PreviewQueue<C>(VecDeque<PreviewGroup<C>>);

impl<C> Default for PreviewQueue<C> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<C> PreviewQueue<C> {
    /// Adds previews of these pictures, unless the receiver has not stored earlier ones yet.
    pub(super) fn push(
        &mut self,
        (batch, ticket): (u64, u64),
        wanted: &PreviewRequest,
        made: Previews,
        left: VecDeque<(usize, C)>,
    ) {
        match wanted.made.clone().try_reserve_owned() {
            Ok(permit) => self.0.push_back(PreviewGroup { batch, ticket, permit, made, left }),
            Err(_) => metrics().previews(PreviewEnd::Dropped, left.len()),
        }
    }

    /// The batch and the request whose preview is the next.
    pub(super) fn next(&self) -> Option<(u64, u64)> {
        self.0.front().map(|group| (group.batch, group.ticket))
    }

    /// What the next preview is decoded from.
    pub(super) fn codes(&self) -> Option<&C> {
        Some(&self.0.front()?.left.front()?.1)
    }

    /// Takes the next preview, `None` if it could not be made. The last of a group sends it.
    pub(super) fn made(&mut self, image: Option<RgbImage>) {
        let Some(mut group) = self.0.pop_front() else { return };
        if let Some((index, _)) = group.left.pop_front() {
            match image {
                Some(image) => group.made.images.push((index, image)),
                None => metrics().previews(PreviewEnd::Dropped, 1),
            }
        }
        if group.left.is_empty() {
            group.send();
        } else {
            self.0.push_front(group);
        }
    }

    /// Drops all that are not made, and sends the others.
    pub(super) fn clear(&mut self) {
        for group in self.0.drain(..) {
            metrics().previews(PreviewEnd::Dropped, group.left.len());
            group.send();
        }
    }
}

impl<C> PreviewGroup<C> {
    fn send(self) {
        if !self.made.images.is_empty() {
            self.permit.send(self.made);
        }
    }
}

/// Whether a picture with `done` of its `scales` gets one of its `count` previews: they are spread evenly, and the last scale
/// has none.
pub(super) fn is_preview_scale(done: usize, count: u32, scales: usize) -> bool {
    let count = (count as usize).min(scales.saturating_sub(1));
    done < scales && (1..=count).any(|number| number * scales / (count + 1) == done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scales(count: u32, scales: usize) -> Vec<usize> {
        (0..=scales).filter(|done| is_preview_scale(*done, count, scales)).collect()
    }

    #[test]
    fn previews_are_spread_over_the_scales_but_the_last() {
        assert!(scales(0, 10).is_empty());
        assert_eq!(scales(1, 10), [5]);
        assert_eq!(scales(3, 10), [2, 5, 7]);
        assert_eq!(scales(4, 13), [2, 5, 7, 10]);
        for count in 9..=16 {
            assert_eq!(scales(count, 10), (1..10).collect::<Vec<_>>(), "no more than there are scales");
        }
        for (count, of) in (1..=16).flat_map(|count| (2..14).map(move |of| (count, of))) {
            assert_eq!(scales(count, of).len(), (count as usize).min(of - 1), "{count} of {of}");
        }
        assert_eq!((scales(4, 1), scales(4, 0)), (vec![], vec![]));
    }
}
