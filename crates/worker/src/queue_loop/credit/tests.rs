//! The bounds of credit, for any load; and what a lone tenant and several get of it.

use std::collections::{BTreeMap, VecDeque};

use echogen_ports::QueueName;
use proptest::{collection::vec, prelude::*};

use super::{
    super::{
        deficit_round_robin::Head,
        lanes::{LaneQueues, Turns},
    },
    *,
};

/// A broker and a worker, as far as credit is concerned: a broker delivers whatever it may, a worker begins what is at hand while
/// places are free, in the order of its turns.
struct Bench {
    credit: Credit,
    turns: Turns,
    places: usize,
    /// Messages that wait at the broker, by queue.
    waiting: Vec<u64>,
    /// Open consumers: queue, prefetch, unsettled.
    open: BTreeMap<ConsumerId, (usize, u16, u16)>,
    /// By queue.
    at_hand: Vec<VecDeque<ConsumerId>>,
    at_work: Vec<(ConsumerId, usize)>,
    moves: usize,
    begun: Vec<u32>,
}

fn lane_queues(lanes: &[usize], weights: &[u32]) -> Vec<LaneQueues> {
    let name = |queue: usize| QueueName(queue.to_string());
    let of = |lane: usize| (0..lanes.len()).filter(move |queue| lanes[*queue] == lane).map(name).collect();
    weights.iter().enumerate().map(|(lane, weight)| LaneQueues { weight: *weight, queues: of(lane) }).collect()
}

impl Bench {
    fn new(waiting: &[u64], lanes: Vec<usize>, weights: Vec<u32>, places: u16) -> Self {
        Self {
            open: (0..waiting.len()).map(|queue| (queue, (queue, 1, 0))).collect(),
            turns: Turns::new(&lane_queues(&lanes, &weights)),
            credit: Credit::new(lanes, weights, places),
            places: places.into(),
            waiting: waiting.to_vec(),
            at_hand: vec![VecDeque::new(); waiting.len()],
            at_work: Vec::new(),
            moves: 0,
            begun: vec![0; waiting.len()],
        }
    }

    fn of_one_lane(waiting: &[u64], places: u16) -> Self {
        Self::new(waiting, vec![0; waiting.len()], vec![1], places)
    }

    /// Everything that happens by itself, until nothing does.
    fn settle_down(&mut self) {
        loop {
            self.deliver();
            self.begin();
            let Some(next) = self.credit.next_move() else { break };
            self.moves += 1;
            match next {
                Move::Lend { consumer, queue, prefetch } => {
                    assert!(prefetch > 0 && self.open.insert(consumer, (queue, prefetch, 0)).is_none());
                }
                Move::TakeBack { consumer } => {
                    assert!(self.open.remove(&consumer).is_some(), "it was lent");
                    self.credit.drained(consumer);
                }
            }
            self.check();
        }
    }

    fn deliver(&mut self) {
        for (consumer, (queue, prefetch, unsettled)) in &mut self.open {
            while unsettled < prefetch && self.waiting[*queue] > 0 {
                *unsettled += 1;
                self.waiting[*queue] -= 1;
                self.credit.received(*consumer);
                self.at_hand[*queue].push_back(*consumer);
            }
        }
    }

    fn begin(&mut self) {
        while self.at_work.len() < self.places {
            let in_hand = self.credit.in_hand();
            let heads = self.at_hand.iter().zip(in_hand).map(|(at_hand, in_hand)| match at_hand.front() {
                Some(_) => Head::Ready(1),
                None if in_hand > 0 => Head::Expected,
                None => Head::Absent,
            });
            let Some(queue) = self.turns.next(&heads.collect::<Vec<_>>()) else { break };
            let consumer = self.at_hand[queue].pop_front().expect("it is at hand");
            self.credit.begun(consumer);
            self.at_work.push((consumer, queue));
            self.begun[queue] += 1;
        }
        self.check();
    }

    fn end(&mut self, index: usize) {
        let (consumer, _) = self.at_work.remove(index);
        self.credit.settled(consumer);
        if let Some((_, _, unsettled)) = self.open.get_mut(&consumer) {
            *unsettled -= 1;
        }
    }

    fn check(&self) {
        let (queues, pool) = (self.waiting.len(), self.places + self.places.min(AT_HAND.into()));
        assert!(self.credit.lent() as usize <= pool, "{} of {pool}", self.credit.lent());
        let at_hand: usize = self.at_hand.iter().map(VecDeque::len).sum();
        assert!(at_hand + self.at_work.len() <= queues + pool);
        if self.at_work.len() == self.places {
            assert!(at_hand <= queues + usize::from(AT_HAND), "{at_hand} at hand");
        }
    }

