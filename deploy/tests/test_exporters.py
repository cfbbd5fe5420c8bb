"""Servers and devices: what their dashboards query is exported, scraped, and has the labels by which installations differ."""

import csv
import os
import shutil
import sys
from pathlib import Path

import promql_parser as promql
import pytest
from common import DEPLOY, load, run
from exporters import FOLDER, exported, parsed
from queries import INSTALLATION, filled_in, nodes
from test_dashboards import PANELS

SERVICES = load(DEPLOY / "compose.yaml")["services"] | load(DEPLOY / "compose.gpu.yaml")["services"]
JOBS = {job["job_name"]: job for job in load(DEPLOY / "prometheus/prometheus.yaml")["scrape_configs"]}
# The jobs by how their metrics begin.
SCRAPED = {"rabbitmq": "rabbitmq", "redis": "redis", "DCGM": "dcgm"}


def queried():
    """The metrics of servers and devices that panels query."""
    trees = [promql.parse(filled_in(target["expr"])) for _, panel in PANELS for target in panel["targets"]]
    names = {node.name for tree in trees for node in nodes(tree) if isinstance(node, promql.VectorSelector)}
    return {name for name in names if name in exported()}


def of(name):
    return parsed((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))


def test_every_kind_of_metric_has_a_board_and_a_job():
    assert {name.split("_")[0] for name in queried()} == {name.split("_")[0] for name in exported()} == set(SCRAPED)
    assert set(SCRAPED.values()) | {"echogen", "alertmanager", "prometheus"} == set(JOBS)


@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_job_scrapes_services_that_there_are(name):
    job = JOBS[name]
    targets = [target for each in job.get("static_configs", []) for target in each["targets"]]
    targets += [f"{host}:{each['port']}" for each in job.get("dns_sd_configs", []) for host in each["names"]]
    files = [path for each in job.get("file_sd_configs", []) for path in each["files"]]
    targets += [target for path in files for group in load(DEPLOY / "prometheus" / path) for target in group["targets"]]
    assert targets
    for target in targets:
        assert target.split(":")[0] in {*SERVICES, "localhost"}, f"compose has no {target}"


@pytest.mark.parametrize("name", sorted({*SCRAPED.values(), "echogen"}))
def test_what_boards_select_by_is_written(name):
    assert {each["target_label"] for each in JOBS[name]["relabel_configs"]} == INSTALLATION


def test_devices_are_scraped_with_a_gpu_only():
    mounted = "./prometheus/targets:/etc/prometheus/targets:ro"
    assert mounted in load(DEPLOY / "compose.gpu.yaml")["services"]["prometheus"]["volumes"]
    assert mounted not in load(DEPLOY / "compose.yaml")["services"]["prometheus"]["volumes"]


def test_the_exporter_of_devices_exports_what_the_board_shows():
    text = (DEPLOY / "dcgm-counters.csv").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if not row[0].startswith("#")]
    listed = of("dcgm")
    assert {row[0] for row in rows} == {name for name in queried() if name.startswith("DCGM")} <= set(listed)
    assert all(listed[field][0] == kind for field, kind, _ in rows)
    command, mounts = (SERVICES["dcgm-exporter"][name] for name in ("command", "volumes"))
    assert mounts == [f"./dcgm-counters.csv:{command[command.index('--collectors') + 1]}:ro"]


def installed(name):
    """Whether the programs are there that make the list."""
    if not shutil.which("unshare"):
        return False
    if name == "redis":
        return bool(shutil.which("redis-server"))
    return bool(shutil.which("epmd") and list(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server")))


@pytest.mark.parametrize("name", ["rabbitmq", "redis"])
def test_a_running_server_exports_what_its_board_shows(name):
    if not installed(name):
        pytest.skip("deploy/setup-debian.sh tests installs RabbitMQ and Redis")
    # In a network of its own, where the ports are free.
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", "--net", *as_root, sys.executable, "-c"]
    script = f"import exporters, network; network.raise_loopback(); print(exporters.asked({name!r}))"
    path = os.pathsep.join(str(DEPLOY / folder) for folder in ("tests", "image_test"))
    running = parsed(run(*command, script, env=os.environ | {"PYTHONPATH": path}))
    newer = set(of("rabbitmq-newer"))
    for metric in queried() - newer:
        if metric.startswith(f"{name}_"):
            kind, labels = running[metric]
            assert (kind, set(labels)) == (exported()[metric][0], set(exported()[metric][1])), metric
