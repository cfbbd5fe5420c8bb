//! Tests of the order of steps, on generated jobs.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::CloseReason;

const LIMITS: Limits = Limits { max_images: 4, max_kv_bytes: 1_000, max_wait: Duration::ZERO };

/// A shape: the tokens of its scales. The decoding counts as much as the last.
type Shape = &'static [u64];

const LARGE: Shape = &[1, 16, 400, 1_000];
const SMALL: Shape = &[1, 16, 64];

fn tokens_left(shape: Shape, scale: usize) -> u64 {
    shape.iter().skip(scale).chain(shape.last()).sum()
}

fn job(ticket: u64, shape: Shape, images: usize) -> Waiting {
    Waiting {
        ticket,
        images,
        kv_bytes: tokens_left(shape, 0) / 10,
        max_images: 100,
        tokens: tokens_left(shape, 0),
        is_interactive: false,
        arrived: Instant::now(),
        alone: false,
    }
}

fn interactive(job: Waiting) -> Waiting {
    Waiting { is_interactive: true, ..job }
}

/// A batch as the device has it.
#[derive(Clone, Debug)]
struct Running {
    batch: Batch<Shape>,
    kv_bytes: u64,
    /// Image tokens of each step left.
    steps: VecDeque<u64>,
}

impl Running {
    fn new(batch: Batch<Shape>, kv_bytes: u64) -> Self {
        let images: usize = batch.parts.iter().map(|(_, images)| images).sum();
        let scales = batch.shape.iter().map(|tokens| tokens * images as u64);
        let decoding = std::iter::repeat_n(batch.shape.last().copied().unwrap(), images);
        Self { kv_bytes, steps: scales.chain(decoding).collect(), batch }
    }

    fn need(&self) -> Need {
        let images: usize = self.batch.parts.iter().map(|(_, images)| images).sum();
        let scales = self.batch.shape.len();
        let done = (scales + images - self.steps.len()).min(scales);
        let kv_bytes = if done < scales { self.kv_bytes } else { 0 };
        Need { left: tokens_left(self.batch.shape, done), step: self.steps.front().copied().unwrap_or(0), kv_bytes }
    }
}

/// A device that does as it is told.
struct Device {
    scheduler: StepScheduler<Shape>,
    jobs: HashMap<u64, Waiting>,
    running: BTreeMap<u64, Running>,
    begun: u64,
    /// Pictures begun of each job.
    taken: HashMap<u64, usize>,
    now: Instant,
}

/// What the device did.
#[derive(Debug, PartialEq)]
enum Did {
    Begun(Vec<(u64, usize)>),
    /// A step of the batch with this first job, of so many image tokens.
    Step(u64, u64),
}

impl Device {
    fn new(limits: Limits) -> Self {
        let (scheduler, now) = (StepScheduler::new(limits), Instant::now());
        Self { scheduler, jobs: HashMap::new(), running: BTreeMap::new(), begun: 0, taken: HashMap::new(), now }
    }

    fn push(&mut self, shape: Shape, job: Waiting) {
        self.jobs.insert(job.ticket, job.clone());
        self.scheduler.push(shape, job);
    }

    /// Does what comes next; `None` if there is nothing to do.
    fn work(&mut self) -> Option<Did> {
        match self.scheduler.next(self.now + Duration::from_secs(1)) {
            Next::Nothing => None,
            Next::WaitUntil(moment) => panic!("the time to wait is over: {moment:?}"),
            Next::Begin(batch) => {
                let kv_bytes =
                    batch.parts.iter().map(|(ticket, images)| self.jobs[ticket].kv_bytes * *images as u64).sum();
                self.begun += 1;
                batch.parts.iter().for_each(|(ticket, images)| *self.taken.entry(*ticket).or_default() += images);
                let did = Did::Begun(batch.parts.clone());
                let (is_interactive, running) = (batch.is_interactive, Running::new(batch, kv_bytes));
                self.scheduler.began(self.begun, is_interactive, running.need());
                self.running.insert(self.begun, running);
                Some(did)
            }
            Next::Step(id) => {
                let running = self.running.get_mut(&id).expect("a batch that has begun");
                let tokens = running.steps.pop_front().expect("a batch with steps left");
                let did = Did::Step(running.batch.parts[0].0, tokens);
                self.scheduler.update(id, running.need());
                if running.steps.is_empty() {
                    self.running.remove(&id);
                    self.scheduler.ended(id);
                }
                Some(did)
            }
        }
    }

