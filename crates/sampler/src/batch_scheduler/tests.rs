//! Tests of the scheduling rules, on generated jobs.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { max_images: 4, max_kv_bytes: 1_000, max_wait: Duration::from_millis(10) };

fn job(ticket: u64, images: usize, arrived: Instant) -> Waiting {
    let (kv_bytes, max_images, tokens) = (10, 100, 100);
    Waiting { ticket, images, kv_bytes, max_images, tokens, is_interactive: false, arrived, alone: false }
}

/// What an idle device with all its memory free does next.
#[derive(Clone, Debug, PartialEq)]
enum Next<S> {
    Run(Batch<S>),
    WaitUntil(Instant),
    Nothing,
}

impl<S: Clone + Eq + Hash> BatchScheduler<S> {
    fn next(&mut self, now: Instant) -> Next<S> {
        let Some(group) = self.groups().next().map(|group| group.group.clone()) else { return Next::Nothing };
        match self.take(&group, self.limits.max_kv_bytes, true, now) {
            Ok(batch) => Next::Run(batch),
            Err(moment) => Next::WaitUntil(moment),
        }
    }
}

#[track_caller]
fn run(next: Next<&'static str>) -> (Vec<(u64, usize)>, CloseReason) {
    match next {
        Next::Run(batch) => (batch.parts, batch.reason),
        other => panic!("nothing to run: {other:?}"),
    }
}

#[test]
fn the_oldest_waits_for_others_of_its_shape_until_its_time_is_over() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(LIMITS);
    assert_eq!(scheduler.next(now), Next::Nothing);
    scheduler.push("square", job(1, 1, now));
    assert_eq!(scheduler.next(now), Next::WaitUntil(now + LIMITS.max_wait));
    scheduler.push("square", job(2, 1, now + Duration::from_millis(9)));
    let later = now + Duration::from_millis(10);
    assert_eq!(run(scheduler.next(later)), (vec![(1, 1), (2, 1)], CloseReason::Waited));
    assert_eq!(scheduler.next(later), Next::Nothing);
}

#[test]
fn the_oldest_has_half_of_a_batch_and_those_with_the_fewest_pictures_the_rest() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(LIMITS);
    scheduler.push("square", job(1, 9, now));
    assert_eq!(run(scheduler.next(now)), (vec![(1, 4)], CloseReason::Full));
    for (ticket, images) in [(2, 8), (3, 1), (4, 3)] {
        scheduler.push("square", job(ticket, images, now));
    }
    assert_eq!(run(scheduler.next(now)), (vec![(1, 2), (3, 1), (4, 1)], CloseReason::Full));
    assert_eq!(run(scheduler.next(now)), (vec![(1, 2), (4, 2)], CloseReason::Full));
    // The last picture of the oldest, then half for the next one, which is alone now.
    assert_eq!(run(scheduler.next(now)), (vec![(1, 1), (2, 3)], CloseReason::Full));
    assert_eq!(run(scheduler.next(now)), (vec![(2, 4)], CloseReason::Full));
    assert_eq!(run(scheduler.next(now + LIMITS.max_wait)), (vec![(2, 1)], CloseReason::Waited));
}

/// Under overload, jobs end one after the other instead of all at the end.
#[test]
fn with_a_hundred_large_jobs_waiting_as_many_have_ended_at_any_time_as_their_pictures_make() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(Limits { max_images: 16, ..LIMITS });
    (0..100).for_each(|ticket| scheduler.push("square", job(ticket, 64, now)));
    let (mut left, mut made, mut ended) = (HashMap::new(), 0, 0);
    while let Next::Run(batch) = scheduler.next(now + LIMITS.max_wait) {
        for (ticket, images) in batch.parts {
            let left: &mut usize = left.entry(ticket).or_insert(64);
            (*left, made) = (*left - images, made + images);
            ended += usize::from(*left == 0);
        }
        assert!(ended + 2 >= made / 64, "{ended} jobs of {made} pictures");
    }
    assert_eq!((ended, made), (100, 6_400));
}

#[test]
fn memory_bounds_a_batch_but_one_picture_is_always_admitted() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(LIMITS);
    scheduler.push("large", Waiting { kv_bytes: 400, ..job(1, 3, now) });
    assert_eq!(run(scheduler.next(now)), (vec![(1, 2)], CloseReason::Memory));
    scheduler.push("large", Waiting { kv_bytes: 700, ..job(2, 1, now) });
    assert_eq!(run(scheduler.next(now)), (vec![(1, 1)], CloseReason::Memory));
    scheduler.remove(2);
    scheduler.push("large", Waiting { kv_bytes: 5_000, ..job(3, 2, now) });
    assert_eq!(run(scheduler.next(now)), (vec![(3, 1)], CloseReason::Memory));
}

#[test]
fn shapes_are_served_in_turn_whatever_their_load() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(LIMITS);
    for ticket in 0..100 {
        scheduler.push("square", job(ticket, 1, now));
    }
    scheduler.push("wide", job(100, 1, now));
    assert_eq!(run(scheduler.next(now)).1, CloseReason::Full);
    assert_eq!(run(scheduler.next(now)), (vec![(100, 1)], CloseReason::Shape), "not after the hundred");
    assert_eq!(run(scheduler.next(now)).0, [(4, 1), (5, 1), (6, 1), (7, 1)]);
}

