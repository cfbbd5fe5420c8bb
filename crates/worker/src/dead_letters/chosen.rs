//! Which dead letters are chosen.

use std::{collections::BTreeSet, time::Duration};

use echogen_protocol::{QueueName, StageName};
use jiff::Timestamp;

use super::DeadLetter;

/// Which dead letters are chosen: those that meet every condition. Without any condition, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// Letters of one of these jobs; empty for those of any job.
    pub jobs: BTreeSet<String>,
    /// Letters of tasks that failed in one of these [queues](StageName::dead_lettered) or in one that shares its dead letters;
    /// empty for those of any queue.
    pub queues: BTreeSet<QueueName>,
    /// Letters of jobs of this tenant, whose ids are `TENANT.ID`.
    pub tenant: Option<String>,
    /// Letters whose reason contains this text, in upper or lower case.
    pub reason: Option<String>,
    /// Letters that have been parked for at least this long.
    pub older_than: Option<Duration>,
    /// At most so many, the oldest of each queue first.
    pub limit: Option<u64>,
}

impl Chosen {
    /// Returns the chosen queues, in the order of the stages.
    pub(super) fn queues(&self) -> Vec<QueueName> {
        let queues = StageName::ALL.into_iter().flat_map(StageName::dead_lettered);
        queues.filter(|queue| self.queues.is_empty() || self.queues.contains(queue)).collect()
    }

    /// Returns whether a letter meets the conditions; its queue is among the chosen ones.
    pub(super) fn has(&self, letter: &DeadLetter, now: Timestamp) -> bool {
        let is_of_job = || letter.job.as_ref().is_some_and(|job| self.jobs.contains(job));
        let is_of_tenant = |tenant: &String| {
            let id = letter.job.as_deref().unwrap_or_default();
            id.split_once('.').is_some_and(|(name, _)| name == tenant)
        };
        let has_reason = |text: &String| letter.reason().to_lowercase().contains(&text.to_lowercase());
        let is_old = |age: Duration| letter.age_seconds(now).is_some_and(|seconds| seconds >= age.as_secs());
        (self.jobs.is_empty() || is_of_job())
            && self.tenant.as_ref().is_none_or(is_of_tenant)
            && self.reason.as_ref().is_none_or(has_reason)
            && self.older_than.is_none_or(is_old)
    }
}

/// Returns the queues of a stage, or the queue of that name: as RabbitMQ shows it, with or without prefix and `.dead`.
pub fn queues_named(text: &str) -> Option<Vec<QueueName>> {
    if let Ok(stage) = text.parse::<StageName>() {
        return Some(stage.dead_lettered());
    }
    let name = text.strip_suffix(".dead").unwrap_or(text);
    let is_named = |queue: &QueueName| {
        let short = queue.as_str().trim_start_matches("echogen.");
        name == short || name.strip_suffix(short).is_some_and(|prefix| prefix.ends_with('.'))
    };
    let queue = StageName::ALL.into_iter().flat_map(StageName::dead_lettered).find(is_named)?;
    Some(vec![queue])
}

#[cfg(test)]
mod tests {
    use echogen_protocol::Lane;

    use super::*;

    #[test]
    fn a_queue_is_named_as_operators_see_it() {
        let sample = StageName::Sampler.dead_lettered();
        for name in ["sampler", "sample", "echogen.sample", "echogen.sample.dead", "prod.eu.sample", "sample.dead"] {
            assert_eq!(queues_named(name).as_ref(), Some(&sample), "{name}");
        }
        assert_eq!(queues_named("dispatcher").unwrap(), StageName::Dispatcher.dead_lettered());
        assert_eq!(queues_named("dispatch.bulk").unwrap(), [QueueName::of(StageName::Dispatcher, Lane::Bulk)]);
        for name in ["", "resample", "dispatch", "echogen", "bulk"] {
            assert_eq!(queues_named(name), None, "{name}");
        }
    }
}
