//! Several queues served by one worker: lanes by weight, and a lane's partitions in turn, so that none starves.

use std::ops::Range;

use echogen_ports::QueueName;
use echogen_protocol::Lane;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::deficit_round_robin::{DeficitRoundRobin, Head};

/// How many jobs of each lane are begun in turn while all lanes have some waiting. What a lane does not use, the others
/// get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LaneWeights {
    /// Weight of `interactive`.
    #[schemars(range(min = 1))]
    pub interactive: u32,
    /// Weight of `standard`.
    #[schemars(range(min = 1))]
    pub standard: u32,
    /// Weight of `bulk`.
    #[schemars(range(min = 1))]
    pub bulk: u32,
}

impl Default for LaneWeights {
    fn default() -> Self {
        Self { interactive: 8, standard: 4, bulk: 1 }
    }
}

impl LaneWeights {
    /// The weight of a lane.
    pub fn of(self, lane: Lane) -> u32 {
        match lane {
            Lane::Interactive => self.interactive,
            Lane::Standard => self.standard,
            Lane::Bulk => self.bulk,
        }
    }

    /// Queues that lie lane by lane, with their lanes' weights. What belongs to no lane stands apart, with the least weight.
    pub(crate) fn queues(self, queues: Vec<QueueName>) -> Vec<LaneQueues> {
        let mut lanes: Vec<(Option<Lane>, LaneQueues)> = Vec::new();
        for queue in queues {
            let lane = queue.place().map(|(_, lane, _)| lane);
            match lanes.last_mut().filter(|(last, _)| lane.is_some() && *last == lane) {
                Some((_, of)) => of.queues.push(queue),
                None => {
                    let weight = lane.map_or(1, |lane| self.of(lane));
                    lanes.push((lane, LaneQueues { weight, queues: vec![queue] }));
                }
            }
        }
        lanes.into_iter().map(|(_, of)| of).collect()
    }
}

/// The queues of one lane, or one queue that belongs to none.
#[derive(Clone, Debug)]
pub(crate) struct LaneQueues {
    pub(crate) weight: u32,
    pub(crate) queues: Vec<QueueName>,
}

/// Smooth weighted round robin: among those that are ready, each is chosen as often as its weight says, and evenly.
#[derive(Debug)]
pub(crate) struct WeightedRoundRobin {
    weights: Vec<i64>,
    credits: Vec<i64>,
}

impl WeightedRoundRobin {
    /// One weight for each; none is below 1, for then it would starve.
    pub(crate) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<i64> = weights.into_iter().map(|weight| i64::from(weight.max(1))).collect();
        Self { credits: vec![0; weights.len()], weights }
    }

    /// Chooses among those that are ready; `None` if none is. One that expects a task saves up for it, up to a round.
    pub(crate) fn next(&mut self, claim: impl Fn(usize) -> Claim) -> Option<usize> {
        let claims: Vec<Claim> = (0..self.weights.len()).map(claim).collect();
        let round: i64 = self.weights.iter().sum();
        let mut total = 0;
        for (index, claim) in claims.iter().enumerate() {
            let saves = *claim == Claim::Expected && self.credits[index] < round;
            if *claim == Claim::Ready || saves {
                self.credits[index] += self.weights[index];
                total += self.weights[index];
            }
        }
        let ready = (0..claims.len()).filter(|index| claims[*index] == Claim::Ready);
        // The first of equals, so that the order of the queues decides.
        let chosen = ready.max_by_key(|index| (self.credits[*index], std::cmp::Reverse(*index)))?;
        self.credits[chosen] -= total;
        Some(chosen)
    }
}

/// What a lane has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A task at hand.
    Ready,
    /// Tasks at work, and perhaps another one that the broker delivers when one of them ends.
    Expected,
    /// Nothing.
    Absent,
}

impl Claim {
    fn of(heads: &[Head]) -> Self {
        if heads.iter().any(|head| matches!(head, Head::Ready(_))) {
            Self::Ready
        } else if heads.contains(&Head::Expected) {
            Self::Expected
        } else {
            Self::Absent
        }
    }
}