    /// Works until the last step of the batch with this first job; returns the tokens of other batches' steps.
    fn until_made(&mut self, job: u64) -> u64 {
        let mut others = 0;
        loop {
            match self.work().expect("the batch is not made yet") {
                Did::Step(first, _) if first == job => {
                    if !self.running.values().any(|running| running.batch.parts[0].0 == job) {
                        return others;
                    }
                }
                Did::Step(_, tokens) => others += tokens,
                Did::Begun(_) => {}
            }
        }
    }
}

#[test]
fn an_interactive_job_waits_for_one_step_of_a_large_batch() {
    let mut device = Device::new(LIMITS);
    device.push(LARGE, job(1, LARGE, 2));
    (0..3).for_each(|_| drop(device.work()));
    device.push(SMALL, interactive(job(2, SMALL, 1)));
    assert_eq!(device.until_made(2), 0, "no step of the large batch comes between");
    assert_eq!(device.work(), Some(Did::Step(1, 800)), "then it goes on");
}

#[test]
fn of_equal_lanes_the_batch_with_less_left_comes_first() {
    let mut device = Device::new(LIMITS);
    device.push(LARGE, job(1, LARGE, 1));
    (0..3).for_each(|_| drop(device.work()));
    device.push(SMALL, job(2, SMALL, 1));
    assert_eq!(device.until_made(2), 0);
    device.push(LARGE, job(3, LARGE, 1));
    assert_eq!(device.until_made(1), 0, "one of the same shape has more left, and does not begin");
    assert_eq!(device.work(), Some(Did::Begun(vec![(3, 1)])));
}

#[test]
fn whoever_is_passed_over_gets_a_fifth_of_the_device() {
    let mut device = Device::new(LIMITS);
    device.push(LARGE, job(1, LARGE, 1));
    device.work();
    let (mut large, mut small) = (0, 0);
    for ticket in 2.. {
        device.push(SMALL, interactive(job(ticket, SMALL, 4)));
        loop {
            match device.work() {
                Some(Did::Step(1, tokens)) => large += tokens,
                Some(Did::Step(_, tokens)) => small += tokens,
                Some(Did::Begun(_)) => {}
                None => panic!("there is always something to do"),
            }
            if device.running.values().all(|running| running.batch.parts[0].0 == 1) {
                break;
            }
        }
        if device.running.is_empty() {
            break;
        }
    }
    assert_eq!(large, tokens_left(LARGE, 0));
    let steps = LARGE.len() as u64 + 1;
    assert!(small <= PATIENCE * large + steps * 256, "{small} tokens of others");
    assert!(small >= PATIENCE * large - 256, "and no more than a fifth: {small}");
}

#[test]
fn a_batch_that_is_passed_over_before_it_begins_gets_its_turn_too() {
    let mut device = Device::new(LIMITS);
    device.push(LARGE, job(0, LARGE, 1));
    let mut others = 0;
    for ticket in 1.. {
        device.push(SMALL, interactive(job(ticket, SMALL, 4)));
        match device.work() {
            Some(Did::Begun(parts)) if parts == [(0, 1)] => break,
            Some(Did::Step(_, tokens)) => others += tokens,
            _ => {}
        }
    }
    let due = PATIENCE * tokens_left(LARGE, 0);
    assert!((due..=due + 256).contains(&others), "{others}");
}

#[test]
fn the_memory_of_all_batches_is_bounded_and_an_eighth_is_left_to_interactive_jobs() {
    let mut device = Device::new(LIMITS);
    device.push(LARGE, Waiting { kv_bytes: 300, ..job(1, LARGE, 4) });
    assert_eq!(device.work(), Some(Did::Begun(vec![(1, 2)])), "three would take more than seven eighths");
    device.push(SMALL, Waiting { kv_bytes: 300, ..job(2, SMALL, 1) });
    assert_eq!(device.work(), Some(Did::Step(1, 2)), "it has less left, and does not fit");
    device.push(SMALL, interactive(Waiting { kv_bytes: 300, ..job(3, SMALL, 2) }));
    assert_eq!(device.work(), Some(Did::Begun(vec![(3, 1)])));
    assert_eq!(device.scheduler.kv_bytes(), 900);
}

#[test]
fn a_picture_that_exceeds_the_memory_is_sampled_alone() {
    let mut device = Device::new(LIMITS);
    device.push(LARGE, Waiting { kv_bytes: 5_000, ..job(1, LARGE, 2) });
    assert_eq!(device.work(), Some(Did::Begun(vec![(1, 1)])));
    device.push(SMALL, interactive(job(2, SMALL, 1)));
    for tokens in LARGE {
        assert_eq!(device.work(), Some(Did::Step(1, *tokens)));
    }
    assert_eq!(device.work(), Some(Did::Begun(vec![(2, 1)])), "what is left to decode takes no such memory");
}

