#!/usr/bin/env python3
"""Writes the Grafana dashboards.

    deploy/grafana/dashboards.py

The dashboards are code: change this file and run it, do not edit the JSON. `deploy/check.sh` fails when the two differ,
and when a panel asks for a metric, a label or a value of a label that the metrics list does not have.
"""

import json
import sys
from pathlib import Path

from panels import choice, dashboard, heat, lines, number, panel, quantiles, red_above, red_below, target, typed

FOLDER = Path(__file__).resolve().parent / "dashboards"
STAGES = ["dispatcher", "segmenter", "encoder", "sampler"]


def overview():
    jobs = "sum by (outcome) (rate(echogen_jobs_total[$__rate_interval]))"
    failed = 'sum(rate(echogen_jobs_total{outcome="failed"}[15m]))'
    ended = 'sum(rate(echogen_jobs_total{outcome=~"completed|failed"}[15m]))'
    hits = 'sum by (kind) (rate(echogen_cache_requests_total{result="hit"}[$__rate_interval]))'
    looks = "sum by (kind) (rate(echogen_cache_requests_total[$__rate_interval]))"
    store = "rate(echogen_object_store_requests_total"
    return dashboard(
        "overview",
        "Overview",
        "Is the system well, and if not, where to look.",
        [
            number("Jobs an hour", 'sum(rate(echogen_jobs_total{outcome="completed"}[15m])) * 3600', decimals=0),
            number("Failing", f"{failed} / {ended}", unit="percentunit", thresholds=red_above(0.02, 0.1)),
            number(
                "Longest wait ahead",
                "max(stage_lane:echogen_drain_seconds)",
                unit="s",
                thresholds=red_above(600, 1800),
                help_text="Seconds until what waits now is done by the processes there are.",
            ),
            number("Dead letters", "sum(max by (stage, lane) (echogen_dead_letter_messages))", thresholds=red_above(1)),
            number("Canary", "max(echogen_canary_seconds)", unit="s", thresholds=red_above(30, 60)),
            number("Processes ready", f'sum(echogen_ready{{stage=~"{"|".join(STAGES)}"}})', thresholds=red_below(4)),
            lines("Jobs by outcome", target(jobs, "{{outcome}}"), unit="ops", stacked=True, min=0),
            lines(
                "Seconds of work ahead",
                target("stage_lane:echogen_drain_seconds", "{{stage}} {{lane}}"),
                unit="s",
                min=0,
                help_text="Until what waits now is done by the processes there are.",
            ),
            lines(
                "Tasks by stage",
                target('sum by (stage) (rate(echogen_tasks_total{outcome="done"}[$__rate_interval]))', "{{stage}}"),
                unit="ops",
                min=0,
            ),
            lines(
                "Messages waiting",
                target("stage_lane:echogen_queue_messages:max", "{{stage}} {{lane}}"),
                min=0,
            ),
            lines(
                "Seconds of a task, p95",
                *quantiles("echogen_task_seconds", ["stage"], legend="{{stage}}", shares=(0.95,)),
                unit="s",
                min=0,
            ),
            lines(
                "Wait in the queue, p95",
                *quantiles("echogen_queue_wait_seconds", ["stage"], legend="{{stage}}", shares=(0.95,)),
                unit="s",
                min=0,
            ),
            lines("Found in the cache", target(f"{hits} / {looks}", "{{kind}}"), unit="percentunit", min=0, max=1, width=8),
            lines(
                "Retries and dead letters",
                target("sum by (stage) (rate(echogen_retries_total[$__rate_interval]))", "{{stage}} retried"),
                target("sum by (stage) (rate(echogen_dead_letters_total[$__rate_interval]))", "{{stage}} given up"),
                unit="ops",
                min=0,
                width=8,
            ),
            lines(
                "Object store: failing calls",
                target(
                    f'sum by (operation) ({store}{{outcome!="ok"}}[$__rate_interval])) '
                    f"/ sum by (operation) ({store}[$__rate_interval]))",
                    "{{operation}}",
                ),
                unit="percentunit",
                min=0,
                width=8,
            ),
            lines(
                "Processes that take tasks",
                target("sum by (stage) (echogen_consuming)", "{{stage}}"),
                min=0,
                width=8,
            ),
            lines("Tasks at work", target("sum by (stage) (echogen_tasks_in_progress)", "{{stage}}"), min=0, width=8),
            lines(
                "Canary",
                target("max(echogen_canary_seconds)", "seconds"),
                unit="s",
                min=0,
                width=8,
            ),
            panel(
                "table",
                "Versions",
                [target("count by (version) (echogen_build_info)", instant=True)],
                width=8,
                height=6,
                help_text="More than one while an upgrade is under way.",
                transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True}}}],
            ),
            panel(
                "table",
                "Networks loaded",
                [target("count by (bundle, network, digest) (echogen_model_info)", instant=True)],
                width=16,
                height=6,
                transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True}}}],
            ),
        ],
    )


