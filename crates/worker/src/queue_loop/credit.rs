//! How many tasks a worker may hold of each queue: enough to keep all its places busy, and hardly more.
//!
//! AMQP's prefetch counts all that is not acknowledged, tasks at work included, and cannot be changed while a consumer runs. So
//! each queue has a *base* consumer with a prefetch of 1, and further consumers of the same queue are opened and cancelled:
//!
//! - A queue is *exhausted* when nothing of it is at hand for the next free place, although it has had as many tasks in hand as its
//!   consumers may hold, so that more may wait. It is lent credit, as much again as it has, out of a pool.
//! - The pool is the number of places and [`AT_HAND`] more, at most twice the places. So one lone tenant gets all places, and a
//!   worker whose places are full holds at most queues + [`AT_HAND`] tasks that it has not begun.
//! - When the pool is empty, an exhausted queue that has less than its share gets some back: one consumer of the queue that is most
//!   above its own share is cancelled. Its tasks are worked off; as they end, their credit returns. A share is a part of the
//!   pool by lane weight, the same for each queue of a lane that has tasks in hand. Credit that lies idle is taken first, because
//!   an idle queue's share is nothing.
//! - Who has its share or more borrows only what nobody else could claim: what is missing to the shares of queues that use all
//!   that they have stays in the pool.
//! - Between two such cancellations a quarter as many tasks begin as there are places: a queue with a task now and then costs a
//!   busy one little.
//!
//! Pure: it says what is to be opened and cancelled; [`consumers`](super::consumers) does it.

use std::collections::BTreeMap;

/// Credit beyond the number of places, so that a task is at hand when a place is free.
pub(crate) const AT_HAND: u16 = 8;

/// The number of a consumer; a queue's base consumer has the queue's number.
pub(crate) type ConsumerId = usize;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Open another consumer of a queue, with this prefetch.
    Lend { consumer: ConsumerId, queue: usize, prefetch: u16 },
    /// Cancel a consumer; what it has received is worked off.
    TakeBack { consumer: ConsumerId },
}

/// What a worker may hold, and holds, of each queue.
#[derive(Clone, Debug)]
pub(crate) struct Credit {
    places: u32,
    pool: u32,
    /// The lane of each queue, as an index into `weights`.
    lanes: Vec<usize>,
    weights: Vec<u32>,
    consumers: BTreeMap<ConsumerId, Held>,
    next_consumer: ConsumerId,
    /// Of each queue, whether it has used all its credit since it was last lent some or was idle.
    has_used_all: Vec<bool>,
    /// Tasks begun since credit was last taken back.
    begun: u32,
}

/// What came by one consumer.
#[derive(Clone, Copy, Debug)]
struct Held {
    queue: usize,
    prefetch: u32,
    /// Received and not settled.
    in_hand: u32,
    /// Of these, those that have begun.
    at_work: u32,
    state: State,
}

/// The life of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first of its queue, which stays.
    Base,
    /// Lent.
    Lent,
    /// Cancelled; the broker may have sent some tasks before.
    Cancelled,
    /// Cancelled, and all that was sent is received.
    Drained,
}

impl Held {
    fn new(queue: usize, prefetch: u32, state: State) -> Self {
        Self { queue, prefetch, in_hand: 0, at_work: 0, state }
    }

    /// What it takes of the pool.
    fn lent(&self) -> u32 {
        match self.state {
            State::Base => 0,
            State::Lent | State::Cancelled => self.prefetch.max(self.in_hand),
            State::Drained => self.in_hand,
        }
    }

    /// What it may hold.
    fn credit(&self) -> u32 {
        if self.goes_on() { self.prefetch } else { 0 }
    }

    fn goes_on(&self) -> bool {
        matches!(self.state, State::Base | State::Lent)
    }
}

/// One queue's part.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    credit: u32,
    lent: u32,
    in_hand: u32,
    unbegun: u32,
    share: u32,
    has_used_all: bool,
}

impl Part {
    fn is_exhausted(&self) -> bool {
        self.unbegun == 0 && self.has_used_all
    }

    /// What it could claim.
    fn claim(&self) -> u32 {
        if self.has_used_all { self.share.saturating_sub(self.lent) } else { 0 }
    }

    fn above_share(&self) -> i64 {
        i64::from(self.lent) - i64::from(self.share)
    }
}

impl Credit {
    /// For queues of these lanes, whose weights are given, and so many places. The base consumers are open.
    pub(crate) fn new(lanes: Vec<usize>, weights: Vec<u32>, places: u16) -> Self {
        let places = places.max(1);
        let base = |queue| Held::new(queue, 1, State::Base);
        Self {
            pool: u32::from(places) + u32::from(places.min(AT_HAND)),
            places: places.into(),
            consumers: (0..lanes.len()).map(|queue| (queue, base(queue))).collect(),
            next_consumer: lanes.len(),
            has_used_all: vec![false; lanes.len()],
            weights: weights.into_iter().map(|weight| weight.max(1)).collect(),
            lanes,
            begun: u32::MAX,
        }
    }

    /// A consumer's delivery was received.
    pub(crate) fn received(&mut self, consumer: ConsumerId) {
        self.change(consumer, |held| held.in_hand += 1);
        self.note_use(consumer);
    }