#[test]
fn a_large_batch_that_is_due_and_does_not_fit_keeps_others_from_beginning() {
    let mut device = Device::new(LIMITS);
    // Jobs that share no batch, and of which one always has some of the memory.
    let overlapping = |ticket| Waiting { kv_bytes: 300, alone: true, ..job(ticket, LARGE, 1) };
    (1..4).for_each(|ticket| device.push(LARGE, overlapping(ticket)));
    device.work();
    device.push(LARGE, Waiting { kv_bytes: 800, ..job(0, LARGE, 1) });
    let (mut others, mut ticket) = (0, 4);
    loop {
        device.push(SMALL, interactive(Waiting { kv_bytes: 10, ..job(ticket, SMALL, 1) }));
        device.push(LARGE, overlapping(ticket + 1));
        ticket += 2;
        match device.work() {
            Some(Did::Begun(parts)) if parts == [(0, 1)] => break,
            Some(Did::Step(_, tokens)) => others += tokens,
            _ => {}
        }
        assert!(others < 20 * tokens_left(LARGE, 0), "it never begins");
    }
}

#[test]
fn while_a_batch_that_is_due_does_not_fit_not_even_an_interactive_one_begins() {
    let (mut scheduler, now) = (StepScheduler::new(LIMITS), Instant::now());
    scheduler.began(1, false, Need { left: 900, step: 10_000, kv_bytes: 300 });
    scheduler.push(LARGE, Waiting { kv_bytes: 800, ..job(0, LARGE, 1) });
    assert_eq!(scheduler.next(now), Next::Step(1), "others have done four times its work");
    scheduler.push(SMALL, interactive(job(2, SMALL, 1)));
    assert_eq!(scheduler.next(now), Next::Step(1));
    scheduler.ended(1);
    let Next::Begin(batch) = scheduler.next(now) else { panic!("it fits now") };
    assert_eq!(batch.parts, [(0, 1)]);
}

#[test]
fn a_batch_that_loses_pictures_frees_their_memory_at_once() {
    let mut device = Device::new(LIMITS);
    device.push(LARGE, Waiting { kv_bytes: 400, ..job(1, LARGE, 2) });
    device.work();
    device.push(SMALL, interactive(Waiting { kv_bytes: 400, ..job(2, SMALL, 1) }));
    assert_eq!(device.work(), Some(Did::Step(1, 2)));
    device.scheduler.update(1, Need { kv_bytes: 400, ..device.running[&1].need() });
    assert_eq!(device.work(), Some(Did::Begun(vec![(2, 1)])));
    device.scheduler.ended(1);
    assert_eq!((device.scheduler.alive(), device.scheduler.kv_bytes()), (1, 400));
}

#[test]
fn a_batch_that_begins_beside_others_says_so() {
    let mut scheduler = StepScheduler::new(LIMITS);
    scheduler.began(1, false, Need { left: 10_000, step: 100, kv_bytes: 10 });
    scheduler.push(SMALL, Waiting { arrived: Instant::now() + Duration::from_secs(9), ..job(2, SMALL, 1) });
    let Next::Begin(batch) = scheduler.next(Instant::now()) else { panic!("it has less left") };
    assert_eq!(batch.reason, CloseReason::Turn);
}

const SHAPES: [Shape; 3] = [LARGE, SMALL, &[1, 4]];

/// A generated job: its shape, pictures, bytes of each, whether it is interactive and whether alone, and the steps that are
/// done after its arrival.
type Coming = (usize, usize, u64, bool, bool, usize);

/// How long each batch and each waiting shape was passed over.
#[derive(Default)]
struct Passed {
    batches: HashMap<u64, u64>,
    most_alive: usize,
}

