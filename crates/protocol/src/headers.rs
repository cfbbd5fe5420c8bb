//! Headers of a task's message: text that a broker can show and a person can read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ContentHash, TraceContext, limits, text::one_line, validate};

/// The headers of a task's message. Unreadable ones, and texts that are too long, count as absent: a task is never refused
/// for its headers. Texts for people are put on one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskHeaders {
    /// Failed attempts of the stage so far.
    pub failures: u32,
    /// When the task was first published.
    pub first_seen: Option<Timestamp>,
    /// When the first task of its job was first published; absent in that task, where it is [`Self::first_seen`].
    pub accepted: Option<Timestamp>,
    /// The last failure, in one line.
    pub last_error: Option<String>,
    /// The trace, and the span of the sender.
    pub traceparent: Option<TraceContext>,
    /// The job's id, for people who inspect a queue.
    pub job: Option<String>,
    /// Where the final event is also sent.
    pub reply_to: Option<ReplyTo>,
    /// The settings from which the sender computed product keys, where the receiver must have the same.
    ///
    /// A header and not a field of the task: receivers of earlier versions refuse tasks with unknown fields.
    pub settings: Option<String>,
    /// What the job asked for, as its client wrote it; see [`Job::content`](crate::Job::content).
    pub content: Option<ContentHash>,
    /// What the task costs its stage, compared with the others: pictures in the sampler, 1 elsewhere.
    pub cost: Option<u32>,
    /// How large each of its pictures is, in thousands of pixels, if its job says so.
    pub kilopixels: Option<u32>,
    /// Of a dead letter: the stage that parked it.
    pub stage: Option<String>,
    /// Of a dead letter: how often the broker had delivered the task before.
    pub redeliveries: u32,
}

/// The queue that a job's final event is sent to, as the client requested (AMQP's `reply_to` and `correlation_id`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The client's queue.
    pub queue: String,
    /// The client's own identifier, returned unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

impl ReplyTo {
    /// The header that carries [`ReplyTo::queue`]; an AMQP adapter maps it to the property of that name.
    pub const QUEUE_HEADER: &'static str = "reply-to";

    /// The header that carries [`ReplyTo::correlation_id`].
    pub const CORRELATION_HEADER: &'static str = "correlation-id";

    fn from_map(map: &BTreeMap<String, String>) -> Option<Self> {
        let queue = map.get(Self::QUEUE_HEADER).filter(|queue| !queue.is_empty() && is_short(queue))?.clone();
        Some(Self { queue, correlation_id: map.get(Self::CORRELATION_HEADER).filter(|id| is_short(id)).cloned() })
    }
}

fn is_short(text: &str) -> bool {
    text.len() <= limits::MAX_HEADER_BYTES
}

const FAILURES: &str = "echogen-failures";
const FIRST_SEEN: &str = "echogen-first-seen";
const ACCEPTED: &str = "echogen-accepted";
const LAST_ERROR: &str = "echogen-last-error";
const JOB: &str = "echogen-job";
const TRACEPARENT: &str = "traceparent";
const SETTINGS: &str = "echogen-settings";
const CONTENT: &str = "echogen-content";
const COST: &str = "echogen-cost";
const KILOPIXELS: &str = "echogen-kilopixels";
const STAGE: &str = "echogen-stage";
const REDELIVERIES: &str = "echogen-redeliveries";

/// The size of a picture whose job leaves it to the bundle, in thousands of pixels: that of the published bundle's default.
const SIZE_UNKNOWN: u32 = 1_000;

impl TaskHeaders {
    /// The header that carries [`TaskHeaders::traceparent`].
    pub const TRACEPARENT_HEADER: &'static str = TRACEPARENT;

    /// The cost in a message's headers, at least 1.
    pub fn cost_in(map: &BTreeMap<String, String>) -> u32 {
        map.get(COST).and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
    }

    /// What a task takes of its tenant's share: the [cost](Self::cost_in) times the thousands of pixels of each picture. Tasks
    /// that do not name a size have one, so compared with each other they cost the same per picture.
    pub fn work_in(map: &BTreeMap<String, String>) -> u64 {
        let kilopixels: Option<u32> = map.get(KILOPIXELS).and_then(|text| text.parse().ok());
        u64::from(Self::cost_in(map)) * u64::from(kilopixels.unwrap_or(SIZE_UNKNOWN).max(1))
    }