    /// A received task begins.
    pub(crate) fn begun(&mut self, consumer: ConsumerId) {
        self.begun = self.begun.saturating_add(1);
        self.change(consumer, |held| held.at_work += 1);
    }

    /// A task that has begun is settled.
    pub(crate) fn settled(&mut self, consumer: ConsumerId) {
        self.change(consumer, |held| {
            held.in_hand = held.in_hand.saturating_sub(1);
            held.at_work = held.at_work.saturating_sub(1);
        });
        self.note_use(consumer);
    }

    /// Notes whether a consumer's queue has used all its credit, or is idle.
    fn note_use(&mut self, consumer: ConsumerId) {
        let Some(queue) = self.consumers.get(&consumer).map(|held| held.queue) else { return };
        let of_queue = self.consumers.values().filter(|held| held.queue == queue);
        let (in_hand, credit) =
            of_queue.fold((0, 0), |(in_hand, credit), held| (in_hand + held.in_hand, credit + held.credit()));
        self.has_used_all[queue] = in_hand > 0 && (self.has_used_all[queue] || in_hand >= credit);
    }

    /// A cancelled consumer has nothing more to hand out.
    pub(crate) fn drained(&mut self, consumer: ConsumerId) {
        self.change(consumer, |held| held.state = State::Drained);
    }

    /// Of each queue, how many of its tasks are in hand.
    pub(crate) fn in_hand(&self) -> Vec<u32> {
        let mut in_hand = vec![0; self.lanes.len()];
        for held in self.consumers.values() {
            in_hand[held.queue] += held.in_hand;
        }
        in_hand
    }

    /// What is to be done next; it counts as done.
    pub(crate) fn next_move(&mut self) -> Option<Move> {
        let parts = self.parts();
        let exhausted = parts.iter().enumerate().filter(|(_, part)| part.is_exhausted());
        let (queue, part) = exhausted.min_by_key(|(queue, part)| (part.above_share(), *queue))?;
        let free = self.pool.saturating_sub(self.lent());
        let claimed: u32 = match part.above_share() {
            ..0 => 0,
            _ => parts.iter().map(Part::claim).fold(0, u32::saturating_add),
        };
        match (free.saturating_sub(claimed), free) {
            (0, 0) => self.take_back(&parts, part),
            (0, _) => None,
            (free, _) => Some(self.lend(queue, part.credit.clamp(1, free))),
        }
    }

    fn lend(&mut self, queue: usize, amount: u32) -> Move {
        let consumer = self.next_consumer;
        self.next_consumer += 1;
        self.has_used_all[queue] = false;
        // The pool is no larger than 16 bits hold, and neither is what is lent of it.
        let prefetch = u16::try_from(amount).unwrap_or(u16::MAX);
        self.consumers.insert(consumer, Held::new(queue, prefetch.into(), State::Lent));
        Move::Lend { consumer, queue, prefetch }
    }

    fn take_back(&mut self, parts: &[Part], asking: &Part) -> Option<Move> {
        let is_returning = !self.consumers.values().all(Held::goes_on);
        if asking.above_share() >= 0 || is_returning || self.begun < self.places / 4 {
            return None;
        }
        let (richest, _) = parts
            .iter()
            .enumerate()
            .filter(|(_, part)| part.above_share() > 0)
            .max_by_key(|(_, part)| part.above_share())?;
        let lent = self.consumers.iter_mut().filter(|(_, held)| held.queue == richest && held.state == State::Lent);
        let (consumer, held) = lent.min_by_key(|(_, held)| held.prefetch)?;
        held.state = State::Cancelled;
        self.begun = 0;
        Some(Move::TakeBack { consumer: *consumer })
    }

    /// Changes what is held of a consumer, and forgets it once nothing is left of it.
    fn change(&mut self, consumer: ConsumerId, change: impl FnOnce(&mut Held)) {
        let Some(held) = self.consumers.get_mut(&consumer) else { return };
        change(held);
        if held.state == State::Drained && held.in_hand == 0 {
            self.consumers.remove(&consumer);
        }
    }

    fn lent(&self) -> u32 {
        self.consumers.values().map(Held::lent).sum()
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts = vec![Part::default(); self.lanes.len()];
        for held in self.consumers.values() {
            let part = &mut parts[held.queue];
            part.in_hand += held.in_hand;
            part.unbegun += held.in_hand.saturating_sub(held.at_work);
            part.lent += held.lent();
            part.credit += held.credit();
        }
        for (part, has_used_all) in parts.iter_mut().zip(&self.has_used_all) {
            part.has_used_all = *has_used_all;
        }
        let active = |lane: usize| {
            u32::try_from(
                (0..parts.len()).filter(|queue| self.lanes[*queue] == lane && parts[*queue].in_hand > 0).count(),
            )
            .unwrap_or(u32::MAX)
        };
        let counts: Vec<u32> = (0..self.weights.len()).map(active).collect();
        let weights = self.weights.iter().zip(&counts).filter(|(_, count)| **count > 0);
        let total = weights.fold(0u64, |total, (weight, _)| total + u64::from(*weight)).max(1);
        for (part, lane) in parts.iter_mut().zip(&self.lanes) {
            if part.in_hand > 0 {
                let share = u64::from(self.pool) * u64::from(self.weights[*lane]) / (total * u64::from(counts[*lane]));
                part.share = u32::try_from(share).unwrap_or(u32::MAX);
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests;
