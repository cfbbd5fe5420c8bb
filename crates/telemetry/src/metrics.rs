//! The metrics: one closed list, from which the documentation is generated, and the code that records them.
//!
//! Names follow Prometheus: base units, `_total` for counters. A label has few values, all known beforehand; never a
//! job's id or a tenant's name. Counters start at zero when their role starts, so that a rate includes the first event.

mod labels;
mod page;
mod record;
#[cfg(test)]
mod tests;

pub use labels::{
    CacheAnswer, GateAnswer, JobEnd, JobOutcome, NoticeEnd, NoticeName, PreviewEnd, StoreAnswer, StoreCall, TaskEnd,
};
pub use page::page;
pub use record::{Metrics, TaskInProgress, metrics};

use echogen_protocol::{Lane, RoleName, StageName};

/// The kinds of objects in the work store; any other is counted as the last.
pub const OBJECT_KINDS: &[&str] = &["image", "segmentation", "subject", "other"];

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A distribution, with these upper bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Prometheus's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label: its name, and the values it may have, or in words what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// One of these.
    Of(&'static str, &'static [&'static str]),
    /// Few, but not known to the program itself.
    Open(&'static str, &'static str),
}

impl Label {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Of(name, _) | Self::Open(name, _) => name,
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [Label],
    /// One sentence.
    pub help: &'static str,
    /// The roles that show it, once they have worked for a job.
    pub roles: &'static [&'static str],
}

const DISPATCHER: &str = RoleName::Dispatcher.as_str();
const SEGMENTER: &str = RoleName::Segmenter.as_str();
const ENCODER: &str = RoleName::Encoder.as_str();
const SAMPLER: &str = RoleName::Sampler.as_str();
const GATEWAY: &str = RoleName::Gateway.as_str();
const CANARY: &str = "canary";

/// The lane of queues that all lanes share.
const ALL_LANES: &str = "all";

const STAGE: Label = Label::Of("stage", &StageName::NAMES);
const LANE: Label = Label::Of("lane", &LANES);
const LANES: [&str; Lane::NAMES.len() + 1] = and_one(&Lane::NAMES, ALL_LANES);
const WITH_GATEWAY: [&str; RoleName::WORKER_NAMES.len() + 1] = and_one(&RoleName::WORKER_NAMES, GATEWAY);
const ALL_PROGRAMS: [&str; WITH_GATEWAY.len() + 1] = and_one(&WITH_GATEWAY, CANARY);
const OBJECT_KIND: Label = Label::Of("kind", OBJECT_KINDS);
const OPERATION: Label = Label::Of("operation", &["get", "put", "put_if_absent", "exists", "delete", "list"]);
const SCALE: Label = Label::Open("scale", "the scale's number, from 1, or `conditions`, `decode` or `preview`");
const JOB_LANE: Label = Label::Of("lane", &Lane::NAMES);

const TASK_SECONDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
// As service level objectives may name them: deploy/prometheus/mixin.yaml allows no others.
const JOB_SECONDS: &[f64] = &[
    0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0,
    172_800.0,
];
const WAIT_SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];
const SCALE_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const TURN_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];
const STORE_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const BATCH_IMAGES: &[f64] = &[1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0];

/// Names, and one more after them.
const fn and_one<const N: usize>(names: &[&'static str], last: &'static str) -> [&'static str; N] {
    let mut all = [last; N];
    let mut index = 0;
    while index < names.len() {
        all[index] = names[index];
        index += 1;
    }
    all
}

const fn counter(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help, roles: &RoleName::WORKER_NAMES }
}

const fn gauge(name: &'static str, labels: &'static [Label], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help, roles: &RoleName::WORKER_NAMES }
}

const fn histogram(
    name: &'static str,
    buckets: &'static [f64],
    labels: &'static [Label],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Histogram(buckets), labels, help, roles: &RoleName::WORKER_NAMES }
}

impl Metric {
    const fn of(self, roles: &'static [&'static str]) -> Self {
        Self { roles, ..self }
    }
}

