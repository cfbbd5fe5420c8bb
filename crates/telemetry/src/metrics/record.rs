//! Records the process's metrics: one method for each kind of event.

use std::{
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use echogen_protocol::{Lane, StageName};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use super::labels::{
    CacheAnswer, GateAnswer, JobEnd, JobOutcome, NoticeEnd, NoticeName, PreviewEnd, StoreAnswer, StoreCall, TaskEnd,
};
use super::{
    ALL_LANES, BATCH_SIZE, BATCHES, BATCHES_ALIVE, BUILD_INFO, CACHE_REQUESTS, CANARY_RUNS, CANARY_TIME, CONFLICTS,
    CONSUMING, DEAD_LETTER_MESSAGES, DEVICE_FAULTS, FLIGHT_WAITS, GATE_CHECKS, HTTP_REFUSALS, HTTP_REQUESTS,
    HTTP_STREAMS, HTTP_TIME, IN_PROGRESS, JOB_TIME, JOBS, KV_CACHE, Kind, LIMITS_UNREAD, Label, MODEL_INFO, Metric,
    NOTICES, PREVIEWS, QUEUE_MESSAGES, QUEUE_WAIT, READY, SCALE_TIME, SINCE_PROGRESS, STORE_REQUESTS, STORE_TIME, TASK,
    TASKS, TURN_WAIT, WORK_WAITING, closed, object_kind,
};
use crate::Health;

/// Weight of the newest task in the smoothed seconds of a task.
const SMOOTHING: f64 = 0.1;

/// Assumed seconds of a task while none has ended yet.
const SECONDS_UNKNOWN: f64 = 1.0;

/// Scales with a series of their own; the published schedules have 13.
const MAX_SCALES: usize = 16;

/// The state of a stage.
#[derive(Debug)]
struct StageState {
    in_progress: u32,
    last_progress: Instant,
    /// Smoothed; `None` before the first task has ended.
    task_seconds: Option<f64>,
    /// Concurrency; 0 if the stage does not run here.
    at_once: u16,
    /// The lanes that are consumed here.
    lanes: Vec<Lane>,
}

/// The metrics of a process.
pub struct Metrics {
    registry: Registry,
    /// In the order of [`StageName::ALL`].
    stages: Mutex<Vec<StageState>>,
    jobs: IntCounterVec,
    job_seconds: HistogramVec,
    notices: IntCounterVec,
    conflicts: IntCounter,
    tasks: IntCounterVec,
    task_seconds: HistogramVec,
    queue_wait: HistogramVec,
    in_progress: IntGaugeVec,
    since_progress: GaugeVec,
    queue_messages: IntGaugeVec,
    dead_letter_messages: IntGaugeVec,
    work_waiting: GaugeVec,
    cache_requests: IntCounterVec,
    flight_waits: IntCounterVec,
    batch_size: Histogram,
    batches: IntCounterVec,
    scale_seconds: HistogramVec,
    kv_cache: IntGauge,
    batches_alive: IntGauge,
    turn_wait: HistogramVec,
    previews: IntCounterVec,
    gate_checks: IntCounterVec,
    store_requests: IntCounterVec,
    store_seconds: HistogramVec,
    consuming: IntGaugeVec,
    ready: IntGaugeVec,
    device_faults: IntCounter,
    build_info: IntGaugeVec,
    model_info: IntGaugeVec,
    canary_seconds: Gauge,
    canary_runs: IntCounterVec,
    http_requests: IntCounterVec,
    http_seconds: HistogramVec,
    http_refusals: IntCounterVec,
    http_streams: IntGauge,
    limits_unread: IntCounter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The metrics of this process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let (last_progress, lanes) = (Instant::now(), Lane::ALL.to_vec());
        let state =
            || StageState { in_progress: 0, last_progress, task_seconds: None, at_once: 0, lanes: lanes.clone() };
        let metrics = Self {
            registry: Registry::new(),
            stages: Mutex::new(StageName::ALL.iter().map(|_| state()).collect()),
            jobs: counters(JOBS),
            job_seconds: histograms(JOB_TIME),
            notices: counters(NOTICES),
            tasks: counters(TASKS),
            task_seconds: histograms(TASK),
            queue_wait: histograms(QUEUE_WAIT),
            in_progress: gauges(IN_PROGRESS),
            since_progress: float_gauges(SINCE_PROGRESS),
            queue_messages: gauges(QUEUE_MESSAGES),
            dead_letter_messages: gauges(DEAD_LETTER_MESSAGES),
            work_waiting: float_gauges(WORK_WAITING),
            cache_requests: counters(CACHE_REQUESTS),
            flight_waits: counters(FLIGHT_WAITS),
            batch_size: must(Histogram::with_opts(histogram_options(BATCH_SIZE))),
            batches: counters(BATCHES),
            scale_seconds: histograms(SCALE_TIME),
            kv_cache: must(IntGauge::with_opts(options(KV_CACHE))),
            batches_alive: must(IntGauge::with_opts(options(BATCHES_ALIVE))),
            turn_wait: histograms(TURN_WAIT),
            previews: counters(PREVIEWS),
            gate_checks: counters(GATE_CHECKS),
            store_requests: counters(STORE_REQUESTS),
            store_seconds: histograms(STORE_TIME),
            consuming: gauges(CONSUMING),
            ready: gauges(READY),
            device_faults: must(IntCounter::with_opts(options(DEVICE_FAULTS))),
            conflicts: must(IntCounter::with_opts(options(CONFLICTS))),
            build_info: gauges(BUILD_INFO),
            model_info: gauges(MODEL_INFO),
            canary_seconds: must(Gauge::with_opts(options(CANARY_TIME))),
            canary_runs: counters(CANARY_RUNS),
            http_requests: counters(HTTP_REQUESTS),
            http_seconds: histograms(HTTP_TIME),
            http_refusals: counters(HTTP_REFUSALS),
            http_streams: must(IntGauge::with_opts(options(HTTP_STREAMS))),
            limits_unread: must(IntCounter::with_opts(options(LIMITS_UNREAD))),
        };
        metrics.register_common();
        metrics
    }

    /// All metrics except those without labels that only some roles have: these would be zero everywhere.
    fn register_common(&self) {
        let registry = &self.registry;
        for counters in [
            &self.jobs,
            &self.tasks,
            &self.cache_requests,
            &self.flight_waits,
            &self.batches,
            &self.store_requests,
            &self.canary_runs,
            &self.notices,
            &self.http_requests,
            &self.http_refusals,
            &self.previews,
            &self.gate_checks,
        ] {
            must(registry.register(Box::new(counters.clone())));
        }
        for histograms in [
            &self.job_seconds,
            &self.task_seconds,
            &self.queue_wait,
            &self.scale_seconds,
            &self.turn_wait,
            &self.store_seconds,
            &self.http_seconds,
        ] {
            must(registry.register(Box::new(histograms.clone())));
        }
        for gauges in [
            &self.in_progress,
            &self.queue_messages,
            &self.dead_letter_messages,
            &self.consuming,
            &self.ready,
            &self.build_info,
            &self.model_info,
        ] {
            must(registry.register(Box::new(gauges.clone())));
        }
        must(registry.register(Box::new(self.since_progress.clone())));
        must(registry.register(Box::new(self.work_waiting.clone())));
    }

    /// Records the version.
    pub fn build(&self, version: &str) {
        self.build_info.with_label_values(&[version]).set(1);
    }

    /// Records a loaded network.
    pub fn model(&self, bundle: &str, network: &str, digest: &str) {
        self.model_info.with_label_values(&[bundle, network, digest]).set(1);
    }

    /// Initialises all series of a stage that runs here to zero.
    pub fn expect_stage(&self, name: StageName, at_once: u16) {
        let stage = name.as_str();
        self.with_stage(name, |state| state.at_once = at_once.max(1));
        every_value(JOBS.labels[0], |outcome| drop(self.jobs.with_label_values(&[outcome])));
        every_value(TASKS.labels[1], |outcome| drop(self.tasks.with_label_values(&[stage, outcome])));
        every_value(STORE_REQUESTS.labels[0], |operation| {
            drop(self.store_seconds.with_label_values(&[operation]));
            every_value(STORE_REQUESTS.labels[1], |outcome| {
                drop(self.store_requests.with_label_values(&[operation, outcome]));
            });
        });
        every_value(JOB_TIME.labels[0], |lane| {
            every_value(JOB_TIME.labels[1], |outcome| drop(self.job_seconds.with_label_values(&[lane, outcome])));
        });
        drop(self.task_seconds.with_label_values(&[stage]));
        drop(self.queue_wait.with_label_values(&[stage]));
        drop(self.in_progress.with_label_values(&[stage]));
        self.register_once(&self.device_faults);
        self.register_once(&self.conflicts);
        match name {
            StageName::Dispatcher => self.expect_gate("subject"),
            StageName::Segmenter => drop(self.flight_waits.with_label_values(&["segmentation"])),
            StageName::Encoder => drop(self.flight_waits.with_label_values(&["subject"])),
            StageName::Sampler => self.expect_batches(),
            StageName::Notifier => self.expect_notices(),
        }
    }

    fn expect_gate(&self, place: &str) {
        every_value(GATE_CHECKS.labels[1], |outcome| drop(self.gate_checks.with_label_values(&[place, outcome])));
    }

    fn expect_batches(&self) {
        self.expect_gate("result");
        self.register_once(&self.batch_size);
        self.register_once(&self.kv_cache);
        self.register_once(&self.batches_alive);
        every_value(TURN_WAIT.labels[0], |lane| drop(self.turn_wait.with_label_values(&[lane])));
        every_value(PREVIEWS.labels[0], |outcome| drop(self.previews.with_label_values(&[outcome])));
        every_value(BATCHES.labels[0], |reason| drop(self.batches.with_label_values(&[reason])));
    }

    fn expect_notices(&self) {
        every_value(NOTICES.labels[0], |notice| {
            every_value(NOTICES.labels[1], |outcome| drop(self.notices.with_label_values(&[notice, outcome])));
        });
    }

    /// Initialises the canary's series.
    pub fn expect_canary(&self) {
        self.register_once(&self.canary_seconds);
        every_value(CANARY_RUNS.labels[0], |outcome| drop(self.canary_runs.with_label_values(&[outcome])));
    }

    /// Initialises the gateway's series, for the routes and reasons that it has.
    pub fn expect_gateway(&self, routes: &[&str], reasons: &[&str]) {
        self.register_once(&self.http_streams);
        self.register_once(&self.limits_unread);
        for route in routes {
            every_value(HTTP_REQUESTS.labels[1], |class| drop(self.http_requests.with_label_values(&[route, class])));
            drop(self.http_seconds.with_label_values(&[route]));
        }
        reasons.iter().for_each(|reason| drop(self.http_refusals.with_label_values(&[reason])));
    }

    fn register_once<C: prometheus::core::Collector + Clone + 'static>(&self, collector: &C) {
        // The only error is that it is registered already.
        self.registry.register(Box::new(collector.clone())).ok();
    }

    /// A task was received; `waited` is its time in the queue, if known.
    pub fn task_started(&self, stage: StageName, waited: Option<Duration>) -> TaskInProgress<'_> {
        if let Some(waited) = waited {
            self.queue_wait.with_label_values(&[stage.as_str()]).observe(waited.as_secs_f64());
        }
        self.in_progress.with_label_values(&[stage.as_str()]).inc();
        self.with_stage(stage, |state| {
            if state.in_progress == 0 {
                state.last_progress = Instant::now();
            }
            state.in_progress += 1;
        });
        TaskInProgress { metrics: self, stage, started: Instant::now(), end: TaskEnd::Requeued }
    }

    fn task_ended(&self, name: StageName, end: TaskEnd, took: Duration) {
        let stage = name.as_str();
        self.in_progress.with_label_values(&[stage]).dec();
        self.tasks.with_label_values(&[stage, end.as_str()]).inc();
        if end == TaskEnd::Done {
            self.task_seconds.with_label_values(&[stage]).observe(took.as_secs_f64());
        }
        self.with_stage(name, |state| {
            state.in_progress = state.in_progress.saturating_sub(1);
            if end != TaskEnd::Requeued {
                state.last_progress = Instant::now();
            }
            if end == TaskEnd::Done {
                let (now, before) = (took.as_secs_f64(), state.task_seconds);
                state.task_seconds = Some(before.map_or(now, |before| before + SMOOTHING * (now - before)));
            }
        });
    }

    /// A stage makes progress on a long task.
    pub fn progressed(&self, stage: StageName) {
        self.with_stage(stage, |state| state.last_progress = Instant::now());
    }

    /// A job has its result.
    pub fn job_ended(&self, end: JobEnd) {
        self.jobs.with_label_values(&[end.as_str()]).inc();
    }

    /// A job has ended, or was parked, this long after it was first published.
    pub fn job_took(&self, lane: Lane, outcome: JobOutcome, took: Duration) {
        self.job_seconds.with_label_values(&[lane.as_str(), outcome.as_str()]).observe(took.as_secs_f64());
    }

    /// A job was refused because its id is taken by other content.
    pub fn job_conflicted(&self) {
        self.conflicts.inc();
    }

    /// An attempt to send a notice has ended.
    pub fn notice(&self, notice: NoticeName, end: NoticeEnd) {
        self.notices.with_label_values(&[notice.as_str(), end.as_str()]).inc();
    }

    /// The object at `key` was looked for in the cache.
    pub fn cache_asked(&self, key: &str, answer: CacheAnswer) {
        self.cache_requests.with_label_values(&[object_kind(key), answer.as_str()]).inc();
    }

    /// A task waits for another process that computes the object at `key`.
    pub fn flight_waited(&self, key: &str) {
        self.flight_waits.with_label_values(&[object_kind(key)]).inc();
    }

    /// A batch begins.
    pub fn batch_began(&self, images: usize, reason: &str) {
        let Label::Of(_, reasons) = BATCHES.labels[0] else { return };
        self.batch_size.observe(images as f64);
        self.batches.with_label_values(&[closed(reasons, reason)]).inc();
    }

    /// So many batches have begun and not ended, and their key-value caches may take so many bytes.
    pub fn batches_alive(&self, batches: usize, kv_bytes: u64) {
        self.batches_alive.set(i64::try_from(batches).unwrap_or(i64::MAX));
        self.kv_cache.set(i64::try_from(kv_bytes).unwrap_or(i64::MAX));
    }

    /// The turn of a job's batch has come after this time.
    pub fn turn_waited(&self, lane: Lane, waited: Duration) {
        self.turn_wait.with_label_values(&[lane.as_str()]).observe(waited.as_secs_f64());
    }

    /// The conditions of a batch were computed in this time.
    pub fn conditions_computed(&self, took: Duration) {
        self.stepped("conditions", took);
    }

    /// The content gate was asked at this place.
    pub fn gate_checked(&self, place: &'static str, answer: GateAnswer) {
        self.gate_checks.with_label_values(&[place, answer.as_str()]).inc();
    }

    /// What became of so many previews.
    pub fn previews(&self, end: PreviewEnd, count: usize) {
        self.previews.with_label_values(&[end.as_str()]).inc_by(count as u64);
    }

    /// A batch has spent this time on a scale, counted from 1.
    pub fn scale_sampled(&self, scale: usize, took: Duration) {
        self.stepped(&scale.clamp(1, MAX_SCALES).to_string(), took);
    }

    /// A picture was decoded in this time.
    pub fn picture_decoded(&self, took: Duration) {
        self.stepped("decode", took);
    }

    /// A preview was decoded in this time.
    pub fn preview_decoded(&self, took: Duration) {
        self.stepped("preview", took);
    }

    fn stepped(&self, step: &str, took: Duration) {
        self.scale_seconds.with_label_values(&[step]).observe(took.as_secs_f64());
        self.progressed(StageName::Sampler);
    }

    /// The object store was called.
    pub fn store_called(&self, call: StoreCall, answer: StoreAnswer, took: Duration) {
        self.store_requests.with_label_values(&[call.as_str(), answer.as_str()]).inc();
        self.store_seconds.with_label_values(&[call.as_str()]).observe(took.as_secs_f64());
    }

    /// What the broker says of a stage's dead letters, those of one lane or of all.
    pub fn dead_letters_seen(&self, name: StageName, lane: Option<Lane>, messages: u32) {
        let lane = lane.map_or(ALL_LANES, Lane::as_str);
        self.dead_letter_messages.with_label_values(&[name.as_str(), lane]).set(messages.into());
    }

    /// A stage that runs here consumes the queues of these lanes only.
    pub fn serves(&self, name: StageName, lanes: &[Lane]) {
        self.with_stage(name, |state| state.lanes = lanes.to_vec());
    }

    /// What the broker says of a stage's queues, those of one lane or of all: messages that wait in them together. For this
    /// process, only those of lanes that it consumes are work.
    pub fn queue_seen(&self, name: StageName, lane: Option<Lane>, messages: u32) {
        let (seconds, at_once, is_served) = self.with_stage(name, |state| {
            (state.task_seconds, state.at_once, lane.is_none_or(|lane| state.lanes.contains(&lane)))
        });
        let (stage, lane) = (name.as_str(), lane.map_or(ALL_LANES, Lane::as_str));
        self.queue_messages.with_label_values(&[stage, lane]).set(messages.into());
        if at_once > 0 && is_served {
            let waiting = f64::from(messages) * seconds.unwrap_or(SECONDS_UNKNOWN) / f64::from(at_once);
            self.work_waiting.with_label_values(&[stage, lane]).set(waiting);
        }
    }

    /// The compute device is broken.
    pub fn device_fault(&self) {
        self.device_faults.inc();
    }

    /// A canary came back, or did not within its limit. `outcome` is completed, failed, late or unsent.
    pub fn canary_ended(&self, outcome: &str, took: Duration) {
        let Label::Of(_, outcomes) = CANARY_RUNS.labels[0] else { return };
        self.canary_runs.with_label_values(&[closed(outcomes, outcome)]).inc();
        self.canary_seconds.set(took.as_secs_f64());
    }

    /// The gateway answered a request.
    pub fn http_request(&self, route: &str, status: u16, took: Duration) {
        let class = match status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "other",
        };
        self.http_requests.with_label_values(&[route, class]).inc();
        self.http_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// The gateway answered a request by a problem.
    pub fn http_refusal(&self, reason: &str) {
        self.http_refusals.with_label_values(&[reason]).inc();
    }

    /// A stream of events was opened at the gateway, or closed.
    pub fn http_stream(&self, opened: bool) {
        if opened { self.http_streams.inc() } else { self.http_streams.dec() }
    }

    /// A tenant's limits could not be read.
    pub fn limits_unread(&self) {
        self.limits_unread.inc();
    }

    /// All of them, in Prometheus's text format.
    pub fn render(&self, health: &Health) -> String {
        for (stage, consuming, ready) in health.by_stage() {
            self.consuming.with_label_values(&[stage]).set(consuming.into());
            self.ready.with_label_values(&[stage]).set(ready.into());
        }
        for (stage, state) in StageName::NAMES.iter().zip(self.lock().iter()).filter(|(_, state)| state.at_once > 0) {
            let idle = state.in_progress == 0;
            let seconds = if idle { 0.0 } else { state.last_progress.elapsed().as_secs_f64() };
            self.since_progress.with_label_values(&[stage]).set(seconds);
        }
        let mut text = Vec::new();
        // Writing to memory cannot fail, and registered names are valid.
        TextEncoder::new().encode(&self.registry.gather(), &mut text).ok();
        String::from_utf8(text).unwrap_or_default()
    }

    fn with_stage<T>(&self, stage: StageName, work: impl FnOnce(&mut StageState) -> T) -> T {
        // `ALL` lists the stages in the order of their declaration.
        work(&mut self.lock()[stage as usize])
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StageState>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task in progress. Dropped without [`TaskInProgress::ended`], it counts as requeued.
pub struct TaskInProgress<'a> {
    metrics: &'a Metrics,
    stage: StageName,
    started: Instant,
    end: TaskEnd,
}

