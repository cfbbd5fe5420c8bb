//! The one list of stages: their names, their queues and lanes, and the roles that run them.
//!
//! Everything that needs all stages walks this list: the broker's topology, metrics, health, the roles, the commands for
//! dead letters, and the tests.

use crate::{Lane, names::named};

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
    /// The last part of its queues' names, and the `stage` of its tasks' JSON.
    queue: &'static str,
    /// The lanes that have a queue of their own; empty if all lanes share one.
    lanes: &'static [Lane],
    /// What its tasks are about.
    takes: &'static str,
    /// See [`StageName::faces_clients`].
    faces_clients: bool,
}

impl StageName {
    const fn entry(self) -> Entry {
        match self {
            Self::Dispatcher => {
                Entry { queue: "dispatch", lanes: &Lane::ALL, takes: "jobs of a lane", faces_clients: true }
            }
            Self::Segmenter => Entry { queue: "segment", lanes: &[], takes: "pictures", faces_clients: false },
            Self::Encoder => Entry { queue: "encode", lanes: &[], takes: "cut-outs", faces_clients: false },
            Self::Sampler => Entry { queue: "sample", lanes: &[], takes: "encoded subjects", faces_clients: false },
            Self::Notifier => {
                Entry { queue: "notify", lanes: &[], takes: "ends of jobs with a callback", faces_clients: true }
            }
        }
    }

    /// The lanes that have a queue of their own at this stage; empty where all lanes share one queue.
    pub const fn lanes(self) -> &'static [Lane] {
        self.entry().lanes
    }

    /// The stage's queues, in the order of its lanes.
    pub fn queues(self) -> Vec<QueueName> {
        match self.lanes() {
            [] => vec![QueueName::of(self, Lane::default())],
            lanes => lanes.iter().map(|lane| QueueName::of(self, *lane)).collect(),
        }
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
    }
}

impl RoleName {
    /// The stages that run in the process of this role. Callbacks are sent from the role that fetches pictures: no
    /// other role needs access to the internet.
    pub const fn stages(self) -> &'static [StageName] {
        match self {
            Self::Dispatcher => &[StageName::Dispatcher, StageName::Notifier],
            Self::Segmenter => &[StageName::Segmenter],
            Self::Encoder => &[StageName::Encoder],
            Self::Sampler => &[StageName::Sampler],
        }
    }
}

/// The name of a queue, such as `echogen.segment`. The adapter adds the installation's prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(pub String);

impl QueueName {
    /// The queue in which tasks of a lane wait for a stage. If the stage has one queue for all lanes, it is that one.
    pub fn of(stage: StageName, lane: Lane) -> Self {
        let Entry { queue, lanes, .. } = stage.entry();
        Self(if lanes.is_empty() { format!("echogen.{queue}") } else { format!("echogen.{queue}.{lane}") })
    }

    /// The queue where dead letters of this one are parked. It can be consumed like any other.
    #[must_use]
    pub fn dead_letters(&self) -> Self {
        Self(format!("{}.dead", self.0))
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
        let run: Vec<StageName> = RoleName::ALL.iter().flat_map(|role| role.stages()).copied().collect();
        assert_eq!(run.len(), StageName::ALL.len());
        assert_eq!(run.into_iter().collect::<BTreeSet<_>>().len(), StageName::ALL.len());
        let queues: Vec<QueueName> = StageName::ALL.iter().flat_map(|stage| stage.queues()).collect();
        assert_eq!(queues.iter().collect::<BTreeSet<_>>().len(), queues.len(), "{queues:?}");
    }

    #[test]
    fn queues_have_the_names_that_installations_know() {
        let names: Vec<String> = StageName::ALL.iter().flat_map(|stage| stage.queues()).map(|queue| queue.0).collect();
        assert_eq!(
            names,
            [
                "echogen.dispatch.interactive",
                "echogen.dispatch.standard",
                "echogen.dispatch.bulk",
                "echogen.segment",
                "echogen.encode",
                "echogen.sample",
                "echogen.notify",
            ]
        );
        let sample = QueueName::of(StageName::Sampler, Lane::Bulk);
        assert_eq!(sample, QueueName::of(StageName::Sampler, Lane::Interactive), "one queue for all lanes");
        assert_eq!(sample.dead_letters().as_str(), "echogen.sample.dead");
    }

    #[test]
    fn the_committed_list_for_compose_chart_and_dashboards_is_this_one() {
        const UPDATE_VARIABLE: &str = "ECHOGEN_TEST_UPDATE";
        let roles = RoleName::ALL.map(|role| {
            let stages: Vec<&str> = role.stages().iter().map(|stage| stage.as_str()).collect();
            serde_json::json!({ "name": role.as_str(), "stages": stages })
        });
        let stages = StageName::ALL.map(|stage| {
            let queues: Vec<String> = stage.queues().into_iter().map(|queue| queue.0).collect();
            serde_json::json!({ "name": stage.as_str(), "queues": queues })
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
        assert_eq!(error.to_string(), "unknown role \"painter\"; known are dispatcher, segmenter, encoder, sampler");
    }
}