    /// The names of all headers.
    pub const NAMES: [&'static str; 14] = [
        FAILURES,
        FIRST_SEEN,
        ACCEPTED,
        LAST_ERROR,
        TRACEPARENT,
        JOB,
        ReplyTo::QUEUE_HEADER,
        ReplyTo::CORRELATION_HEADER,
        SETTINGS,
        CONTENT,
        COST,
        KILOPIXELS,
        STAGE,
        REDELIVERIES,
    ];

    /// Reads headers.
    pub fn from_map(map: &BTreeMap<String, String>) -> Self {
        let line = |name| map.get(name).map(|text| one_line(text));
        let number = |name| map.get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Self {
            failures: number(FAILURES),
            first_seen: map.get(FIRST_SEEN).and_then(|text| text.parse().ok()),
            accepted: map.get(ACCEPTED).and_then(|text| text.parse().ok()),
            last_error: line(LAST_ERROR),
            traceparent: map.get(TRACEPARENT).and_then(|text| text.parse().ok()),
            job: map.get(JOB).filter(|id| validate::id(id).is_ok()).cloned(),
            reply_to: ReplyTo::from_map(map),
            // Compared, not read by people.
            settings: map.get(SETTINGS).filter(|text| is_short(text)).cloned(),
            content: map.get(CONTENT).and_then(|text| text.parse().ok()),
            cost: map.get(COST).and_then(|text| text.parse().ok()),
            kilopixels: map.get(KILOPIXELS).and_then(|text| text.parse().ok()),
            stage: line(STAGE),
            redeliveries: number(REDELIVERIES),
        }
    }

    /// Writes headers; absent ones are left out.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let count = |number: u32| (number > 0).then(|| number.to_string());
        let entries = [
            (FAILURES, count(self.failures)),
            (FIRST_SEEN, self.first_seen.map(|time| time.to_string())),
            (ACCEPTED, self.accepted.map(|time| time.to_string())),
            (LAST_ERROR, self.last_error.clone()),
            (TRACEPARENT, self.traceparent.map(|trace| trace.to_string())),
            (JOB, self.job.clone()),
            (ReplyTo::QUEUE_HEADER, self.reply_to.as_ref().map(|reply| reply.queue.clone())),
            (ReplyTo::CORRELATION_HEADER, self.reply_to.as_ref().and_then(|reply| reply.correlation_id.clone())),
            (SETTINGS, self.settings.clone()),
            (CONTENT, self.content.map(|content| content.to_string())),
            (COST, self.cost.map(|cost| cost.to_string())),
            (KILOPIXELS, self.kilopixels.map(|size| size.to_string())),
            (STAGE, self.stage.clone()),
            (REDELIVERIES, count(self.redeliveries)),
        ];
        entries.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_way() {
        let headers = TaskHeaders {
            failures: 3,
            first_seen: Some(Timestamp::UNIX_EPOCH),
            accepted: Some(Timestamp::UNIX_EPOCH),
            last_error: Some("store is full".to_owned()),
            traceparent: Some(TraceContext::new(1, 2)),
            job: Some("one".to_owned()),
            reply_to: Some(ReplyTo { queue: "answers".to_owned(), correlation_id: Some("7".to_owned()) }),
            settings: Some("detector=ab threshold 0.3".to_owned()),
            content: Some(ContentHash::of(b"job")),
            cost: Some(64),
            kilopixels: Some(262),
            stage: Some("sampler".to_owned()),
            redeliveries: 2,
        };
        assert_eq!(TaskHeaders::from_map(&headers.to_map()), headers);
        assert_eq!(TaskHeaders::from_map(&BTreeMap::new()), TaskHeaders::default());
        assert!(TaskHeaders::default().to_map().is_empty());
    }

    #[test]
    fn work_is_pictures_times_pixels() {
        let work = |cost: Option<u32>, kilopixels: Option<u32>| {
            TaskHeaders::work_in(&TaskHeaders { cost, kilopixels, ..TaskHeaders::default() }.to_map())
        };
        assert_eq!(work(Some(8), Some(262)), 8 * 262);
        assert_eq!(work(Some(8), None), 8 * work(None, None));
        assert_eq!(work(Some(u32::MAX), Some(u32::MAX)), u64::from(u32::MAX) * u64::from(u32::MAX));
        assert_eq!(work(Some(0), Some(0)), 1);
    }

    #[test]
    fn unreadable_headers_count_as_absent() {
        let unreadable =
            [(FAILURES, "many"), (FIRST_SEEN, "?"), (ACCEPTED, ""), (TRACEPARENT, "00-1-2-01"), (REDELIVERIES, "-1")];
        let map = unreadable.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        assert_eq!(TaskHeaders::from_map(&map), TaskHeaders::default());
    }
}
