//! The one list of stages: their names, their queues by lane and partition, and the roles that run them.
//!
//! Everything that needs all stages walks this list: the broker's topology, metrics, health, the roles, the commands for
//! dead letters, and the tests.

use crate::{Lane, Partition, Partitions, names::named};

named! {
    /// The stages, in the order in which a job passes through them.
    StageName, "stage" {
        /// Validates a job, fetches its subject's picture, and skips stages whose product exists.
        Dispatcher = "dispatcher",
        /// Cuts the subject out.
        Segmenter = "segmenter",
        /// Encodes the subject.
        Encoder = "encoder",
        /// Makes the pictures.
        Sampler = "sampler",
        /// Calls the client's own server when the job has ended.
        Notifier = "notifier",
    }
}

/// The properties of a stage.
struct Entry {
    /// The second part of its queues' names, and the `stage` of its tasks' JSON.
    queue: &'static str,
    /// Whether it has a queue for each lane and partition; otherwise it has one.
    is_split: bool,
    /// What its tasks are about.
    takes: &'static str,
    /// See [`StageName::faces_clients`].
    faces_clients: bool,
}

impl StageName {
    const fn entry(self) -> Entry {
        match self {
            Self::Dispatcher => Entry { queue: "dispatch", is_split: true, takes: "jobs", faces_clients: true },
            Self::Segmenter => Entry { queue: "segment", is_split: true, takes: "pictures", faces_clients: false },
            Self::Encoder => Entry { queue: "encode", is_split: true, takes: "cut-outs", faces_clients: false },
            Self::Sampler => Entry { queue: "sample", is_split: true, takes: "encoded subjects", faces_clients: false },
            Self::Notifier => Entry { queue: "notify", is_split: false, takes: "ends of jobs", faces_clients: true },
        }
    }

    /// The lanes that have queues of their own at this stage; empty where all lanes share one queue.
    pub const fn lanes(self) -> &'static [Lane] {
        if self.entry().is_split { &Lane::ALL } else { &[] }
    }

    /// The queues to which the stage's tasks are published: lane by lane, and of each lane its partitions.
    pub fn queues(self, partitions: Partitions) -> Vec<QueueName> {
        let of_lane = |lane: &Lane| {
            let lane = *lane;
            partitions.all().map(move |partition| QueueName::in_partition(self, lane, partition))
        };
        match self.lanes() {
            [] => vec![QueueName::of(self, Lane::default())],
            lanes => lanes.iter().flat_map(of_lane).collect(),
        }
    }

    /// The queue of all lanes that senders of earlier versions publish to, and in which their tasks lie. It is consumed
    /// beside the others.
    pub fn unsplit(self) -> Option<QueueName> {
        let Entry { queue, is_split, .. } = self.entry();
        (is_split && self != Self::Dispatcher).then(|| QueueName(format!("echogen.{queue}")))
    }

    /// The queues that have dead letters of their own: of the dispatcher one for each lane, of the others one. They stand
    /// for all queues whose dead letters they share, and can be published to.
    pub fn dead_lettered(self) -> Vec<QueueName> {
        self.unsplit().map_or_else(|| self.queues(Partitions::ONE), |queue| vec![queue])
    }

    /// The queue of messages that the broker returns to the stage instead of delivering them: their time to live, which
    /// the client has set, is over, or they were delivered too often. Only clients' own messages can expire.
    pub fn returned(self) -> Option<QueueName> {
        (self == Self::Dispatcher).then(|| QueueName(format!("echogen.{}.returned", self.entry().queue)))
    }

    /// What its tasks contain, in words.
    pub const fn takes(self) -> &'static str {
        self.entry().takes
    }

    /// Whether the length of its queue depends on clients: they publish to it, or their servers must accept its
    /// messages. Such a queue has the intake's limits.
    pub const fn faces_clients(self) -> bool {
        self.entry().faces_clients
    }
}

named! {
    /// The roles: the processes that an installation starts and scales.
    RoleName, "role" {
        /// Runs the dispatcher and the notifier.
        Dispatcher = "dispatcher",
        /// Runs the segmenter.
        Segmenter = "segmenter",
        /// Runs the encoder.
        Encoder = "encoder",
        /// Runs the sampler.
        Sampler = "sampler",
        /// Serves the HTTP API and the console; it runs no stage.
        Gateway = "gateway",
    }
}

