"""Alertmanager's configuration: where each alert goes, and which alerts keep others silent."""

import json
import subprocess
import time
import urllib.request

import pytest
from common import DEPLOY, free_port, load, run, tool
from queries import all_rules

CONFIG = DEPLOY / "prometheus/alertmanager.yaml"
ALERTS = {rule["alert"]: rule["labels"]["severity"] for rule in all_rules() if "alert" in rule}
RECEIVERS = {"page": "pager", "ticket": "tickets", "none": "heartbeat"}


def test_amtool_finds_nothing_wrong():
    said = run(tool("amtool"), "check-config", CONFIG)
    assert "SUCCESS" in said


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_goes_where_its_severity_says(name):
    labels = [f"alertname={name}", f"severity={ALERTS[name]}", "namespace=production", "release=echogen"]
    said = run(tool("amtool"), "config", "routes", "test", f"--config.file={CONFIG}", *labels)
    assert said.split() == [RECEIVERS[ALERTS[name]]]


def test_prometheus_sends_alerts_to_it():
    prometheus = load(DEPLOY / "prometheus/prometheus.yaml")
    (manager,) = prometheus["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    service = load(DEPLOY / "compose.yaml")["services"]["alertmanager"]
    assert "./prometheus/alertmanager.yaml:/etc/alertmanager/alertmanager.yaml:ro" in service["volumes"]
    assert "--config.file=/etc/alertmanager/alertmanager.yaml" in service["command"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A private Alertmanager with this configuration."""
    folder = tmp_path_factory.mktemp("alertmanager")
    address = f"127.0.0.1:{free_port()}"
    command = [tool("alertmanager"), f"--config.file={CONFIG}", f"--storage.path={folder}"]
    command += [f"--web.listen-address={address}", "--cluster.listen-address="]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait(lambda: answers(f"http://{address}/-/ready"), f"Alertmanager is not ready: {folder}/log")
            yield f"http://{address}/api/v2/alerts"
        finally:
            process.terminate()
            process.wait(timeout=60)


def answers(url):
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except OSError:
        return False
    return True


def wait(condition, why):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.1)


def alert(name, namespace, **labels):
    return {"labels": {"alertname": name, "severity": ALERTS[name], "namespace": namespace, "release": "echogen"} | labels}


def silent(server, alerts):
    """The alerts that others keep silent, after all have come in."""
    request = urllib.request.Request(server, json.dumps(alerts).encode(), {"content-type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()

    def found():
        with urllib.request.urlopen(server, timeout=10) as answer:
            return json.load(answer)

    # An alert that no rule has looked at yet is `unprocessed`.
    namespaces = {each["labels"]["namespace"] for each in alerts}
    mine = [each for each in found() if each["labels"]["namespace"] in namespaces]
    wait(lambda: all(each["status"]["state"] != "unprocessed" for each in found()), "alerts are not processed")
    mine = [each for each in found() if each["labels"]["namespace"] in namespaces]
    assert len(mine) == len(alerts)
    return {
        (each["labels"]["alertname"], each["labels"]["namespace"]) for each in mine if each["status"]["state"] == "suppressed"
    }


def test_without_a_dispatcher_only_that_is_said_and_of_that_installation_only(server):
    # The cause first: what it silences would else be sent before it is known.
    assert silent(server, [alert("EchogenAbsent", "a")]) == set()
    others = ["EchogenStageStuck", "EchogenCanaryFailing", "EchogenInteractiveBacklog", "EchogenErrorBudgetBurnsFast"]
    given = [alert("EchogenAbsent", "a"), alert("EchogenDeviceFault", "a"), alert("EchogenStageStuck", "b", stage="sampler")]
    given += [alert(name, "a") for name in others]
    assert silent(server, given) == {(name, "a") for name in others}


def test_a_fast_loss_silences_the_slow_one_of_its_own_lane(server):
    fast = [alert("EchogenErrorBudgetBurnsFast", "c", lane="interactive", slo="latency")]
    assert silent(server, fast) == set()
    slow = [alert("EchogenErrorBudgetBurnsSlowly", "c", lane="interactive", slo="latency")]
    assert silent(server, fast + slow) == {("EchogenErrorBudgetBurnsSlowly", "c")}
    other = [alert("EchogenErrorBudgetBurnsSlowly", "d", lane="bulk", slo="latency")]
    assert silent(server, other) == set()


def test_every_alert_that_is_named_exists():
    for rule in load(CONFIG)["inhibit_rules"]:
        assert rule["equal"][:2] == ["namespace", "release"]
        for matcher in rule["source_matchers"]:
            assert matcher.split('"')[1] in ALERTS