const JOBS: Metric = counter(
    "echogen_jobs_total",
    &[Label::Of("outcome", &["completed", "failed", "expired", "cancelled"])],
    "Jobs that ended, counted by the worker that wrote the result; a cancellation by `echogen cancel` is counted \
     only if a worker writes the result.",
);
const JOB_TIME: Metric = histogram(
    "echogen_job_seconds",
    JOB_SECONDS,
    &[JOB_LANE, Label::Of("outcome", &["completed", "refused", "failed", "expired", "cancelled", "parked"])],
    "Seconds from a job's first publication to its end, recorded by the worker that wrote the result: completed, refused \
     for what its client sent, failed by a fault of the installation, expired, cancelled; parked is recorded when a task \
     becomes a dead letter. The signal for service level objectives.",
);
const TASKS: Metric = counter(
    "echogen_tasks_total",
    &[STAGE, Label::Of("outcome", &["done", "failed", "retried", "dead_lettered", "requeued", "ended"])],
    "Tasks by outcome: done, the job failed permanently, to be retried, parked as a dead letter, requeued \
     unsettled, or dropped because the job had ended elsewhere.",
);
const TASK: Metric = histogram(
    "echogen_task_seconds",
    TASK_SECONDS,
    &[STAGE],
    "Seconds from a task's receipt to its acknowledgement, for tasks that were done.",
);
const QUEUE_WAIT: Metric = histogram(
    "echogen_queue_wait_seconds",
    WAIT_SECONDS,
    &[STAGE],
    "Seconds from a task's publication to its first receipt; retries are not counted.",
);
const IN_PROGRESS: Metric = gauge("echogen_tasks_in_progress", &[STAGE], "Tasks in progress in this process.");
const CACHE_REQUESTS: Metric = counter(
    "echogen_cache_requests_total",
    &[OBJECT_KIND, Label::Of("result", &["hit", "miss", "error"])],
    "Requests to the cache, by the kind of object.",
);
const FLIGHT_WAITS: Metric = counter(
    "echogen_single_flight_waits_total",
    &[OBJECT_KIND],
    "Tasks that waited for another process to compute the same product.",
)
.of(&[SEGMENTER, ENCODER]);
const BATCH_SIZE: Metric =
    histogram("echogen_batch_size", BATCH_IMAGES, &[], "Images of a batch, one value for each batch.").of(&[SAMPLER]);
const BATCHES: Metric = counter(
    "echogen_batches_total",
    &[Label::Of("reason", &["full", "waited", "memory", "shape", "alone", "turn", "shutdown", "other"])],
    "Batches, by the reason why they accept no further image.",
)
.of(&[SAMPLER]);
const SCALE_TIME: Metric = histogram(
    "echogen_scale_seconds",
    SCALE_SECONDS,
    &[SCALE],
    "Seconds that the networks spent on a step of a batch: the conditions, a scale, or decoding one image or preview.",
)
.of(&[SAMPLER]);
const KV_CACHE: Metric =
    gauge("echogen_kv_cache_bytes", &[], "Bytes that the key-value caches of all batches in progress may take.")
        .of(&[SAMPLER]);
const BATCHES_ALIVE: Metric = gauge(
    "echogen_batches_in_progress",
    &[],
    "Batches that have begun and not ended; they take turns, one step at a time.",
)
.of(&[SAMPLER]);
const TURN_WAIT: Metric = histogram(
    "echogen_turn_wait_seconds",
    TURN_SECONDS,
    &[JOB_LANE],
    "Seconds that a job in the sampler waited for the networks, one value for each step of its batches.",
)
.of(&[SAMPLER]);
const PREVIEWS: Metric = counter(
    "echogen_previews_total",
    &[Label::Of("outcome", &["made", "dropped"])],
    "Previews of pictures on their way that jobs asked for: those that are in the cache, and those that were left out \
     because other work waited, their predecessors were not stored yet, or the cache took nothing.",
)
.of(&[SAMPLER]);
const STORE_REQUESTS: Metric = counter(
    "echogen_object_store_requests_total",
    &[OPERATION, Label::Of("outcome", &["ok", "transient", "permanent"])],
    "Calls to the object store, by whether they succeeded, may succeed later, or failed permanently.",
)
.of(&WITH_GATEWAY);
const STORE_TIME: Metric = histogram(
    "echogen_object_store_seconds",
    STORE_SECONDS,
    &[OPERATION],
    "Seconds of calls to the object store, including failed ones.",
)
.of(&WITH_GATEWAY);
const SINCE_PROGRESS: Metric = gauge(
    "echogen_seconds_since_progress",
    &[STAGE],
    "Seconds since a task last ended or a scale was sampled, while tasks are in progress; 0 while none is.",
);
const QUEUE_MESSAGES: Metric = gauge(
    "echogen_queue_messages",
    &[STAGE, LANE],
    "Messages waiting in a queue, as the broker reports them; every process reports the same value, so take the \
     maximum.",
);
const DEAD_LETTER_MESSAGES: Metric = gauge(
    "echogen_dead_letter_messages",
    &[STAGE, LANE],
    "Messages in a dead-letter queue; every process reports the same value, so take the maximum.",
);
const WORK_WAITING: Metric = gauge(
    "echogen_work_waiting_seconds",
    &[STAGE, LANE],
    "Seconds that this process alone would need for the waiting messages: their number, times the smoothed duration \
     of a task, divided by its concurrency. The signal for autoscaling.",
);
const CONSUMING: Metric = gauge("echogen_consuming", &[STAGE], "1 while the broker delivers messages to this process.");
const READY: Metric = gauge("echogen_ready", &[STAGE], "1 while the role is ready, as /readyz reports.");
const DEVICE_FAULTS: Metric =
    counter("echogen_device_faults_total", &[], "Faults of the compute device; each ends the process.");