def stage():
    here = '{stage="$stage"}'
    return dashboard(
        "stage",
        "Stage",
        "One stage, and each of its processes.",
        [
            lines(
                "Tasks by outcome",
                target(f"sum by (outcome) (rate(echogen_tasks_total{here}[$__rate_interval]))", "{{outcome}}"),
                unit="ops",
                stacked=True,
                min=0,
            ),
            lines(
                "Tasks by process",
                target(f"sum by (instance) (rate(echogen_tasks_total{here}[$__rate_interval]))", "{{instance}}"),
                unit="ops",
                min=0,
                help_text="A process far below the others sits on a slow or throttled machine.",
            ),
            lines("Seconds of a task", *quantiles("echogen_task_seconds", [], here), unit="s", min=0),
            heat("Seconds of a task", "echogen_task_seconds", here, unit="s"),
            lines("Wait in the queue", *quantiles("echogen_queue_wait_seconds", [], here), unit="s", min=0),
            heat("Wait in the queue", "echogen_queue_wait_seconds", here, unit="s"),
            lines(
                "Messages waiting",
                target(f"stage_lane:echogen_queue_messages:max{here}", "{{lane}}"),
                min=0,
                width=8,
            ),
            lines(
                "Seconds of work ahead",
                target(f"stage_lane:echogen_drain_seconds{here}", "{{lane}}, with the processes there are"),
                target(f"stage_lane:echogen_work_waiting_seconds:max{here}", "{{lane}}, for one process"),
                unit="s",
                min=0,
                width=8,
            ),
            lines(
                "Processes",
                target(f"sum(echogen_ready{here})", "ready"),
                target(f"sum(echogen_consuming{here})", "taking tasks"),
                min=0,
                width=8,
            ),
            lines("Tasks at work", target(f"echogen_tasks_in_progress{here}", "{{instance}}"), min=0, width=8),
            lines(
                "Since progress",
                target(f"echogen_seconds_since_progress{here}", "{{instance}}"),
                unit="s",
                min=0,
                width=8,
                help_text="0 in a process that has nothing in hand.",
            ),
            lines(
                "Retries and dead letters",
                target(f"sum(rate(echogen_retries_total{here}[$__rate_interval]))", "retried"),
                target(f"sum(rate(echogen_dead_letters_total{here}[$__rate_interval]))", "given up"),
                target(f"sum(max by (lane) (echogen_dead_letter_messages{here}))", "dead letters parked"),
                min=0,
                width=8,
            ),
        ],
        [choice("stage", "Stage", [*STAGES, "notifier"])],
    )


def sampler():
    mean_batch = "sum(rate(echogen_batch_size_sum[$__rate_interval])) / sum(rate(echogen_batch_size_count[$__rate_interval]))"
    return dashboard(
        "sampler",
        "Sampler",
        "Batches, scales and memory of the one stage that needs the strongest machine.",
        [
            lines(
                "Images a second",
                target("sum by (instance) (rate(echogen_batch_size_sum[$__rate_interval]))", "{{instance}}"),
                unit="ops",
                stacked=True,
                min=0,
            ),
            lines(
                "Images side by side",
                target(mean_batch, "mean"),
                *quantiles("echogen_batch_size", [], shares=(0.95,)),
                min=0,
                help_text="Far below the limit while much waits: the shapes are too many, or memory is too short.",
            ),
            heat("Images side by side", "echogen_batch_size", unit="short"),
            lines(
                "Why batches closed",
                target("sum by (reason) (rate(echogen_batches_total[$__rate_interval]))", "{{reason}}"),
                unit="ops",
                stacked=True,
                min=0,
            ),
            lines(
                "Seconds by scale, mean",
                target(
                    "sum by (scale) (rate(echogen_scale_seconds_sum[$__rate_interval])) "
                    "/ sum by (scale) (rate(echogen_scale_seconds_count[$__rate_interval]))",
                    "scale {{scale}}",
                ),
                unit="s",
                stacked=True,
                min=0,
                help_text="The whole height is a batch from the first scale to the last.",
            ),
            lines(
                "Seconds by scale, p95",
                *quantiles("echogen_scale_seconds", ["scale"], legend="scale {{scale}}", shares=(0.95,)),
                unit="s",
                min=0,
            ),
            lines(
                "Time spent sampling",
                target("sum by (instance) (rate(echogen_scale_seconds_sum[$__rate_interval]))", "{{instance}}"),
                unit="percentunit",
                min=0,
                help_text="Share of the time in which a batch is at work. Below 1 while tasks wait: look at the stores.",
            ),
            lines(
                "Key-value memory",
                target("echogen_kv_cache_bytes", "{{instance}}"),
                unit="bytes",
                min=0,
            ),
            lines(
                "Seconds of a task",
                *quantiles("echogen_task_seconds", [], '{stage="sampler"}'),
                unit="s",
                min=0,
                width=8,
            ),
            lines(
                "Device faults",
                target("max by (instance) (max_over_time(echogen_device_faults_total[15m]))", "{{instance}}"),
                min=0,
                width=8,
            ),
            lines(
                "Object store, p95",
                *quantiles("echogen_object_store_seconds", ["operation"], legend="{{operation}}", shares=(0.95,)),
                unit="s",
                min=0,
                width=8,
            ),
        ],
    )