#[test]
fn a_job_that_must_be_alone_runs_alone_and_at_once() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(LIMITS);
    scheduler.push("square", Waiting { alone: true, ..job(1, 1, now) });
    scheduler.push("square", Waiting { alone: true, ..job(2, 1, now) });
    scheduler.push("square", job(3, 1, now));
    assert_eq!(run(scheduler.next(now)), (vec![(1, 1)], CloseReason::Alone));
    assert_eq!(run(scheduler.next(now)), (vec![(2, 1)], CloseReason::Alone));
    assert_eq!(scheduler.next(now), Next::WaitUntil(now + LIMITS.max_wait));
}

#[test]
fn interactive_jobs_come_first_and_share_no_batch_with_others() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(LIMITS);
    scheduler.push("square", job(1, 1, now));
    scheduler.push("wide", Waiting { is_interactive: true, ..job(2, 1, now) });
    scheduler.push("square", Waiting { is_interactive: true, ..job(3, 2, now) });
    assert_eq!(run(scheduler.next(now)), (vec![(2, 1)], CloseReason::Shape));
    assert_eq!(run(scheduler.next(now)), (vec![(3, 2)], CloseReason::Shape));
    assert_eq!(run(scheduler.next(now + LIMITS.max_wait)), (vec![(1, 1)], CloseReason::Waited));
}

#[test]
fn beside_other_batches_nothing_waits_for_more_of_its_shape() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(LIMITS);
    scheduler.push("square", job(1, 1, now));
    let group = scheduler.groups().next().unwrap().group.clone();
    assert_eq!(scheduler.take(&group, 1_000, false, now).unwrap().reason, CloseReason::Turn);
}

#[test]
fn at_shutdown_nothing_waits_for_others() {
    let now = Instant::now();
    let mut scheduler = BatchScheduler::new(LIMITS);
    scheduler.push("square", job(1, 1, now));
    scheduler.close();
    assert_eq!(run(scheduler.next(now)), (vec![(1, 1)], CloseReason::Shutdown));
}

/// A generated job: shape, pictures, key-value bytes of each, whether it must not share a batch, and the batches that
/// are run after its arrival.
type Coming = (usize, usize, u64, bool, usize);

/// Removes the batch's pictures from the remaining ones, and checks the batch.
fn check(
    batch: &Batch<usize>,
    jobs: &[Coming],
    max_images: usize,
    left: &mut HashMap<u64, usize>,
) -> Result<(), TestCaseError> {
    let images: usize = batch.parts.iter().map(|(_, images)| images).sum();
    prop_assert!((1..=max_images).contains(&images));
    let mut kv_bytes = 0;
    for (ticket, images) in &batch.parts {
        let (shape, _, kv, alone, _) = jobs[*ticket as usize];
        prop_assert!(shape == batch.shape && *images > 0);
        prop_assert!(!alone || batch.parts.len() == 1);
        kv_bytes += kv * *images as u64;
        let left = left.get_mut(ticket).unwrap();
        prop_assert!(*left >= *images);
        *left -= images;
    }
    prop_assert!(kv_bytes <= LIMITS.max_kv_bytes || images == 1);
    Ok(())
}

proptest! {
    /// For any sequence of jobs: every picture is sampled exactly once; no batch exceeds a limit or mixes shapes; a
    /// job that must not share a batch never does; and no shape waits for more batches than there are other shapes.
    #[test]
    fn every_picture_is_taken_once_within_the_limits(
        jobs in prop::collection::vec((0usize..3, 1usize..10, 1u64..600, any::<bool>(), 0usize..3), 1..40),
        max_images in 1usize..6,
    ) {
        let now = Instant::now();
        let mut scheduler = BatchScheduler::new(Limits { max_images, ..LIMITS });
        let mut left: HashMap<u64, usize> = HashMap::new();
        let mut waited: HashMap<Group<usize>, usize> = HashMap::new();
        let mut take = |scheduler: &mut BatchScheduler<usize>, left: &mut HashMap<u64, usize>| {
            let groups: Vec<_> = scheduler.round_robin.iter().cloned().collect();
            let Next::Run(batch) = scheduler.next(now + LIMITS.max_wait) else { return Ok(false) };
            check(&batch, &jobs, max_images, left)?;
            for group in &groups[1..] {
                let batches = waited.entry(group.clone()).or_default();
                *batches += 1;
                prop_assert!(*batches < 3 + jobs.iter().filter(|job| job.3).count(), "starved");
            }
            waited.remove(&groups[0]);
            Ok(true)
        };
        for (ticket, (shape, images, kv_bytes, alone, batches)) in jobs.iter().enumerate() {
            let ticket = ticket as u64;
            scheduler.push(*shape, Waiting { kv_bytes: *kv_bytes, alone: *alone, ..job(ticket, *images, now) });
            left.insert(ticket, *images);
            for _ in 0..*batches {
                take(&mut scheduler, &mut left)?;
            }
        }
        while take(&mut scheduler, &mut left)? {}
        prop_assert!(left.values().all(|left| *left == 0), "{left:?}");
        prop_assert_eq!(scheduler.next(now), Next::Nothing);
    }
}