impl TaskInProgress<'_> {
    /// What became of it.
    pub fn ended(mut self, end: TaskEnd) {
        self.end = end;
    }
}

impl Drop for TaskInProgress<'_> {
    fn drop(&mut self) {
        self.metrics.task_ended(self.stage, self.end, self.started.elapsed());
    }
}

fn every_value(label: Label, mut each: impl FnMut(&'static str)) {
    if let Label::Of(_, values) = label {
        values.iter().for_each(|value| each(value));
    }
}

fn options(metric: Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn histogram_options(metric: Metric) -> HistogramOpts {
    let Kind::Histogram(buckets) = metric.kind else { return HistogramOpts::new(metric.name, metric.help) };
    HistogramOpts::new(metric.name, metric.help).buckets(buckets.to_vec())
}

fn labels(metric: Metric) -> Vec<&'static str> {
    metric.labels.iter().map(|label| label.name()).collect()
}

fn counters(metric: Metric) -> IntCounterVec {
    must(IntCounterVec::new(options(metric), &labels(metric)))
}

fn gauges(metric: Metric) -> IntGaugeVec {
    must(IntGaugeVec::new(options(metric), &labels(metric)))
}

fn float_gauges(metric: Metric) -> GaugeVec {
    must(GaugeVec::new(options(metric), &labels(metric)))
}

fn histograms(metric: Metric) -> HistogramVec {
    must(HistogramVec::new(histogram_options(metric), &labels(metric)))
}

/// The list is a constant, and a test has built everything in it.
fn must<T>(made: Result<T, prometheus::Error>) -> T {
    made.expect("the closed list has good names, each once")
}