def cost():
    completed = 'sum(rate(echogen_jobs_total{outcome="completed"}[1h]))'
    # Whoever takes tasks is paid for, whether it has any or not.
    hourly = (
        '(sum(echogen_consuming{stage="sampler"}) * $sampler_price '
        '+ sum(echogen_consuming{stage=~"dispatcher|segmenter|encoder"}) * $other_price)'
    )
    mean = (
        'sum by (stage) (rate(echogen_task_seconds_sum{stage=~"segmenter|encoder"}[1h])) '
        '/ sum by (stage) (rate(echogen_task_seconds_count{stage=~"segmenter|encoder"}[1h]))'
    )
    return dashboard(
        "cost",
        "Cost",
        "What a thousand jobs cost, and what the caches save. Type in the price of a process-hour of each kind.",
        [
            number("A thousand jobs", f"{hourly} / ({completed} * 3600) * 1000", unit="currencyUSD", width=6, decimals=2),
            number("An hour", hourly, unit="currencyUSD", width=6, decimals=2),
            number("Jobs an hour", f"{completed} * 3600", width=6, decimals=0),
            number("Sampler seconds a job", f'sum(rate(echogen_scale_seconds_sum[1h])) / {completed}', unit="s", width=6),
            lines(
                "Cost of a thousand jobs",
                target(f"{hourly} / ({completed} * 3600) * 1000", "a thousand jobs"),
                unit="currencyUSD",
                min=0,
            ),
            lines(
                "Seconds of each stage's tasks for one job",
                target(f"sum by (stage) (rate(echogen_task_seconds_sum[1h])) / on () group_left {completed}", "{{stage}}"),
                unit="s",
                stacked=True,
                min=0,
                help_text="Waiting for servers included; the caches' work shows as little segmenter and encoder.",
            ),
            lines(
                "Processes paid for",
                target("sum by (stage) (echogen_consuming)", "{{stage}}"),
                stacked=True,
                min=0,
            ),
            lines(
                "Share of the samplers' time that samples",
                target(
                    'sum(rate(echogen_scale_seconds_sum[$__rate_interval])) / sum(echogen_consuming{stage="sampler"})',
                    "sampling",
                ),
                unit="percentunit",
                min=0,
                help_text="What is left is paid for and idle: fewer processes, or larger batches.",
            ),
            lines(
                "Seconds that the cache saves, each second",
                target(
                    'sum(rate(echogen_cache_requests_total{result="hit",kind="subject"}[1h])) '
                    '* scalar(sum(rate(echogen_task_seconds_sum{stage="encoder"}[1h])) '
                    '/ sum(rate(echogen_task_seconds_count{stage="encoder"}[1h])))',
                    "encoder",
                ),
                unit="s",
                min=0,
                help_text="An upper bound: many a hit would have been found in the object store.",
            ),
            lines(
                "Products made once for many",
                target("sum by (kind) (rate(echogen_single_flight_waits_total[$__rate_interval]))", "{{kind}}"),
                unit="ops",
                min=0,
                help_text="Tasks that waited for another process to make the same, in place of making it themselves.",
            ),
            lines("Seconds of a task, mean", target(mean, "{{stage}}"), unit="s", min=0),
            lines(
                "Work that was paid for and thrown away",
                target(
                    'sum by (stage) (rate(echogen_tasks_total{outcome=~"retried|dead_lettered|put_back"}[$__rate_interval])) '
                    "/ sum by (stage) (rate(echogen_tasks_total[$__rate_interval]))",
                    "{{stage}}",
                ),
                unit="percentunit",
                min=0,
            ),
        ],
        [typed("sampler_price", "Sampler, an hour", "2.50"), typed("other_price", "Other roles, an hour", "0.10")],
    )


def written():
    """The files' names and texts."""
    made = [overview(), stage(), sampler(), cost()]
    return {f"{each['uid']}.json": json.dumps(each, indent=1, ensure_ascii=False) + "\n" for each in made}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, text in written().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