/// Does one thing and checks it. No batch waits longer for a step than the bound: others do at most [`PATIENCE`] times
/// the work of its next step, and then one step of each of the other batches.
fn work(device: &mut Device, passed: &mut Passed, largest_step: u64, jobs: usize) -> Result<bool, TestCaseError> {
    let before: HashMap<u64, Need> = device.running.iter().map(|(id, running)| (*id, running.need())).collect();
    let is_interactive = |device: &Device, id: &u64| device.running.get(id).is_some_and(|of| of.batch.is_interactive);
    let steps = |device: &Device| -> HashMap<u64, usize> {
        device.running.iter().map(|(id, running)| (*id, running.steps.len())).collect()
    };
    let lanes: HashMap<u64, bool> = before.keys().map(|id| (*id, is_interactive(device, id))).collect();
    let left = steps(device);
    let due =
        |id: &u64, passed: &Passed| passed.batches.get(id).copied().unwrap_or(0) >= (PATIENCE * before[id].step).max(1);
    let Some(did) = device.work() else { return Ok(false) };
    if let Did::Step(_, tokens) = did {
        let after = steps(device);
        let stepped = left.iter().find(|(id, steps)| after.get(id).copied().unwrap_or(0) + 1 == **steps);
        let (stepped, _) = stepped.expect("one batch has one step less");
        if !due(stepped, passed) && !lanes[stepped] {
            prop_assert!(lanes.values().all(|is_interactive| !is_interactive), "an interactive batch is preferred");
        }
        for (id, need) in before.iter().filter(|(id, _)| *id != stepped) {
            let waited = passed.batches.entry(*id).or_default();
            *waited += tokens;
            let bound = PATIENCE * need.step + (passed.most_alive.max(jobs) as u64 + 1) * largest_step;
            prop_assert!(*waited <= bound, "batch {id} waited for {waited} tokens, more than {bound}");
        }
        passed.batches.insert(*stepped, 0);
    }
    passed.most_alive = passed.most_alive.max(device.running.len());
    let holding = device.running.values().filter(|running| running.need().kv_bytes > 0);
    let holders: Vec<_> = holding.map(|running| running.batch.parts.clone()).collect();
    let is_lone_picture = holders.len() == 1 && holders[0].iter().map(|(_, images)| images).sum::<usize>() == 1;
    prop_assert!(device.scheduler.kv_bytes() <= LIMITS.max_kv_bytes || is_lone_picture, "{holders:?}");
    Ok(true)
}

proptest! {
    /// For any sequence of jobs: every picture is sampled once and every batch ends; the memory is never exceeded but by a
    /// lone picture; interactive batches are stepped before others unless those are due; and no batch is passed over for
    /// longer than the bound.
    #[test]
    fn every_batch_ends_within_the_bounds(
        jobs in prop::collection::vec(
            (0usize..3, 1usize..10, 1u64..1_200, any::<bool>(), prop::bool::weighted(0.1), 0usize..12), 1..40,
        ),
        max_images in 1usize..6,
    ) {
        let mut device = Device::new(Limits { max_images, ..LIMITS });
        let mut passed = Passed::default();
        let largest_step = 1_000 * max_images as u64;
        let jobs: Vec<Coming> = jobs;
        for (ticket, (shape, images, kv_bytes, is_interactive, alone, steps)) in jobs.iter().enumerate() {
            let (ticket, shape) = (ticket as u64, SHAPES[*shape]);
            let job = job(ticket, shape, *images);
            device.push(shape, Waiting { kv_bytes: *kv_bytes, is_interactive: *is_interactive, alone: *alone, ..job });
            for _ in 0..*steps {
                work(&mut device, &mut passed, largest_step, jobs.len())?;
            }
        }
        while work(&mut device, &mut passed, largest_step, jobs.len())? {}
        prop_assert!(device.running.is_empty());
        for (ticket, (_, images, ..)) in (0u64..).zip(&jobs) {
            prop_assert_eq!(device.taken.get(&ticket), Some(images));
        }
        prop_assert_eq!((device.scheduler.alive(), device.scheduler.kv_bytes()), (0, 0));
    }

    /// However many interactive jobs keep coming, a batch that waits begins once others have done the work of the bound, and
    /// what the batches in progress still need.
    #[test]
    fn a_waiting_batch_begins_whatever_keeps_coming(
        kv_bytes in 1u64..1_200,
        coming in prop::collection::vec((0usize..3, 1usize..5, 1u64..500), 1..20),
    ) {
        let mut device = Device::new(LIMITS);
        for (ticket, (shape, images, kv_bytes)) in (1u64..).zip(&coming) {
            let job = job(ticket, SHAPES[*shape], *images);
            device.push(SHAPES[*shape], interactive(Waiting { kv_bytes: *kv_bytes, ..job }));
        }
        device.work();
        device.push(LARGE, Waiting { kv_bytes, ..job(0, LARGE, 1) });
        let mut ticket = coming.len() as u64;
        let (mut others, mut has_begun) = (0, false);
        let bound = PATIENCE * tokens_left(LARGE, 0) + 4 * (coming.len() as u64 + 4) * tokens_left(LARGE, 0);
        while !has_begun && others <= bound {
            let (shape, images, kv_bytes) = coming[ticket as usize % coming.len()];
            ticket += 1;
            let job = job(ticket, SHAPES[shape], images);
            device.push(SHAPES[shape], interactive(Waiting { kv_bytes, ..job }));
            match device.work() {
                Some(Did::Step(_, tokens)) => others += tokens,
                Some(Did::Begun(parts)) => has_begun = parts == [(0, 1)],
                None => break,
            }
        }
        prop_assert!(has_begun, "not after {others} tokens of others");
    }
}
