#!/usr/bin/env python3
"""Writes the Grafana dashboards.

    deploy/grafana/dashboards.py

Change this file, or infrastructure.py for servers and devices, and run it; do not edit the JSON: `deploy/check.sh` fails if the two
differ, and if a panel queries a metric, a label or a label's value that is not in the list of metrics. The stages and roles are
those of deploy/stages.json.
"""

import json
import sys
from pathlib import Path

import infrastructure
from panels import INSTALLATION, choice, dashboard, heat, lines, number, panel, quantiles, red_above, red_below, target, typed

FOLDER = Path(__file__).resolve().parent / "dashboards"
LIST = json.loads((FOLDER.parents[1] / "stages.json").read_text(encoding="utf-8"))
STAGES = [stage["name"] for stage in LIST["stages"]]
# A process of a role is counted by the role's first stage.
MAIN_STAGES = [role["stages"][0] for role in LIST["roles"]]


def overview():
    jobs = "sum by (outcome) (rate(echogen_jobs_total[$__rate_interval]))"
    failed = 'sum(rate(echogen_jobs_total{outcome="failed"}[15m]))'
    ended = 'sum(rate(echogen_jobs_total{outcome=~"completed|failed"}[15m]))'
    hits = 'sum by (kind) (rate(echogen_cache_requests_total{result="hit"}[$__rate_interval]))'
    requests = "sum by (kind) (rate(echogen_cache_requests_total[$__rate_interval]))"
    store = "rate(echogen_object_store_requests_total"
    tasks = "rate(echogen_tasks_total"
    every = "|".join(MAIN_STAGES)
    return dashboard(
        "overview",
        "Overview",
        "Whether the system works, and if not, which stage to look at.",
        [
            number("Jobs per hour", 'sum(rate(echogen_jobs_total{outcome="completed"}[15m])) * 3600', decimals=0),
            number("Failed jobs", f"{failed} / {ended}", unit="percentunit", thresholds=red_above(0.02, 0.1)),
            number(
                "Longest backlog",
                "max(stage_lane:echogen_drain_seconds)",
                unit="s",
                thresholds=red_above(600, 1800),
                help_text="Seconds until the waiting work is done with the current number of processes.",
            ),
            number("Dead letters", f"sum(max by ({INSTALLATION}, stage, lane) (echogen_dead_letter_messages))", thresholds=red_above(1)),
            number("Canary", "max(echogen_canary_seconds)", unit="s", thresholds=red_above(30, 60)),
            number("Processes ready", f'sum(echogen_ready{{stage=~"{every}"}})', thresholds=red_below(len(MAIN_STAGES))),
            lines("Jobs by outcome", target(jobs, "{{outcome}}"), unit="ops", stacked=True, min=0),
            lines(
                "Backlog",
                target("max by (stage, lane) (stage_lane:echogen_drain_seconds)", "{{stage}} {{lane}}"),
                unit="s",
                min=0,
                help_text="Seconds until the waiting work is done with the current number of processes.",
            ),
            lines(
                "Completed tasks by stage",
                target('sum by (stage) (rate(echogen_tasks_total{outcome="done"}[$__rate_interval]))', "{{stage}}"),
                unit="ops",
                min=0,
            ),
            lines(
                "Waiting messages",
                target("sum by (stage, lane) (stage_lane:echogen_queue_messages:max)", "{{stage}} {{lane}}"),
                min=0,
            ),
            lines(
                "Task duration, p95",
                *quantiles("echogen_task_seconds", ["stage"], legend="{{stage}}", shares=(0.95,)),
                unit="s",
                min=0,
            ),
            lines(
                "Queue wait time, p95",
                *quantiles("echogen_queue_wait_seconds", ["stage"], legend="{{stage}}", shares=(0.95,)),
                unit="s",
                min=0,
            ),
            lines("Cache hit ratio", target(f"{hits} / {requests}", "{{kind}}"), unit="percentunit", min=0, max=1, width=8),
            lines(
                "Retries and dead letters",
                target(f"sum by (stage) ({tasks}{{outcome=\"retried\"}}[$__rate_interval]))", "{{stage}} retried"),
                target(f"sum by (stage) ({tasks}{{outcome=\"dead_lettered\"}}[$__rate_interval]))", "{{stage}} parked"),
                unit="ops",
                min=0,
                width=8,
            ),
            lines(
                "Failed calls to the object store",
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
                "Consuming processes",
                target("sum by (stage) (echogen_consuming)", "{{stage}}"),
                min=0,
                width=8,
            ),
            lines("Tasks in progress", target("sum by (stage) (echogen_tasks_in_progress)", "{{stage}}"), min=0, width=8),
            lines(
                "Canary",
                target("max(echogen_canary_seconds)", "seconds"),
                unit="s",
                min=0,
                width=8,
            ),
            lines(
                "Requests to the gateway",
                target("sum by (class) (rate(echogen_http_requests_total[$__rate_interval]))", "{{class}}"),
                unit="ops",
                stacked=True,
                min=0,
                width=6,
            ),
            lines(
                "Duration of requests, p99",
                *quantiles("echogen_http_request_seconds", ["route"], legend="{{route}}", shares=(0.99,)),
                unit="s",
                min=0,
                width=6,
                help_text="Sending a job may wait for its end; uploads wait for the client.",
            ),
            lines(
                "Refused requests",
                target("sum by (reason) (rate(echogen_http_refusals_total[$__rate_interval]))", "{{reason}}"),
                unit="ops",
                stacked=True,
                min=0,
                width=6,
            ),
            lines("Open streams", target("echogen_http_streams", "{{instance}}"), min=0, width=6),
            panel(
                "table",
                "Versions",
                [target("count by (version) (echogen_build_info)", instant=True)],
                width=8,
                height=6,
                help_text="More than one during an upgrade.",
                transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True}}}],
            ),
            panel(
                "table",
                "Loaded networks",
                [target("count by (bundle, network, digest) (echogen_model_info)", instant=True)],
                width=16,
                height=6,
                transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True}}}],
            ),
        ],
    )