impl RoleName {
    /// The roles that run stages: every job needs all of them.
    pub const WORKERS: [Self; 4] = [Self::Dispatcher, Self::Segmenter, Self::Encoder, Self::Sampler];

    /// Their names, in the same order.
    pub const WORKER_NAMES: [&'static str; 4] =
        [Self::Dispatcher.as_str(), Self::Segmenter.as_str(), Self::Encoder.as_str(), Self::Sampler.as_str()];

    /// The stages that run in the process of this role. Callbacks are sent from the role that fetches pictures: no
    /// other role needs access to the internet.
    pub const fn stages(self) -> &'static [StageName] {
        match self {
            Self::Dispatcher => &[StageName::Dispatcher, StageName::Notifier],
            Self::Segmenter => &[StageName::Segmenter],
            Self::Encoder => &[StageName::Encoder],
            Self::Sampler => &[StageName::Sampler],
            Self::Gateway => &[],
        }
    }
}

/// The name of a queue, such as `echogen.sample.bulk.3`. The adapter adds the installation's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(pub String);

impl QueueName {
    /// The queue in which tasks of a lane wait for a stage, in partition 0. If the stage has one queue for all, it is that
    /// one.
    pub fn of(stage: StageName, lane: Lane) -> Self {
        Self::in_partition(stage, lane, Partition::ZERO)
    }

    /// The queue in which tasks of a lane and a partition wait for a stage: `echogen.STAGE.LANE`, and from partition 1 on
    /// its number behind that.
    pub fn in_partition(stage: StageName, lane: Lane, partition: Partition) -> Self {
        let Entry { queue, is_split, .. } = stage.entry();
        Self(match (is_split, partition) {
            (false, _) => format!("echogen.{queue}"),
            (true, Partition::ZERO) => format!("echogen.{queue}.{lane}"),
            (true, partition) => format!("echogen.{queue}.{lane}.{partition}"),
        })
    }

    /// The stage, lane and partition of a queue that is one stage's, lane's and partition's.
    pub fn place(&self) -> Option<(StageName, Lane, Partition)> {
        let name = self.0.strip_prefix("echogen.")?;
        let (queue, rest) = name.split_once('.')?;
        let stage = StageName::ALL.into_iter().find(|stage| stage.entry().queue == queue && stage.entry().is_split)?;
        let (lane, partition) = match rest.split_once('.') {
            Some((lane, number)) => (lane, Partition::parse(number).filter(|number| *number != Partition::ZERO)?),
            None => (rest, Partition::ZERO),
        };
        Some((stage, lane.parse().ok()?, partition))
    }

