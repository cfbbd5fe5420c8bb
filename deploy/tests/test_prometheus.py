"""The scrape configuration, the rules and their unit tests."""

import re

import mixin
import promql_parser as promql
import pytest
from common import DEPLOY, ROOT, load, metrics_list, run, tool
from queries import INSTALLATION, all_rules, check, nodes, recorded

RULES = DEPLOY / "prometheus/rules"
UNIT_TESTS = sorted((DEPLOY / "prometheus/tests").glob("*.yaml"))


def alerts():
    return {rule["alert"]: rule for rule in all_rules() if "alert" in rule}


def cases():
    return [case for path in UNIT_TESTS for case in load(path)["tests"]]


def test_promtool_finds_nothing_wrong():
    run(tool("promtool"), "check", "config", "prometheus.yaml", cwd=DEPLOY / "prometheus")
    run(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *sorted(RULES.glob("*.yaml")))


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_the_rules_pass_their_unit_tests(path):
    run(tool("promtool"), "test", "rules", path)


def test_every_alert_has_a_test_in_which_it_fires():
    tried = set()
    for case in cases():
        tried |= {each["alertname"] for each in case.get("alert_rule_test", []) if each["exp_alerts"]}
    assert tried == set(alerts())


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_queries_what_exists_and_has_a_runbook_entry(name):
    rule = alerts()[name]
    if name != "EchogenWatchdog":
        check(rule["expr"])
    assert rule["labels"]["severity"] in ("page", "ticket", "none")
    # A path, which is no URL: the chart makes one of it if it is given the page's address.
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    page, anchor = rule["annotations"]["runbook"].split("#")
    assert anchor == name.lower()
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert name in headings, f"{page} has no entry {name}"


def test_the_runbook_has_no_entry_for_an_alert_that_is_gone():
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (Echogen\w+)$", text, re.MULTILINE)) == set(alerts())


@pytest.mark.parametrize("name", sorted(recorded()))
def test_a_recording_rule_queries_what_exists(name):
    for rule in all_rules():
        if rule.get("record") == name:
            check(rule["expr"])


def aggregations(tree):
    """Every aggregation, and every match of two vectors, with its labels."""
    for node in nodes(tree):
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql.AggregateExpr):
            yield set(getattr(modifier, "labels", None) or [])


@pytest.mark.parametrize("place", range(len(all_rules())))
def test_no_rule_adds_installations_up(place):
    rule = all_rules()[place]
    for labels in aggregations(promql.parse(rule["expr"])):
        # Whether anything at all was ever seen is asked of all of them.
        assert labels >= INSTALLATION or "unless on ()" in rule["expr"] and not labels, rule["expr"]


def test_rules_can_be_written_for_other_labels_and_thresholds(tmp_path):
    values = mixin.read(mixin.VALUES)
    values["labels"] = {"namespace": "kubernetes_namespace", "release": ""}
    values["selector"] = 'cluster="eu",'
    values["runbook_url"] = "https://wiki.example.org/echogen"
    values["thresholds"]["backlog_seconds"] = 7200
    values["objectives"]["interactive"] |= {"availability": 0.95, "page": False}
    for name, text in mixin.rules(values).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert not re.search(r"<[a-z_]+>", text), "something is not filled in"
        assert "namespace, release" not in text and "docs/operations.md#" not in text
    run(tool("promtool"), "check", "rules", *sorted(tmp_path.glob("*.yaml")))
    text = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*.yaml"))
    for wanted in ('{cluster="eu",lane="bulk"}', "> 7200", "(1 - 0.95)", 'lane=~"standard"', "by (kubernetes_namespace, lane)"):
        assert wanted in text, wanted


def test_rules_can_be_written_for_series_without_such_labels(tmp_path):
    values = mixin.read(mixin.VALUES)
    values["labels"] = {"namespace": "", "release": ""}
    for name, text in mixin.rules(values).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    run(tool("promtool"), "check", "rules", *sorted(tmp_path.glob("*.yaml")))


def test_objectives_are_bounds_that_the_program_has():
    lanes = mixin.read(mixin.VALUES)["objectives"]
    assert set(lanes) == metrics_list().values["echogen_job_seconds", "lane"]
    for promised in lanes.values():
        assert promised["latency_seconds"] in mixin.bounds()
        assert 0 < promised["availability"] < 1 and 0 < promised["latency"] < 1