    fn at_work_of(&self, queue: usize) -> usize {
        self.at_work.iter().filter(|(_, of)| *of == queue).count()
    }

    /// Ends every task once, so many times over.
    fn generations(&mut self, count: usize) {
        for _ in 0..count {
            for _ in 0..self.at_work.len() {
                self.end(0);
                self.settle_down();
            }
        }
    }
}

fn sorted(mut lanes: Vec<usize>) -> Vec<usize> {
    lanes.sort_unstable();
    lanes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_comes_the_bounds_hold_and_no_place_stays_empty(
        places in 1u16..40,
        lanes in vec(0usize..3, 1..12).prop_map(sorted),
        steps in vec((any::<prop::sample::Index>(), 0u64..20, any::<prop::sample::Index>()), 1..200),
    ) {
        let mut bench = Bench::new(&vec![0; lanes.len()], lanes, vec![8, 4, 1], places);
        for (queue, arriving, ending) in steps {
            let queue = queue.index(bench.waiting.len());
            bench.waiting[queue] += arriving;
            bench.settle_down();
            if !bench.at_work.is_empty() {
                bench.end(ending.index(bench.at_work.len()));
                bench.settle_down();
            }
            prop_assert!(
                bench.at_work.len() == bench.places || bench.waiting.iter().sum::<u64>() == 0
                    || bench.credit.lent() + bench.credit.parts().iter().map(Part::claim).sum::<u32>() >= bench.credit.pool,
                "{} at work of {}, {:?} wait", bench.at_work.len(), bench.places, bench.waiting
            );
        }
        // With nothing more to come, everything is done.
        while !bench.at_work.is_empty() {
            bench.end(0);
            bench.settle_down();
        }
        prop_assert_eq!(bench.waiting.iter().sum::<u64>(), 0);
    }

    #[test]
    fn a_lone_tenant_gets_every_place_at_once(places in 1u16..200, queues in 1usize..70) {
        let mut waiting = vec![0; queues];
        waiting[queues / 2] = 10_000;
        let mut bench = Bench::of_one_lane(&waiting, places);
        bench.settle_down();
        prop_assert_eq!(bench.at_work.len(), usize::from(places));
        prop_assert!(!bench.at_hand[queues / 2].is_empty(), "the next is at hand");
        prop_assert!(bench.moves <= 10, "a few consumers: {}", bench.moves);
        let moves = bench.moves;
        bench.generations(3);
        prop_assert_eq!(bench.moves, moves, "nothing more is moved");
    }
}

#[test]
fn a_second_tenant_gets_its_share_of_one_who_has_everything() {
    let mut bench = Bench::of_one_lane(&[10_000, 0, 0, 0], 16);
    bench.settle_down();
    assert_eq!(bench.at_work_of(0), 16);
    bench.waiting[2] = 10_000;
    bench.generations(12);
    assert!(bench.at_work_of(2) >= 6, "{} and {} at work", bench.at_work_of(0), bench.at_work_of(2));
    assert!(bench.at_work_of(0) >= 6);
}

#[test]
fn lanes_are_served_by_their_weights_although_credit_is_short() {
    for places in [1, 2, 4, 7, 16, 32] {
        let mut bench = Bench::new(&[100_000, 100_000, 100_000], vec![0, 1, 2], vec![8, 4, 1], places);
        bench.settle_down();
        bench.begun.fill(0);
        while bench.begun.iter().sum::<u32>() < 1_300 {
            bench.end(0);
            bench.settle_down();
        }
        let shares = [800, 400, 100].into_iter().zip(&bench.begun);
        assert!(shares.clone().all(|(ideal, begun)| begun.abs_diff(ideal) <= 30), "{places} places: {:?}", bench.begun);
    }
}

#[test]
fn a_task_now_and_then_costs_a_busy_tenant_little() {
    let mut bench = Bench::of_one_lane(&[10_000, 0, 0, 0, 0, 0, 0, 0], 16);
    bench.settle_down();
    let moves = bench.moves;
    for number in 0..200 {
        bench.waiting[1 + number % 7] += 1;
        bench.settle_down();
        bench.end(0);
        bench.settle_down();
        assert_eq!(bench.at_work.len(), 16, "no place is empty");
    }
    // Of four hundred tasks that begin, at most every fourth takes credit back, which is then lent.
    assert!(bench.moves - moves <= 2 * 400 / 4, "{} moves", bench.moves - moves);
}
