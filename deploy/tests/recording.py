"""A private Prometheus with two hours of invented data.

Every metric of the list has a series for every value of its labels, so a query without a result is wrong. Metrics of servers
and devices have one for each example of their labels' values.
"""

import itertools
import json
import math
import subprocess
import time
import urllib.request
from contextlib import contextmanager

from common import DEPLOY, metrics_list, run, tool
from exporters import exported

HOURS = 2
STEP = 30
BUCKETS = {
    "echogen_batch_size": [1, 2, 4, 8, 16, 32],
    "echogen_queue_wait_seconds": [0.1, 1, 5, 15, 60, 300],
    "echogen_job_seconds": [5, 60, 600, 86400],
}
SECONDS = [0.01, 0.05, 0.25, 1, 5, 30]
OPEN = {"scale": [str(number) for number in range(1, 6)], "version": ["0.1.0"], "bundle": ["mini"]}
OPEN |= {"route": ["show_job", "submit_job"], "reason": ["rate-limited", "unavailable"]}
OPEN |= {"network": ["transformer"], "digest": ["1f" * 32]}


def instances(name, values):
    """The processes that have a series: two of its stage, or of the samplers."""
    if "canary" in name:
        return ["canary:9464"]
    stage = values.get("stage", "sampler")
    return [] if stage == "other" else [f"{stage}-{number}:9464" for number in (1, 2)]


def exported_series():
    """The series of servers and devices: name, kind, labels."""
    for name, (kind, labels) in exported().items():
        target = {"instance": f"{name.split('_')[0]}:9", "job": "servers", "namespace": "pictures", "release": "echogen"}
        for values in itertools.product(*labels.values()):
            yield name, kind, dict(zip(labels, values, strict=True)) | target


def series():
    """Every series: name, kind, labels."""
    yield from own_series()
    yield from exported_series()


def own_series():
    known = metrics_list()
    for name, kind in known.kinds.items():
        names = sorted(known.labels[name])
        choices = [sorted(known.values.get((name, label), OPEN.get(label, {"x"}))) for label in names]
        for combination in itertools.product(*choices):
            values = dict(zip(names, combination, strict=False))
            if values.get("stage") == "dispatcher" and values.get("lane") == "all":
                continue
            if {"lane", "stage"} <= values.keys() and values["stage"] != "dispatcher" and values["lane"] != "all":
                continue
            for instance in instances(name, values):
                yield name, kind, values | {"instance": instance, "job": "echogen", "namespace": "pictures", "release": "echogen"}


def pace(labels):
    """Events per minute; failures are rarer."""
    bad = {"failed", "expired", "cancelled", "retried", "dead_lettered", "requeued", "parked", "error", "transient", "permanent"}
    bad |= {"late", "unsent"}
    return 0.05 if bad & set(labels.values()) else 6.0


def gauge(name, labels, minute):
    wave = 1 + math.sin(minute / 17 + len(labels["instance"]))
    fixed = {"echogen_consuming": 1, "echogen_ready": 1, "echogen_build_info": 1, "echogen_model_info": 1}
    large = {"echogen_kv_cache_bytes": 1e9, "echogen_work_waiting_seconds": 120, "echogen_queue_messages": 300}
    return fixed.get(name, wave * large.get(name, 4))


def lines(name, kind, labels, minute, when):
    """The samples of one series at one moment, as OpenMetrics text."""
    shown = ",".join(f'{label}="{value}"' for label, value in labels.items())
    grown = pace(labels) * minute * (1 + 0.2 * math.sin(minute / 23))
    if kind == "gauge":
        yield f"{name}{{{shown}}} {gauge(name, labels, minute):g} {when}"
    elif kind == "counter":
        yield f"{name}{{{shown}}} {0 if 'device_faults' in name else round(grown)} {when}"
    else:
        bounds = BUCKETS.get(name, SECONDS)
        for place, bound in enumerate(bounds, 1):
            yield f'{name}_bucket{{{shown},le="{bound:g}"}} {round(grown * place / len(bounds))} {when}'
        yield f'{name}_bucket{{{shown},le="+Inf"}} {round(grown)} {when}'
        yield f"{name}_count{{{shown}}} {round(grown)} {when}"
        yield f"{name}_sum{{{shown}}} {grown * bounds[len(bounds) // 2]:g} {when}"


def write(path, now):
    # The file must have all samples of one metric together.
    moments = range(now - HOURS * 3600, now + 1, STEP)
    with path.open("w", encoding="utf-8") as file:
        for name, found in itertools.groupby(series(), key=lambda each: each[0]):
            family = name.removesuffix("_total")
            found = list(found)
            # DCGM's counters do not end as OpenMetrics has it.
            kind = "unknown" if found[0][1] == "counter" and family == name else found[0][1]
            file.write(f"# TYPE {family} {kind}\n")
            for _, kind, labels in found:
                for when in moments:
                    minute = (when - moments[0]) / 60
                    file.writelines(line + "\n" for line in lines(name, kind, labels, minute, when))
        file.write("# EOF\n")


@contextmanager
def prometheus(folder):
    """Starts it on a free port and yields its address, and the time at which the data end."""
    now = int(time.time()) // 60 * 60
    write(folder / "recording.txt", now)
    run(tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", folder / "recording.txt", folder / "data")
    (folder / "prometheus.yaml").write_text("global: {}\n", encoding="utf-8")
    # Twice, since some rules use the results of others.
    replay(folder, now)
    replay(folder, now)
    with started(folder) as address:
        yield address, now


def replay(folder, now):
    """Writes the series of the recording rules."""
    span = ["--start", now - HOURS * 3600, "--end", now, "--eval-interval", f"{STEP}s", "--output-dir", folder / "data"]
    rules = [DEPLOY / "prometheus/rules" / name for name in ("recording.yaml", "objectives.yaml")]
    with started(folder) as address:
        run(tool("promtool"), "tsdb", "create-blocks-from", "rules", *span, "--url", address, *rules)


@contextmanager
def started(folder):
    command = [tool("prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    # Port 0: it takes a free one and logs which.
    command += ["--web.listen-address=127.0.0.1:0", "--storage.tsdb.retention.time=90d", "--log.format=json"]
    log = (folder / "log").open("w+", encoding="utf-8")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield ready(folder / "log", process)
    finally:
        process.terminate()
        process.wait(timeout=120)
        log.close()


def ready(log, process):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        for line in log.read_text(encoding="utf-8").splitlines():
            said = json.loads(line) if line.startswith("{") and line.endswith("}") else {}
            address = said.get("address", "")
            if said.get("msg") == "Listening on" and address.startswith("127.0.0.1:"):
                try:
                    urllib.request.urlopen(f"http://{address}/-/ready", timeout=10).close()
                    return f"http://{address}"
                except OSError:
                    pass
        time.sleep(0.1)
    raise AssertionError(f"Prometheus is not ready: {log.read_text(encoding='utf-8')}")
