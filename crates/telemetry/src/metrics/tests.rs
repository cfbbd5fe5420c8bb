//! The list keeps Prometheus's rules, the page is the list's, and the numbers are right.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::{Consuming, Health};

/// The rules of `promtool check metrics`, and ours.
fn faults(metric: &Metric) -> Vec<&'static str> {
    let Metric { name, kind, labels, help, roles } = *metric;
    let plain = |text: &str| {
        text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') && !text.contains("__")
    };
    let is_counter = kind == Kind::Counter;
    let rules = [
        (name.starts_with("echogen_") && plain(name), "name"),
        (is_counter == name.ends_with("_total"), "only counters end in _total"),
        (!["_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)), "a suffix that Prometheus adds itself"),
        (!["_ms", "_milliseconds", "_kb", "_mb", "_minutes"].iter().any(|unit| name.contains(unit)), "base units"),
        (!name.contains("counter") && !name.contains("gauge") && !name.contains("histogram"), "the type in the name"),
        (help.ends_with('.') && help.len() > 15 && !help.contains(['\n', '|', '\\']), "help"),
        (!roles.is_empty(), "no role shows it"),
        (labels.iter().all(|label| plain(label.name()) && label.name() != "le"), "label"),
        (!labels.iter().any(|label| ["job", "id", "tenant", "prompt"].contains(&label.name())), "unbounded label"),
    ];
    rules.into_iter().filter(|(holds, _)| !holds).map(|(_, rule)| rule).collect()
}

#[test]
fn every_metric_keeps_the_rules() {
    let names: BTreeSet<&str> = LIST.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), LIST.len(), "each name once");
    for metric in LIST {
        assert!(faults(metric).is_empty(), "{}: {:?}", metric.name, faults(metric));
        if let Kind::Histogram(buckets) = metric.kind {
            assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]), "{}", metric.name);
        }
        for label in metric.labels {
            if let Label::Of(_, values) = label {
                assert!(!values.is_empty() && values.len() <= 12, "{}", metric.name);
            }
        }
    }
    let bad = Metric { name: "echogen_job_counter", labels: &[Label::Open("tenant", "")], help: "no", ..LIST[0] };
    assert_eq!(faults(&bad).len(), 4, "the check sees what it is for: {:?}", faults(&bad));
}

#[test]
fn the_page_in_docs_is_the_lists() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    let advice = "run `cargo run -p echogen-telemetry --example metrics_page > docs/metrics.md`";
    assert!(committed == page(), "docs/metrics.md is not what the list says; {advice}");
}

