#!/usr/bin/env python3
"""The metrics of servers and devices that dashboards query, as lists in metrics/: a name, its kind, its labels with examples.

    unshare --net deploy/tests/exporters.py rabbitmq redis

writes the lists of servers that Debian has, from what they say when they run: RabbitMQ with its plugin `prometheus`, and Redis
with the package prometheus-redis-exporter, whose program $REDIS_EXPORTER names. The others are kept by hand, from what is
published: `rabbitmq-newer` has what RabbitMQ's plugin calls otherwise since 4.2, `dcgm` what NVIDIA's exporter has by default
and the fields of dcgm-counters.csv.
"""

import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "metrics"
sys.path.insert(0, str(FOLDER.parents[1] / "image_test"))
import network  # noqa: E402 -- they start the servers of the test of the image, too
import servers  # noqa: E402

EXPORTER = 9121
# More than one of these says nothing more.
EXAMPLES = 3


def parsed(text):
    """A list: each metric's kind, and its labels with their examples."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, kind, *labels = line.split(" ")
            found[name] = (kind, {label: values.split(",") for label, values in (each.split("=", 1) for each in labels)})
    return found


@cache
def exported():
    """Every metric of every list."""
    found = {}
    for path in sorted(FOLDER.glob("*.txt")):
        found |= parsed(path.read_text(encoding="utf-8"))
    return found


def listed(text, prefix):
    """The list of what is scraped: gauges and counters whose names begin so."""
    kinds, labels = {}, {}
    for line in text.splitlines():
        if match := re.fullmatch(rf"# TYPE ({prefix}\w+) (gauge|counter|untyped)", line):
            kinds[match[1]] = "gauge" if match[2] == "untyped" else match[2]
        elif (match := re.match(r"(\w+)(?:\{(.*)\})? ", line)) and match[1] in kinds:
            for label, value in re.findall(r'(\w+)="([^"]*)"', match[2] or ""):
                labels.setdefault(match[1], {}).setdefault(label, set()).add(value)
    lines = []
    for name, kind in sorted(kinds.items()):
        shown = [f"{label}={','.join(examples(values))}" for label, values in sorted(labels.get(name, {}).items())]
        lines.append(" ".join([name, kind, *shown]))
    return "\n".join(lines) + "\n"


def examples(values):
    """Some of them that stay the same from run to run and contain no separator."""
    plain = [value for value in sorted(values) if re.fullmatch(r"[a-z_0-9]*[a-z_][0-9]*", value)]
    return plain[:EXAMPLES] or ["x"]


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def rabbitmq(folder):
    """What a node with one quorum queue says."""
    server = servers.RabbitMq(folder / "rabbitmq", "someone", "secret")
    server.start()
    try:
        server.declare("tasks")
        server.publish("tasks", "a task")
        # The plugin's numbers are as old as the interval of the node's statistics, five seconds.
        servers.wait(lambda: "\nrabbitmq_queue_messages_ready 1\n" in scraped(server.METRICS), 60, "the message is not counted")
        return listed(scraped(server.METRICS), "rabbitmq_")
    finally:
        server.kill()
        server.names.kill()


def redis(folder):
    """What the exporter says of a Redis that has evaluated a few commands."""
    server = servers.Process(["redis-server", "--port", "6379", "--save", "", "--dir", folder], folder / "redis.txt")
    exporter = servers.Process([os.environ["REDIS_EXPORTER"]], folder / "exporter.txt")
    try:
        servers.wait(lambda: servers.listens(6379) and servers.listens(EXPORTER), 60, exporter.end)
        for command in ("set key value ex 100", "get key", "get other", "eval return 0"):
            subprocess.run(["redis-cli", *command.split()], check=True, capture_output=True)
        return listed(scraped(EXPORTER), "redis_")
    finally:
        exporter.kill()
        server.kill()


SERVERS = {"rabbitmq": rabbitmq, "redis": redis}


def asked(name):
    """The list of a server that is started for it."""
    with tempfile.TemporaryDirectory() as folder:
        return SERVERS[name](Path(folder))


def main():
    network.raise_loopback()
    for name in sys.argv[1:]:
        (FOLDER / f"{name}.txt").write_text(asked(name), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
