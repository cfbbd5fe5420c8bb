//! One dead letter, and what is known of it.

use echogen_ports::{DEAD_LETTER_QUEUE, DEAD_LETTER_REASON, DEAD_LETTER_TIME, Message};
use echogen_protocol::{Job, QueueName, StageName, StageTask, TaskHeaders};
use jiff::Timestamp;

/// A dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The queue in which its task failed.
    pub queue: QueueName,
    /// Its headers and body.
    pub message: Message,
    /// The headers that every task has.
    pub headers: TaskHeaders,
    /// The id of its job, if one is readable.
    pub job: Option<String>,
}

impl DeadLetter {
    /// Reads a message from the dead-letter queue of `queue`.
    pub(super) fn new(queue: &QueueName, message: Message) -> Self {
        let headers = TaskHeaders::from_map(&message.headers);
        // The broker parks a message without this header; then the queue is one that stands for all that share it.
        let origin = message.headers.get(DEAD_LETTER_QUEUE).map(|name| QueueName(name.clone()));
        let origin = origin.filter(|origin| origin.place().is_some() && origin.dead_letters() == queue.dead_letters());
        let queue = origin.unwrap_or_else(|| queue.clone());
        // The headers of our own tasks name the job; a client's message is identified by its body.
        let job = headers.job.clone().or_else(|| id_in(&message.body));
        Self { queue, message, headers, job }
    }

    /// Returns why it was parked.
    pub fn reason(&self) -> &str {
        self.message.headers.get(DEAD_LETTER_REASON).map_or("the broker's own limit", String::as_str)
    }

    /// Returns the stage whose queue it failed in.
    pub fn stage(&self) -> Option<StageName> {
        let is_of =
            |stage: &StageName| stage.dead_lettered().iter().any(|of| of.dead_letters() == self.queue.dead_letters());
        StageName::ALL.into_iter().find(is_of)
    }

    /// Returns when it was parked; for letters of earlier versions, when the task was first published.
    pub fn since(&self) -> Option<Timestamp> {
        let parked = self.message.headers.get(DEAD_LETTER_TIME).and_then(|text| text.parse().ok());
        parked.or(self.headers.first_seen)
    }

    /// Returns how long it has been parked, in seconds; `None` if that is not known.
    pub fn age_seconds(&self, now: Timestamp) -> Option<u64> {
        // A clock that is behind the parking worker's gives no negative age.
        self.since().map(|since| u64::try_from(since.duration_until(now).as_secs()).unwrap_or(0))
    }
}

fn id_in(body: &[u8]) -> Option<String> {
    match Job::parse(body) {
        Ok(job) => Some(job.id.to_string()),
        Err(_) => Some(Job::unreadable_job(body)?.id.to_string()),
    }
    .filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use echogen_protocol::Lane;

    use super::*;

    #[test]
    fn a_letter_goes_back_to_the_queue_that_it_came_from() {
        let shared = QueueName("echogen.sample".to_owned());
        let queue = QueueName("echogen.sample.bulk.5".to_owned());
        let letter = DeadLetter::new(&shared, Message::default().parked(&queue, "no"));
        assert_eq!((letter.queue.clone(), letter.stage()), (queue, Some(StageName::Sampler)));
        // The broker's own letters have no such header, and a client may write anything into one.
        assert_eq!(DeadLetter::new(&shared, Message::default()).queue, shared);
        for other in [QueueName::of(StageName::Encoder, Lane::Bulk), QueueName("shop.mine".to_owned())] {
            let letter = DeadLetter::new(&shared, Message::default().parked(&other, "no"));
            assert_eq!((letter.queue.clone(), letter.stage()), (shared.clone(), Some(StageName::Sampler)), "{other}");
        }
    }
}