/// Whose task begins next: lanes by weight, and of a lane's queues each in its turn.
#[derive(Debug)]
pub(crate) struct Turns {
    weighted: WeightedRoundRobin,
    /// Of each lane, which of all queues are its own, and their turns.
    lanes: Vec<(Range<usize>, DeficitRoundRobin)>,
}

impl Turns {
    /// The queues are numbered through, lane by lane.
    pub(crate) fn new(lanes: &[LaneQueues]) -> Self {
        let mut end = 0;
        let turns = lanes.iter().map(|lane| {
            let queues = end..end + lane.queues.len();
            end = queues.end;
            (queues, DeficitRoundRobin::new(lane.queues.len()))
        });
        Self { lanes: turns.collect(), weighted: WeightedRoundRobin::new(lanes.iter().map(|lane| lane.weight)) }
    }

    /// Chooses a queue that has a task at hand; `None` if none has.
    pub(crate) fn next(&mut self, heads: &[Head]) -> Option<usize> {
        let lanes = &self.lanes;
        let lane = self.weighted.next(|lane| Claim::of(&heads[lanes[lane].0.clone()]))?;
        let (queues, turns) = &mut self.lanes[lane];
        turns.next(|queue| heads[queues.start + queue]).map(|queue| queues.start + queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready_if(is_ready: bool) -> Claim {
        if is_ready { Claim::Ready } else { Claim::Absent }
    }

    fn counts(round_robin: &mut WeightedRoundRobin, rounds: usize, is_ready: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut counts = vec![0; round_robin.weights.len()];
        for _ in 0..rounds {
            counts[round_robin.next(|index| ready_if(is_ready(index))).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn under_full_load_each_gets_its_weight_and_the_least_is_not_left_waiting() {
        let mut round_robin = WeightedRoundRobin::new([8, 4, 1]);
        assert_eq!(counts(&mut round_robin, 1_300, |_| true), [800, 400, 100]);
        for _ in 0..100 {
            assert_eq!(counts(&mut round_robin, 13, |_| true), [8, 4, 1], "in every round of thirteen");
        }
    }

    #[test]
    fn what_an_idle_one_does_not_use_the_others_share_by_weight() {
        let mut round_robin = WeightedRoundRobin::new([8, 4, 1]);
        assert_eq!(counts(&mut round_robin, 500, |index| index != 0), [0, 400, 100]);
        assert_eq!(counts(&mut round_robin, 10, |index| index == 2), [0, 0, 10]);
        assert_eq!(counts(&mut round_robin, 130, |_| true), [80, 40, 10], "nothing is owed to the one that idled");
        assert_eq!(round_robin.next(|_| Claim::Absent), None);
    }

    #[test]
    fn who_expects_a_task_gets_its_share_later_and_no_more() {
        let mut round_robin = WeightedRoundRobin::new([8, 4, 1]);
        // The first lane's next task comes only after each second choice.
        let mut counts = [0; 3];
        for round in 0..1_300 {
            let first = if round % 2 == 0 { Claim::Ready } else { Claim::Expected };
            counts[round_robin.next(|index| if index == 0 { first } else { Claim::Ready }).unwrap()] += 1;
        }
        assert_eq!(counts[0], 650, "whenever it can");
        let waits = |index| if index == 0 { Claim::Expected } else { Claim::Ready };
        (0..1_000).for_each(|_| assert_ne!(round_robin.next(waits), Some(0)));
        let first = (0..100).take_while(|_| round_robin.next(|_| Claim::Ready) == Some(0)).count();
        assert!(first <= 8, "saved up: {first}");
    }

    #[test]
    fn a_weight_of_zero_starves_nobody() {
        assert_eq!(counts(&mut WeightedRoundRobin::new([3, 0]), 400, |_| true), [300, 100]);
    }
}
