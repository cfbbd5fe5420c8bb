//! Deficit round robin (Shreedhar and Varghese, 1995): queues take turns, and what each begins in its turns costs the same.
//!
//! In its turn a queue is granted a *quantum* and begins tasks as long as their cost fits; what is left over it keeps for its
//! next turn. Two things differ from the paper. The quantum is no constant: of each round it is the largest cost that was
//! begun in the round before or is at hand when the round begins, so that every queue with a task begins one in each round, and
//! small tasks among themselves take turns one by one. And a queue whose next task is [expected](Head::Expected), because all
//! that a worker may hold of it is at work, keeps up to a quantum, while an idle one loses what it had.
//!
//! Pure: it knows neither brokers nor time.

/// The next task of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// It is at hand, and costs so much, at least 1.
    Ready(u64),
    /// Others of this queue are at work, and the broker may deliver the next one when one of them ends.
    Expected,
    /// There is none.
    Absent,
}

impl Head {
    fn cost(self) -> Option<u64> {
        match self {
            Self::Ready(cost) => Some(cost.max(1)),
            Self::Expected | Self::Absent => None,
        }
    }
}

/// Whose turn it is.
#[derive(Clone, Debug)]
pub(crate) struct DeficitRoundRobin {
    /// What each queue may still begin in its turn, in units of cost.
    deficits: Vec<u64>,
    /// Whose turn it is.
    current: usize,
    /// Whether it has had its quantum in this turn.
    is_granted: bool,
    /// Of the present round; 0 before the first.
    quantum: u64,
    /// The largest cost that was begun in the present round.
    largest: u64,
}

impl DeficitRoundRobin {
    /// Turns of so many queues, at least one.
    pub(crate) fn new(queues: usize) -> Self {
        Self { deficits: vec![0; queues.max(1)], current: 0, is_granted: false, quantum: 0, largest: 0 }
    }

    /// Chooses the queue whose task begins next; `None` if no queue has one at hand.
    pub(crate) fn next(&mut self, head: impl Fn(usize) -> Head) -> Option<usize> {
        let queues = self.deficits.len();
        (0..queues).any(|queue| head(queue).cost().is_some()).then_some(())?;
        if self.quantum == 0 {
            self.begin_round(&head);
        }
        // A whole round after the one that goes on serves at least one: its quantum is no less than any cost at hand.
        loop {
            let queue = self.current;
            match head(queue) {
                Head::Expected => self.deficits[queue] = self.deficits[queue].min(self.quantum),
                Head::Absent => self.deficits[queue] = 0,
                Head::Ready(cost) => {
                    let cost = cost.max(1);
                    if !std::mem::replace(&mut self.is_granted, true) {
                        self.deficits[queue] = self.deficits[queue].saturating_add(self.quantum);
                    }
                    if let Some(rest) = self.deficits[queue].checked_sub(cost) {
                        self.deficits[queue] = rest;
                        self.largest = self.largest.max(cost);
                        return Some(queue);
                    }
                }
            }
            self.advance(&head);
        }
    }

    fn advance(&mut self, head: &impl Fn(usize) -> Head) {
        self.is_granted = false;
        self.current += 1;
        if self.current == self.deficits.len() {
            self.current = 0;
            self.begin_round(head);
        }
    }

    fn begin_round(&mut self, head: &impl Fn(usize) -> Head) {
        let at_hand = (0..self.deficits.len()).filter_map(|queue| head(queue).cost()).max();
        self.quantum = at_hand.unwrap_or(1).max(std::mem::take(&mut self.largest));
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
