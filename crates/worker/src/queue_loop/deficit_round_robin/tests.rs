//! What the round robin promises, for any costs and any arrivals.

use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};

use super::*;

/// Queues of tasks, known by their costs.
struct Bench {
    round_robin: DeficitRoundRobin,
    queues: Vec<VecDeque<u64>>,
    begun: Vec<u64>,
}

impl Bench {
    fn new(queues: Vec<Vec<u64>>) -> Self {
        let queues: Vec<VecDeque<u64>> = queues.into_iter().map(VecDeque::from).collect();
        Self { round_robin: DeficitRoundRobin::new(queues.len()), begun: vec![0; queues.len()], queues }
    }

    fn next(&mut self) -> Option<usize> {
        let queues = &self.queues;
        let head = |queue: usize| queues[queue].front().map_or(Head::Absent, |cost| Head::Ready(*cost));
        let queue = self.round_robin.next(head)?;
        self.begun[queue] += self.queues[queue].pop_front().expect("it was at hand");
        Some(queue)
    }

    fn all_have_some(&self) -> bool {
        self.queues.iter().all(|queue| !queue.is_empty())
    }
}

/// Two to nine queues with many tasks each.
fn backlogs() -> impl Strategy<Value = Vec<Vec<u64>>> {
    (2usize..10).prop_flat_map(|queues| vec(vec(1u64..1_000, 20..60), queues))
}

proptest! {
    #[test]
    fn each_backlogged_queue_is_served_in_each_round(backlogs in backlogs()) {
        let mut bench = Bench::new(backlogs);
        let (mut turn, queues) = (0, bench.queues.len());
        prop_assert_eq!(bench.next(), Some(0));
        while bench.all_have_some() {
            let next = bench.next().unwrap();
            prop_assert!(next == turn || next == (turn + 1) % queues, "{} comes after {}", next, turn);
            turn = next;
        }
    }

    #[test]
    fn shares_are_within_one_quantum_and_one_task_of_the_ideal(backlogs in backlogs()) {
        let largest = backlogs.iter().flatten().copied().max().unwrap();
        let mut bench = Bench::new(backlogs);
        while bench.all_have_some() {
            bench.next().unwrap();
            // The quantum is never more than the largest task.
            let (least, most) = (bench.begun.iter().min().unwrap(), bench.begun.iter().max().unwrap());
            prop_assert!(most - least <= 2 * largest, "{:?}, the largest is {}", bench.begun, largest);
            let ideal = bench.begun.iter().sum::<u64>() / bench.begun.len() as u64;
            prop_assert!(bench.begun.iter().all(|begun| begun.abs_diff(ideal) <= 2 * largest));
        }
    }

    #[test]
    fn a_queue_that_was_idle_has_no_credit(idle in 1usize..200, costs in vec(1u64..100, 200)) {
        let mut bench = Bench::new(vec![vec![1; 10_000], vec![]]);
        (0..idle).for_each(|_| { bench.next().unwrap(); });
        bench.queues[1].extend(&costs);
        bench.begun = vec![0, 0];
        while bench.all_have_some() {
            bench.next().unwrap();
            prop_assert!(bench.begun[1] <= bench.begun[0] + 200, "{:?}", bench.begun);
        }
    }

    #[test]
    fn whatever_is_at_hand_is_served_and_nothing_else(
        rounds in vec(vec(prop_oneof![Just(Head::Absent), Just(Head::Expected), (0u64..=u64::MAX).prop_map(Head::Ready)], 5), 1..50),
    ) {
        let mut round_robin = DeficitRoundRobin::new(5);
        for heads in rounds {
            let is_any = heads.iter().any(|head| matches!(head, Head::Ready(_)));
            let chosen = round_robin.next(|queue| heads[queue]);
            prop_assert_eq!(chosen.is_some(), is_any);
            prop_assert!(chosen.is_none_or(|queue| matches!(heads[queue], Head::Ready(_))));
        }
    }
}

#[test]
fn equal_tasks_take_turns_one_by_one() {
    let mut bench = Bench::new(vec![vec![64; 3]; 3]);
    let order: Vec<usize> = std::iter::from_fn(|| bench.next()).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_large_task_is_worth_many_small_ones_and_only_while_it_is_there() {
    let mut bench = Bench::new(vec![vec![64; 2], vec![1; 200], vec![1; 200]]);
    let order: Vec<usize> = std::iter::from_fn(|| bench.next()).take(2 * (1 + 64 + 64)).collect();
    let counts = [0, 1, 2].map(|queue| order.iter().filter(|chosen| **chosen == queue).count());
    assert_eq!(counts, [2, 128, 128]);
    let after: Vec<usize> = std::iter::from_fn(|| bench.next()).skip(130).collect();
    assert!(after.windows(2).take(10).all(|pair| pair[0] != pair[1]), "one by one again: {after:?}");
}

#[test]
fn who_expects_a_task_keeps_no_more_than_a_quantum() {
    let mut round_robin = DeficitRoundRobin::new(2);
    // The first has one task at hand at a time, of 1; the second one of 10.
    let both = |queue: usize| if queue == 0 { Head::Ready(1) } else { Head::Ready(10) };
    assert_eq!(round_robin.next(both), Some(0));
    let expected = |queue: usize| if queue == 0 { Head::Expected } else { Head::Ready(10) };
    for _ in 0..100 {
        assert_eq!(round_robin.next(expected), Some(1));
    }
    let mut served = 0;
    while round_robin.next(both) == Some(0) {
        served += 1;
    }
    assert!((10..=20).contains(&served), "what was left, and a quantum: {served}");
}