const BUILD_INFO: Metric =
    gauge("echogen_build_info", &[Label::Open("version", "of the program")], "1, with the version of the program.")
        .of(&ALL_PROGRAMS);
const MODEL_INFO: Metric = gauge(
    "echogen_model_info",
    &[
        Label::Open("bundle", "the model bundle's name"),
        Label::Open("network", "such as `transformer`"),
        Label::Open("digest", "SHA-256 of its checkpoint"),
    ],
    "1 for each network that this process has loaded.",
)
.of(&[SEGMENTER, ENCODER, SAMPLER]);
const CANARY_TIME: Metric = gauge(
    "echogen_canary_seconds",
    &[],
    "Seconds from sending the last canary to the event of its end; its time limit if none came.",
)
.of(&[CANARY]);
const CANARY_RUNS: Metric = counter(
    "echogen_canary_runs_total",
    &[Label::Of("outcome", &["completed", "failed", "late", "unsent"])],
    "Canaries by outcome.",
)
.of(&[CANARY]);

const NOTICES: Metric = counter(
    "echogen_notices_total",
    &[Label::Of("notice", &["event", "reply", "callback"]), Label::Of("outcome", &["sent", "retried", "lost"])],
    "Notices of the ends of jobs, by what became of each attempt: delivered, to be sent again, or given up because the \
     client's queue or server took nothing.",
)
.of(&[DISPATCHER]);

const GATE_CHECKS: Metric = counter(
    "echogen_gate_checks_total",
    &[
        Label::Of("place", &["words", "subject", "result"]),
        Label::Of("outcome", &["allowed", "withheld", "open", "closed"]),
    ],
    "Checks of words and pictures by the content gate, by its verdict; or, where it gave none, by whether the content was \
     used (open) or not (closed).",
)
.of(&[DISPATCHER, SAMPLER]);

const CONFLICTS: Metric = counter(
    "echogen_job_conflicts_total",
    &[],
    "Jobs that were refused because their id is taken by a job of other content.",
);

const ROUTE: Label = Label::Open("route", "an `operationId` of the OpenAPI document");
const HTTP_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const HTTP_REQUESTS: Metric = counter(
    "echogen_http_requests_total",
    &[ROUTE, Label::Of("class", &["2xx", "3xx", "4xx", "5xx", "other"])],
    "Requests to the gateway, by the class of their status.",
)
.of(&[GATEWAY]);
const HTTP_TIME: Metric = histogram(
    "echogen_http_request_seconds",
    HTTP_SECONDS,
    &[ROUTE],
    "Seconds from a request's headers to its answer's; a request that waits for the end of its job waits here too.",
)
.of(&[GATEWAY]);
const HTTP_REFUSALS: Metric = counter(
    "echogen_http_refusals_total",
    &[Label::Open("reason", "the name of a problem, such as `rate-limited`")],
    "Requests that were answered by a problem.",
)
.of(&[GATEWAY]);
const HTTP_STREAMS: Metric =
    gauge("echogen_http_streams", &[], "Streams of events that are open at this gateway.").of(&[GATEWAY]);
const LIMITS_UNREAD: Metric = counter(
    "echogen_limits_unread_total",
    &[],
    "Calls for limits that were answered by this gateway alone, because Redis could not be reached.",
)
.of(&[GATEWAY]);

/// All metrics there are.
pub const LIST: &[Metric] = &[
    JOBS,
    JOB_TIME,
    TASKS,
    TASK,
    QUEUE_WAIT,
    IN_PROGRESS,
    SINCE_PROGRESS,
    QUEUE_MESSAGES,
    DEAD_LETTER_MESSAGES,
    WORK_WAITING,
    CACHE_REQUESTS,
    FLIGHT_WAITS,
    BATCH_SIZE,
    BATCHES,
    SCALE_TIME,
    KV_CACHE,
    BATCHES_ALIVE,
    TURN_WAIT,
    PREVIEWS,
    STORE_REQUESTS,
    STORE_TIME,
    CONSUMING,
    READY,
    DEVICE_FAULTS,
    BUILD_INFO,
    MODEL_INFO,
    CANARY_TIME,
    CANARY_RUNS,
    NOTICES,
    GATE_CHECKS,
    CONFLICTS,
    HTTP_REQUESTS,
    HTTP_TIME,
    HTTP_REFUSALS,
    HTTP_STREAMS,
    LIMITS_UNREAD,
];

/// The value itself if the set has it, else the set's last.
fn closed(set: &'static [&'static str], value: &str) -> &'static str {
    set.iter().find(|known| **known == value).or(set.last()).copied().unwrap_or_default()
}

/// The kind of the object at `key`: its first folder, in the singular.
fn object_kind(key: &str) -> &'static str {
    let folder = key.split('/').next().unwrap_or_default();
    closed(OBJECT_KINDS, folder.strip_suffix('s').unwrap_or(folder))
}
