"""The scrape configuration, the rules and their unit tests."""

import re

import pytest
from common import DEPLOY, ROOT, load, run, tool
from queries import check, recorded

RULES = DEPLOY / "prometheus/rules"


def alerts():
    groups = load(RULES / "alerts.yaml")["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_promtool_finds_nothing_wrong():
    run(tool("promtool"), "check", "config", "prometheus.yaml", cwd=DEPLOY / "prometheus")
    run(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *sorted(RULES.glob("*.yaml")))


def test_the_rules_pass_their_unit_tests():
    run(tool("promtool"), "test", "rules", DEPLOY / "prometheus/tests/alerts.yaml")


def test_every_alert_has_a_test_in_which_it_fires():
    tried = set()
    for case in load(DEPLOY / "prometheus/tests/alerts.yaml")["tests"]:
        tried |= {each["alertname"] for each in case.get("alert_rule_test", []) if each["exp_alerts"]}
    assert tried == set(alerts())


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_queries_what_exists_and_has_a_runbook_entry(name):
    rule = alerts()[name]
    check(rule["expr"])
    assert rule["labels"]["severity"] in ("page", "ticket")
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
    check(recorded()[name])