def stage():
    here = '{stage="$stage"}'

    def ended(outcome):
        return f'sum(rate(echogen_tasks_total{{stage="$stage", outcome="{outcome}"}}[$__rate_interval]))'

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
                help_text="A process far below the others runs on a slow or throttled machine.",
            ),
            lines("Task duration", *quantiles("echogen_task_seconds", [], here), unit="s", min=0),
            heat("Distribution of the task duration", "echogen_task_seconds", here, unit="s"),
            lines("Queue wait time", *quantiles("echogen_queue_wait_seconds", [], here), unit="s", min=0),
            heat("Distribution of the queue wait time", "echogen_queue_wait_seconds", here, unit="s"),
            lines(
                "Waiting messages",
                target(f"sum by (lane) (stage_lane:echogen_queue_messages:max{here})", "{{lane}}"),
                min=0,
                width=8,
            ),
            lines(
                "Backlog",
                target(f"max by (lane) (stage_lane:echogen_drain_seconds{here})", "{{lane}}, with all processes"),
                target(f"max by (lane) (stage_lane:echogen_work_waiting_seconds:max{here})", "{{lane}}, with one process"),
                unit="s",
                min=0,
                width=8,
            ),
            lines(
                "Processes",
                target(f"sum(echogen_ready{here})", "ready"),
                target(f"sum(echogen_consuming{here})", "consuming"),
                min=0,
                width=8,
            ),
            lines("Tasks in progress", target(f"echogen_tasks_in_progress{here}", "{{instance}}"), min=0, width=8),
            lines(
                "Time since progress",
                target(f"echogen_seconds_since_progress{here}", "{{instance}}"),
                unit="s",
                min=0,
                width=8,
                help_text="0 in a process without tasks.",
            ),
            lines(
                "Retries and dead letters",
                target(ended("retried"), "retried"),
                target(ended("dead_lettered"), "parked"),
                target(f"sum(max by ({INSTALLATION}, lane) (echogen_dead_letter_messages{here}))", "dead letters"),
                min=0,
                width=8,
            ),
        ],
        [choice("stage", "Stage", STAGES)],
    )


