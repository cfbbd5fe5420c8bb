//! Several queues served by one worker, each by its weight, so that none starves.

use std::task::Poll;

use echogen_ports::{Broker, Consumer, Delivery, Fault, QueueName};
use echogen_protocol::{Lane, Partitions, StageName};
use futures::future::{self, FutureExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

    /// The queues of a stage with their weights.
    pub(crate) fn queues(self, stage: StageName, partitions: Partitions) -> Vec<(QueueName, u32)> {
        let weight = |queue: &QueueName| queue.place().map_or(1, |(_, lane, _)| self.of(lane));
        let queues = stage.queues(partitions).into_iter().chain(stage.unsplit()).chain(stage.returned());
        queues.map(|queue| (queue.clone(), weight(&queue))).collect()
    }
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

    /// Chooses among those that are ready; `None` if none is.
    pub(crate) fn next(&mut self, is_ready: impl Fn(usize) -> bool) -> Option<usize> {
        let ready: Vec<usize> = (0..self.weights.len()).filter(|index| is_ready(*index)).collect();
        let total: i64 = ready.iter().map(|index| self.weights[*index]).sum();
        for index in &ready {
            self.credits[*index] += self.weights[*index];
        }
        // The first of equals, so that the order of the queues decides.
        let chosen = ready.into_iter().max_by_key(|index| (self.credits[*index], std::cmp::Reverse(*index)))?;
        self.credits[chosen] -= total;
        Some(chosen)
    }
}

/// Deliveries of one of several queues that wait at hand while as many as may be are at work.
const AT_HAND: u16 = 8;

/// The consumers of a worker's queues.
pub(crate) struct Consumers {
    all: Vec<Box<dyn Consumer>>,
    /// Of each queue, what has come and waits for its turn.
    heads: Vec<Option<Delivery>>,
    round_robin: WeightedRoundRobin,
    /// Why a consumer has ended, if one has; reported once all its deliveries are handed out.
    end: Option<Result<(), Fault>>,
}

impl Consumers {
    /// Starts to consume every queue, with room for `concurrency` tasks at work.
    pub(crate) async fn start(
        broker: &dyn Broker,
        queues: &[(QueueName, u32)],
        concurrency: u16,
    ) -> Result<Self, Fault> {
        // With several queues some deliveries wait at hand: otherwise the queue that was just served would look empty
        // for as long as the broker takes to send the next, and lose its turn. Not many: a job may hold its picture.
        let prefetch = if queues.len() > 1 { concurrency.saturating_add(AT_HAND) } else { concurrency };
        let mut all = Vec::with_capacity(queues.len());
        for (queue, _) in queues {
            all.push(broker.consume(queue, prefetch).await?);
        }
        let heads = queues.iter().map(|_| None).collect();
        Ok(Self {
            all,
            heads,
            round_robin: WeightedRoundRobin::new(queues.iter().map(|(_, weight)| *weight)),
            end: None,
        })
    }

    /// Waits for the next delivery and says of which queue it is; `None` when a consumer has ended. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Delivery)>, Fault> {
        if let [only] = &mut self.all[..] {
            return Ok(only.receive().await?.map(|delivery| (0, delivery)));
        }
        if self.end.is_none() {
            self.look().await;
        }
        let heads = &mut self.heads;
        match self.round_robin.next(|index| heads[index].is_some()) {
            Some(index) => Ok(heads[index].take().map(|delivery| (index, delivery))),
            None => self.end.take().unwrap_or(Ok(())).map(|()| None),
        }
    }

    /// Takes nothing more, and puts back what waits for its turn. What is at work can still be settled.
    pub(crate) async fn stop(&mut self) {
        future::join_all(self.all.iter_mut().map(|consumer| consumer.stop())).await;
        self.heads.iter_mut().for_each(|head| *head = None);
    }

    /// Asks every consumer that has nothing waiting, and returns once any has, or has ended.
    async fn look(&mut self) {
        let mut has_any = self.heads.iter().any(Option::is_some);
        let mut end = None;
        let mut receiving: Vec<_> = self
            .all
            .iter_mut()
            .zip(&mut self.heads)
            .filter(|(_, head)| head.is_none())
            .map(|(consumer, head)| (consumer.receive(), head))
            .collect();
        future::poll_fn(|context| {
            for (receiving, head) in receiving.iter_mut().filter(|(_, head)| head.is_none()) {
                match receiving.poll_unpin(context) {
                    Poll::Pending => continue,
                    Poll::Ready(Ok(Some(delivery))) => **head = Some(delivery),
                    Poll::Ready(Ok(None)) => end = Some(Ok(())),
                    Poll::Ready(Err(error)) => end = Some(Err(error)),
                }
                has_any = true;
                if end.is_some() {
                    break;
                }
            }
            if has_any { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        drop(receiving);
        self.end = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(round_robin: &mut WeightedRoundRobin, rounds: usize, is_ready: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut counts = vec![0; round_robin.weights.len()];
        for _ in 0..rounds {
            counts[round_robin.next(&is_ready).unwrap()] += 1;
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
        assert_eq!(round_robin.next(|_| false), None);
    }

    #[test]
    fn a_weight_of_zero_starves_nobody() {
        assert_eq!(counts(&mut WeightedRoundRobin::new([3, 0]), 400, |_| true), [300, 100]);
    }
}