    /// The queue where dead letters of this one are parked. It can be consumed like any other. The partitions of a lane
    /// share one, and so do all queues of a stage that clients do not publish to.
    #[must_use]
    pub fn dead_letters(&self) -> Self {
        let shared = self.place().map(|(stage, lane, _)| stage.unsplit().unwrap_or_else(|| Self::of(stage, lane)));
        Self(format!("{}.dead", shared.as_ref().unwrap_or(self)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for QueueName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_stage_is_run_by_one_role_and_its_queues_are_its_own() {
        assert!(RoleName::Gateway.stages().is_empty());
        let run: Vec<StageName> = RoleName::WORKERS.iter().flat_map(|role| role.stages()).copied().collect();
        assert_eq!(run.len(), StageName::ALL.len());
        assert_eq!(run.into_iter().collect::<BTreeSet<_>>().len(), StageName::ALL.len());
        let partitions = Partitions::default();
        let queues: Vec<QueueName> = StageName::ALL.iter().flat_map(|stage| stage.queues(partitions)).collect();
        assert_eq!(queues.iter().collect::<BTreeSet<_>>().len(), queues.len(), "{queues:?}");
        assert_eq!(queues.len(), 4 * 3 * 8 + 1);
    }

    fn names(partitions: Partitions) -> Vec<String> {
        StageName::ALL.iter().flat_map(|stage| stage.queues(partitions)).map(|queue| queue.0).collect()
    }

    #[test]
    fn queues_have_the_names_that_installations_know() {
        let expected = [
            "echogen.dispatch.interactive",
            "echogen.dispatch.standard",
            "echogen.dispatch.bulk",
            "echogen.segment.interactive",
            "echogen.segment.standard",
            "echogen.segment.bulk",
            "echogen.encode.interactive",
            "echogen.encode.standard",
            "echogen.encode.bulk",
            "echogen.sample.interactive",
            "echogen.sample.standard",
            "echogen.sample.bulk",
            "echogen.notify",
        ];
        assert_eq!(names(Partitions::ONE), expected);
        let split = names(Partitions::clamped(3));
        assert_eq!(
            &split[..4],
            [expected[0], &format!("{}.1", expected[0]), &format!("{}.2", expected[0]), expected[1]]
        );
        let unsplit = StageName::ALL.map(|stage| stage.unsplit().map_or_else(String::new, |queue| queue.0));
        assert_eq!(unsplit, ["", "echogen.segment", "echogen.encode", "echogen.sample", ""]);
    }

    #[test]
    fn a_queues_name_says_whose_it_is() {
        for stage in StageName::ALL {
            for lane in stage.lanes() {
                for partition in Partitions::clamped(Partitions::MAX).all() {
                    let queue = QueueName::in_partition(stage, *lane, partition);
                    assert_eq!(queue.place(), Some((stage, *lane, partition)), "{queue}");
                }
            }
        }
        for other in
            ["echogen.notify", "echogen.sample", "echogen.sample.bulk.0", "echogen.sample.bulk.01", "sample.bulk"]
        {
            assert_eq!(QueueName(other.to_owned()).place(), None, "{other}");
        }
    }

    #[test]
    fn dead_letters_are_not_split() {
        let mut parked = BTreeSet::new();
        for stage in StageName::ALL {
            let own: BTreeSet<QueueName> = stage.dead_lettered().iter().map(QueueName::dead_letters).collect();
            for queue in stage.queues(Partitions::default()).into_iter().chain(stage.unsplit()) {
                assert!(own.contains(&queue.dead_letters()), "{queue}");
            }
            parked.extend(own);
        }
        let parked: Vec<&str> = parked.iter().map(QueueName::as_str).collect();
        let expected = [
            "echogen.dispatch.bulk.dead",
            "echogen.dispatch.interactive.dead",
            "echogen.dispatch.standard.dead",
            "echogen.encode.dead",
            "echogen.notify.dead",
            "echogen.sample.dead",
            "echogen.segment.dead",
        ];
        assert_eq!(parked, expected, "as in the version before");
    }

    #[test]
    fn the_committed_list_for_compose_chart_and_dashboards_is_this_one() {
        const UPDATE_VARIABLE: &str = "ECHOGEN_TEST_UPDATE";
        let roles = RoleName::WORKERS.map(|role| {
            let stages: Vec<&str> = role.stages().iter().map(|stage| stage.as_str()).collect();
            serde_json::json!({ "name": role.as_str(), "stages": stages })
        });
        let stages = StageName::ALL.map(|stage| {
            let queues: Vec<String> = stage.queues(Partitions::ONE).into_iter().map(|queue| queue.0).collect();
            serde_json::json!({
                "name": stage.as_str(),
                "queues": queues,
                "partitioned": !stage.lanes().is_empty(),
                "unsplit": stage.unsplit().map(|queue| queue.0),
            })
        });
        let expected = format!("{:#}\n", serde_json::json!({ "roles": roles, "stages": stages }));
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/stages.json");
        if std::env::var_os(UPDATE_VARIABLE).is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let advice = format!("run this test with {UPDATE_VARIABLE}=1, then `deploy/check.sh --update`");
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), expected, "{advice}");
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for stage in StageName::ALL {
            assert_eq!(stage.to_string().parse(), Ok(stage));
        }
        assert_eq!("encoder".parse(), Ok(RoleName::Encoder));
        assert_eq!("bulk".parse(), Ok(Lane::Bulk));
        let error = "painter".parse::<RoleName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown role \"painter\"; known are dispatcher, segmenter, encoder, sampler, gateway"
        );
    }
}
