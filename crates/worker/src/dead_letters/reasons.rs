//! Counts dead letters by queue and reason.

use std::{cmp::Reverse, collections::BTreeMap};

use echogen_protocol::QueueName;

use super::DeadLetter;

/// Reasons that are counted apart; a reason that names its job may be as frequent as letters.
const MAX_REASONS: usize = 1_000;

/// The count of one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasonCount {
    /// The queue; `None` for the sum of those that are not counted apart.
    pub queue: Option<QueueName>,
    /// The reason.
    pub reason: String,
    /// How many letters there are.
    pub count: u64,
}

/// Counts of reasons, in bounded memory.
#[derive(Clone, Debug, Default)]
pub struct ReasonCounts {
    counts: BTreeMap<(QueueName, String), u64>,
    others: u64,
}

impl ReasonCounts {
    /// Counts a letter.
    pub fn add(&mut self, letter: &DeadLetter) {
        let key = (letter.queue.clone(), letter.reason().to_owned());
        let is_full = self.counts.len() >= MAX_REASONS;
        match self.counts.get_mut(&key) {
            Some(count) => *count += 1,
            None if is_full => self.others += 1,
            None => drop(self.counts.insert(key, 1)),
        }
    }

    /// Returns the counts, the most frequent first.
    pub fn sorted(&self) -> Vec<ReasonCount> {
        let counted = self.counts.iter().map(|((queue, reason), count)| ReasonCount {
            queue: Some(queue.clone()),
            reason: reason.clone(),
            count: *count,
        });
        let mut counts: Vec<ReasonCount> = counted.collect();
        counts.sort_by_key(|count| Reverse(count.count));
        if self.others > 0 {
            counts.push(ReasonCount { queue: None, reason: "other reasons".to_owned(), count: self.others });
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use echogen_ports::Message;
    use echogen_protocol::{Lane, StageName};

    use super::*;

    #[test]
    fn reasons_are_counted_in_bounded_memory() {
        let queue = QueueName::of(StageName::Sampler, Lane::Standard);
        let letter = |reason: &str| DeadLetter::new(&queue, Message::default().parked(&queue, reason));
        let mut counts = ReasonCounts::default();
        for number in 0..3_000 {
            counts.add(&letter("often"));
            counts.add(&letter(&format!("job {number} is unlucky")));
        }
        let sorted = counts.sorted();
        assert_eq!((sorted[0].reason.as_str(), sorted[0].count), ("often", 3_000));
        let others = sorted.last().unwrap();
        assert_eq!((others.queue.as_ref(), others.count), (None, 2_001));
        assert_eq!(sorted.iter().map(|count| count.count).sum::<u64>(), 6_000);
    }
}