def sampler():
    mean_batch = "sum(rate(echogen_batch_size_sum[$__rate_interval])) / sum(rate(echogen_batch_size_count[$__rate_interval]))"
    return dashboard(
        "sampler",
        "Sampler",
        "Batches, scales and memory of the sampler.",
        [
            lines(
                "Images per second",
                target("sum by (instance) (rate(echogen_batch_size_sum[$__rate_interval]))", "{{instance}}"),
                unit="ops",
                stacked=True,
                min=0,
            ),
            lines(
                "Images per batch",
                target(mean_batch, "mean"),
                *quantiles("echogen_batch_size", [], shares=(0.95,)),
                min=0,
                help_text="Far below the limit while tasks wait: too many different shapes, or too little memory.",
            ),
            heat("Distribution of the images per batch", "echogen_batch_size", unit="short"),
            lines(
                "Batches by reason of closing",
                target("sum by (reason) (rate(echogen_batches_total[$__rate_interval]))", "{{reason}}"),
                unit="ops",
                stacked=True,
                min=0,
            ),
            lines(
                "Duration of each scale, mean",
                target(
                    "sum by (scale) (rate(echogen_scale_seconds_sum[$__rate_interval])) "
                    "/ sum by (scale) (rate(echogen_scale_seconds_count[$__rate_interval]))",
                    "scale {{scale}}",
                ),
                unit="s",
                stacked=True,
                min=0,
                help_text="The sum is what a batch takes, with one of its images decoded.",
            ),
            lines(
                "Duration of each scale, p95",
                *quantiles("echogen_scale_seconds", ["scale"], legend="scale {{scale}}", shares=(0.95,)),
                unit="s",
                min=0,
            ),
            lines(
                "Time spent sampling",
                target("sum by (instance) (rate(echogen_scale_seconds_sum[$__rate_interval]))", "{{instance}}"),
                unit="percentunit",
                min=0,
                help_text="Share of the time in which a batch is sampled. Below 1 while tasks wait: check the stores.",
            ),
            lines(
                "Memory of key-value caches",
                target("echogen_kv_cache_bytes", "{{instance}}"),
                unit="bytes",
                min=0,
            ),
            lines(
                "Waiting for a turn, p95",
                *quantiles("echogen_turn_wait_seconds", ["lane"], legend="{{lane}}", shares=(0.95,)),
                unit="s",
                min=0,
                help_text="Before each step of a job's batches. Interactive jobs wait for one scale of another batch.",
            ),
            lines(
                "Batches in progress",
                target("echogen_batches_in_progress", "{{instance}}"),
                min=0,
                help_text="They take turns, one scale at a time, within the memory of the key-value caches.",
            ),
            lines(
                "Task duration",
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
                "Object store calls, p95",
                *quantiles("echogen_object_store_seconds", ["operation"], legend="{{operation}}", shares=(0.95,)),
                unit="s",
                min=0,
                width=8,
            ),
            lines(
                "Processes of each pool",
                target('sum by (pool) (echogen_consuming{stage="sampler"})', "{{pool}}"),
                target('sum by (pool) (1 - echogen_ready{stage="sampler"})', "{{pool}}, not ready"),
                min=0,
                help_text="Samplers without pools are one, which has no name.",
            ),
            lines(
                "Images per second of each pool",
                target("sum by (pool) (rate(echogen_batch_size_sum[$__rate_interval]))", "{{pool}}"),
                unit="ops",
                stacked=True,
                min=0,
            ),
        ],
    )


def cost():
    completed = 'sum(rate(echogen_jobs_total{outcome="completed"}[1h]))'
    others = "|".join(stage for stage in MAIN_STAGES if stage != "sampler")
    # A consuming process costs the same with and without tasks.
    hourly = (
        '(sum(echogen_consuming{stage="sampler"}) * $sampler_price '
        f'+ sum(echogen_consuming{{stage=~"{others}"}}) * $other_price)'
    )
    mean = (
        'sum by (stage) (rate(echogen_task_seconds_sum{stage=~"segmenter|encoder"}[1h])) '
        '/ sum by (stage) (rate(echogen_task_seconds_count{stage=~"segmenter|encoder"}[1h]))'
    )
    return dashboard(
        "cost",
        "Cost",
        "What 1000 jobs cost, and what the caches save. Enter the price of a process per hour, for samplers and other roles.",
        [
            number("Cost of 1000 jobs", f"{hourly} / ({completed} * 3600) * 1000", unit="currencyUSD", width=6, decimals=2),
            number("Cost per hour", hourly, unit="currencyUSD", width=6, decimals=2),
            number("Jobs per hour", f"{completed} * 3600", width=6, decimals=0),
            number("Sampler seconds per job", f'sum(rate(echogen_scale_seconds_sum[1h])) / {completed}', unit="s", width=6),
            lines(
                "Cost of 1000 jobs over time",
                target(f"{hourly} / ({completed} * 3600) * 1000", "1000 jobs"),
                unit="currencyUSD",
                min=0,
            ),
            lines(
                "Task seconds per job",
                target(f"sum by (stage) (rate(echogen_task_seconds_sum[1h])) / on () group_left {completed}", "{{stage}}"),
                unit="s",
                stacked=True,
                min=0,
                help_text="Includes waiting for servers. Cache hits reduce the shares of segmenter and encoder.",
            ),
            lines(
                "Consuming processes",
                target("sum by (stage) (echogen_consuming)", "{{stage}}"),
                stacked=True,
                min=0,
            ),
            lines(
                "Sampler utilisation",
                target(
                    'sum(rate(echogen_scale_seconds_sum[$__rate_interval])) / sum(echogen_consuming{stage="sampler"})',
                    "sampling",
                ),
                unit="percentunit",
                min=0,
                help_text="The rest is idle time that is paid for: run fewer processes, or larger batches.",
            ),
            lines(
                "Seconds saved by the cache, per second",
                target(
                    'sum(rate(echogen_cache_requests_total{result="hit",kind="subject"}[1h])) '
                    '* scalar(sum(rate(echogen_task_seconds_sum{stage="encoder"}[1h])) '
                    '/ sum(rate(echogen_task_seconds_count{stage="encoder"}[1h])))',
                    "encoder",
                ),
                unit="s",
                min=0,
                help_text="An upper bound: without the cache, some of these objects would be read from the object store.",
            ),
            lines(
                "Waits for the same product",
                target("sum by (kind) (rate(echogen_single_flight_waits_total[$__rate_interval]))", "{{kind}}"),
                unit="ops",
                min=0,
                help_text="Tasks that waited for another process to compute the same product.",
            ),
            lines("Task duration, mean", target(mean, "{{stage}}"), unit="s", min=0),
            lines(
                "Share of attempts without a result",
                target(
                    'sum by (stage) (rate(echogen_tasks_total{outcome=~"retried|dead_lettered|requeued"}[$__rate_interval])) '
                    "/ sum by (stage) (rate(echogen_tasks_total[$__rate_interval]))",
                    "{{stage}}",
                ),
                unit="percentunit",
                min=0,
            ),
        ],
        [typed("sampler_price", "Price of a sampler-hour", "2.50"), typed("other_price", "Price of another role's hour", "0.10")],
    )