/// The names that an exposition shows.
fn shown(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[test]
fn what_is_shown_is_what_is_listed() {
    let metrics = Metrics::new();
    metrics.build("1.2.3");
    metrics.model("mini", "transformer", "00");
    StageName::ALL.into_iter().for_each(|stage| metrics.expect_stage(stage, 1));
    metrics.expect_canary();
    metrics.expect_gateway(&["show_job"], &["invalid"]);
    metrics.cache_asked("images/00/0011", CacheAnswer::Hit);
    metrics.queue_seen(StageName::Sampler, None, 1);
    metrics.dead_letters_seen(StageName::Sampler, None, 0);
    metrics.scale_sampled(1, Duration::ZERO);
    let health = Health::default();
    health.loaded("sampler", || Consuming { now: true, since: Duration::ZERO });
    let text = metrics.render(&health);
    let listed: BTreeSet<&str> = LIST.iter().map(|metric| metric.name).collect();
    assert_eq!(shown(&text), listed);
    for metric in LIST {
        let kind = metric.kind.as_str();
        assert!(text.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{}", metric.name);
        assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
    }
}

#[test]
fn a_role_shows_only_what_is_its_own() {
    let metrics = Metrics::new();
    metrics.expect_stage(StageName::Encoder, 1);
    let text = metrics.render(&Health::default());
    assert!(shown(&text).contains("echogen_single_flight_waits_total"));
    assert!(!text.contains("batch") && !text.contains("canary") && !text.contains("kv_cache"), "{text}");
    assert!(text.contains("echogen_jobs_total{outcome=\"failed\"} 0"), "counting begins at zero");
}

#[test]
fn tasks_are_counted_by_their_end() {
    let metrics = Metrics::new();
    metrics.expect_stage(StageName::Encoder, 2);
    let text = || metrics.render(&Health::default());
    let first = metrics.task_started(StageName::Encoder, Some(Duration::from_secs(3)));
    let second = metrics.task_started(StageName::Encoder, None);
    assert!(text().contains("echogen_tasks_in_progress{stage=\"encoder\"} 2"));
    assert!(text().contains("echogen_queue_wait_seconds_sum{stage=\"encoder\"} 3\n"));
    assert!(text().contains("echogen_queue_wait_seconds_count{stage=\"encoder\"} 1\n"));
    first.ended(TaskEnd::Done);
    drop(second);
    metrics.task_started(StageName::Encoder, None).ended(TaskEnd::Retried);
    metrics.task_started(StageName::Notifier, None).ended(TaskEnd::DeadLettered);
    for line in [
        "echogen_tasks_total{outcome=\"done\",stage=\"encoder\"} 1",
        "echogen_tasks_total{outcome=\"requeued\",stage=\"encoder\"} 1",
        "echogen_tasks_total{outcome=\"retried\",stage=\"encoder\"} 1",
        "echogen_tasks_total{outcome=\"dead_lettered\",stage=\"encoder\"} 0",
        "echogen_tasks_total{outcome=\"dead_lettered\",stage=\"notifier\"} 1",
        "echogen_task_seconds_count{stage=\"encoder\"} 1",
        "echogen_tasks_in_progress{stage=\"encoder\"} 0",
        "echogen_seconds_since_progress{stage=\"encoder\"} 0",
    ] {
        assert!(text().contains(line), "{line}\n{}", text());
    }
}

/// The value of one series.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{series}\n{text}"));
    line.trim().parse().unwrap()
}

#[test]
fn progress_is_only_missed_while_something_is_at_work() {
    let metrics = Metrics::new();
    metrics.expect_stage(StageName::Sampler, 1);
    let series = "echogen_seconds_since_progress{stage=\"sampler\"}";
    std::thread::sleep(Duration::from_millis(20));
    let since = || value(&metrics.render(&Health::default()), series);
    assert_eq!(since(), 0.0, "an idle role misses nothing");
    let task = metrics.task_started(StageName::Sampler, None);
    std::thread::sleep(Duration::from_millis(20));
    assert!(since() >= 0.02);
    metrics.scale_sampled(1, Duration::ZERO);
    assert!(since() < 0.02, "a scale is progress");
    task.ended(TaskEnd::Done);
    assert_eq!(since(), 0.0);
}

#[test]
fn work_waiting_is_messages_times_seconds_by_what_runs_at_once() {
    let metrics = Metrics::new();
    metrics.queue_seen(StageName::Sampler, None, 8);
    metrics.dead_letters_seen(StageName::Sampler, None, 3);
    let text = || metrics.render(&Health::default());
    assert!(!text().contains("echogen_work_waiting_seconds{"), "nobody here knows how long the sampler takes");
    assert!(text().contains("echogen_dead_letter_messages{lane=\"all\",stage=\"sampler\"} 3"));
    metrics.expect_stage(StageName::Sampler, 4);
    metrics.queue_seen(StageName::Sampler, None, 8);
    let series = "echogen_work_waiting_seconds{lane=\"all\",stage=\"sampler\"}";
    assert_eq!(value(&text(), series), 2.0, "a task is taken for a second until one has ended");
    let task = metrics.task_started(StageName::Sampler, None);
    std::thread::sleep(Duration::from_millis(30));
    task.ended(TaskEnd::Done);
    metrics.queue_seen(StageName::Sampler, None, 8);
    let waiting = value(&text(), series);
    assert!((0.06..1.0).contains(&waiting), "{waiting}");
}

#[test]
fn labels_are_closed_sets_whatever_comes() {
    for (key, kind) in [
        ("images/ab/abc", "image"),
        ("segmentations/ab/abc", "segmentation"),
        ("subjects/x", "subject"),
        ("some-jobs-own-name/x", "other"),
        ("", "other"),
    ] {
        assert_eq!(object_kind(key), kind, "{key}");
    }
    let metrics = Metrics::new();
    metrics.expect_stage(StageName::Sampler, 1);
    metrics.batch_began(3, "a new reason");
    metrics.batches_alive(2, 7);
    metrics.scale_sampled(99, Duration::ZERO);
    let text = metrics.render(&Health::default());
    assert!(text.contains("echogen_batches_total{reason=\"other\"} 1"));
    assert!(text.contains("echogen_kv_cache_bytes 7") && text.contains("echogen_batches_in_progress 2"));
    assert!(text.contains("echogen_scale_seconds_count{scale=\"16\"} 1"));
    metrics.batches_alive(0, 0);
    assert!(metrics.render(&Health::default()).contains("echogen_kv_cache_bytes 0"));
    metrics.turn_waited(Lane::Bulk, Duration::from_secs(2));
    metrics.picture_decoded(Duration::ZERO);
    metrics.conditions_computed(Duration::ZERO);
    let text = metrics.render(&Health::default());
    assert!(text.contains("echogen_turn_wait_seconds_sum{lane=\"bulk\"} 2\n"));
    assert!(text.contains("echogen_scale_seconds_count{scale=\"decode\"} 1"));
    assert!(text.contains("echogen_scale_seconds_count{scale=\"conditions\"} 1"));
}

#[test]
fn a_stage_that_serves_some_lanes_has_no_work_in_the_others() {
    let metrics = Metrics::new();
    metrics.expect_stage(StageName::Sampler, 1);
    metrics.serves(StageName::Sampler, &[Lane::Bulk]);
    Lane::ALL.into_iter().map(Some).chain([None]).for_each(|lane| metrics.queue_seen(StageName::Sampler, lane, 3));
    let page = metrics.render(&Health::default());
    let lanes = |metric: &str| {
        let of = page.lines().filter(|line| line.starts_with(&format!("{metric}{{")) && line.contains("\"sampler\""));
        of.filter_map(|line| line.split('"').nth(1).map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(lanes("echogen_queue_messages"), ["all", "bulk", "interactive", "standard"]);
    assert_eq!(lanes("echogen_work_waiting_seconds"), ["all", "bulk"]);
}
