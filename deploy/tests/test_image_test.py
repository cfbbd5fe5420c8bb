"""The parts of deploy/image-test.sh that need no servers: time that runs faster, and what is expected of each fault."""

import re
from types import SimpleNamespace

import compose
import containers
import faults
import hurry
import pytest
import watch
import yaml
from common import DEPLOY, ROLES, load, run, tool
from queries import all_rules

ALERTS = {rule["alert"]: rule["labels"]["severity"] for rule in all_rules() if "alert" in rule}
RECEIVERS = {"page": "pager", "ticket": "tickets"}
RULES = sorted((DEPLOY / "prometheus/rules").glob("*.yaml"))


def installation():
    does = ["kill", "start", "wait_until_ready", "signal"]
    roles = {name: SimpleNamespace(**dict.fromkeys(does)) for name in ("dispatcher", "segmenter", "encoder", "sampler")}
    servers = {name: SimpleNamespace(kill=None, start=None, publish=None) for name in ("rabbitmq", "redis", "s3")}
    return SimpleNamespace(roles=roles, servers=servers, load=SimpleNamespace(refused=None, send_late=None))


@pytest.mark.parametrize(
    ("duration", "factor", "wanted"),
    [("15m", 30, "30s"), ("6h", 30, "720s"), ("30s", 60, "1s"), ("1m", 1, "60s")],
)
def test_a_duration_is_divided(duration, factor, wanted):
    assert hurry.hurried(duration, factor) == wanted


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_duration_of_the_rules_is_divided_and_nothing_else_is(path, tmp_path):
    before, after = load(path), hurry.rules(load(path), 30)
    (tmp_path / path.name).write_text(yaml.safe_dump(after, width=10_000), encoding="utf-8")
    run(tool("promtool"), "check", "rules", tmp_path / path.name)
    for old, new in zip(before["groups"], after["groups"], strict=True):
        for rule, fast in zip(old["rules"], new["rules"], strict=True):
            assert {**rule, "expr": 0, "for": 0} == {**fast, "expr": 0, "for": 0}, "names and labels stay"
            slow_ones, fast_ones = (re.findall(r"\[(\w+)\]|offset (\w+)", text) for text in (rule["expr"], fast["expr"]))
            assert [hurry.hurried("".join(each), 30) for each in slow_ones] == ["".join(each) for each in fast_ones]
            without = [re.sub(r"\[\w+\]|offset \w+", "", text) for text in (rule["expr"], fast["expr"])]
            assert without[0] == without[1], "thresholds and names stay"


def test_every_wait_of_the_routes_is_divided():
    before = load(DEPLOY / "prometheus/alertmanager.yaml")
    after = hurry.routes(before, 30)
    text = yaml.safe_dump(after)
    assert not re.search(r"(wait|interval): \d+[mhd]", text)
    assert after["inhibit_rules"] == before["inhibit_rules"] and after["route"]["repeat_interval"] == "2880s"


def test_only_what_runs_is_scraped():
    roles = [f"{name}:9464" for name in (*ROLES, "canary", "gateway")]
    jobs = watch.Watch.scraping(roles)["scrape_configs"]
    found = {target for job in jobs for each in job["static_configs"] for target in each["targets"]}
    assert {each.split(":")[0] for each in found - set(roles)} == {"rabbitmq", "alertmanager", "localhost"}


def test_a_fault_expects_alerts_that_exist_where_they_are_sent():
    tried = faults.all_faults(installation())
    assert len({each.name for each in tried}) == len(tried) >= 8
    for fault in tried:
        for name, receiver in fault.arrives.items():
            assert receiver == RECEIVERS[ALERTS[name]], f"{fault.name}: {name} goes to another receiver"
        assert fault.may <= set(ALERTS) and not fault.may & set(fault.arrives)


def test_a_container_is_what_compose_says():
    variables = compose.read_secrets(DEPLOY / ".env.example")
    services = compose.services({name: value or "x" for name, value in variables.items()})
    image = SimpleNamespace(environment={"PATH": "/opt/echogen"}, root="/root", folder="/opt/echogen", entrypoint=["/e"])
    container = containers.Container("sampler", services["sampler"], image, DEPLOY / "tests", "/hosts", 9467)
    made = container.specification("run", ["/e", "sampler"])
    assert made["user"] == "65532:65532" and made["environment"]["ECHOGEN_TELEMETRY_LISTEN"] == "0.0.0.0:9467"
    assert {"source": str(DEPLOY / "echogen.toml"), "target": "/etc/echogen/echogen.toml"} in made["mounts"]