def objectives():
    took = "echogen_job_seconds"
    errors = "lane_slo:echogen_errors:ratio_rate"
    budget = "on (<namespace>, <release>, lane, slo) lane_slo:echogen_error_budget:ratio"
    return dashboard(
        "objectives",
        "Objectives",
        "What was promised to the jobs of each lane, and how much of the error budget of 30 days is left.",
        [
            number(
                "Least budget left",
                "min(lane_slo:echogen_error_budget_left:ratio > -Inf)",
                unit="percentunit",
                width=6,
                thresholds=red_below(0),
                help_text="Of all lanes and objectives. Below 0, more jobs broke the objective than may.",
            ),
            number("Completed within an hour", f'sum(increase({took}_count{{outcome="completed"}}[1h]))', width=6, decimals=0),
            number(
                "Interactive job, p95",
                f'histogram_quantile(0.95, sum by (le) (rate({took}_bucket{{lane="interactive", outcome="completed"}}[1h])))',
                unit="s",
                width=6,
            ),
            number(
                "Fastest burn within an hour",
                f"max({errors}1h / {budget})",
                width=6,
                decimals=1,
                thresholds=red_above(1, 14.4),
                help_text="1 uses up the budget in 30 days; 14.4 pages.",
            ),
            lines(
                "Error budget left",
                target("min by (lane, slo) (lane_slo:echogen_error_budget_left:ratio)", "{{lane}} {{slo}}"),
                unit="percentunit",
                max=1,
            ),
            lines(
                "Burn rate, one hour",
                target(f"max by (lane, slo) ({errors}1h / {budget})", "{{lane}} {{slo}}"),
                min=0,
                help_text="How many times faster than planned the error budget is used.",
            ),
            lines(
                "Job duration, p50",
                *quantiles(took, ["lane"], '{outcome="completed"}', legend="{{lane}}", shares=(0.5,)),
                unit="s",
                min=0,
                width=8,
                help_text="From the first publication to the result.",
            ),
            lines(
                "Job duration, p95",
                *quantiles(took, ["lane"], '{outcome="completed"}', legend="{{lane}}", shares=(0.95,)),
                unit="s",
                min=0,
                width=8,
            ),
            lines(
                "Jobs by lane and outcome",
                target(f"sum by (lane, outcome) (rate({took}_count[$__rate_interval]))", "{{lane}} {{outcome}}"),
                unit="ops",
                stacked=True,
                min=0,
                width=8,
            ),
            heat("Distribution of the duration of completed jobs", took, '{outcome="completed"}', unit="s", width=24),
        ],
    )


def written(namespace="namespace", release="release"):
    """The files' names and texts; the two labels tell installations apart."""
    made = [overview(), objectives(), stage(), sampler(), cost()]
    made += [infrastructure.rabbitmq(), infrastructure.redis(), infrastructure.devices()]
    texts = {f"{each['uid']}.json": json.dumps(each, indent=1, ensure_ascii=False) + "\n" for each in made}
    return {name: text.replace("<namespace>", namespace).replace("<release>", release) for name, text in texts.items()}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, text in written().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
