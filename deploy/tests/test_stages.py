"""Everything that names roles or stages names those of deploy/stages.json: all of them, and no other."""

import json

import dashboards
import generate
import pytest
import yaml
from common import CHART, DEPLOY, PORT, ROLES, STAGES, load, metrics_list, program_commands
from queries import recorded, stages_of

# Programs that are installed beside the roles.
OTHERS = {"canary", "gateway", "models", "test"}


def documents(case, kind):
    texts = generate.rendered(case)
    objects = [each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text)]
    return [each for each in objects if each and each["kind"] == kind]


def component(labels):
    return labels.get("app.kubernetes.io/component")


def test_every_stage_runs_in_one_role():
    assert sorted(stage for stages in ROLES.values() for stage in stages) == sorted(STAGES)
    assert set(ROLES) <= program_commands()


def test_the_compose_files_have_every_role():
    ours = {name for name, service in load(DEPLOY / "compose.yaml")["services"].items() if "build" in service}
    assert ours == {*ROLES, "canary", "gateway", "models", "echogen"}
    awaited = load(DEPLOY / "compose.yaml")["services"]["canary"]["depends_on"]
    assert set(awaited) == set(ROLES)
    with_gpu = load(DEPLOY / "compose.gpu.yaml")["services"]
    assert {name for name, service in with_gpu.items() if "build" in service} <= set(ROLES)


def test_the_chart_has_every_role():
    assert set(load(CHART / "values.yaml")["roles"]) == set(ROLES)
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]["roles"]["properties"]) == set(ROLES)
    for kind, others in {
        "Deployment": {"canary", "gateway"},
        "Service": {"canary", "gateway", "gateway-admin"},
        "PodDisruptionBudget": {"gateway"},
        "ScaledObject": set(),
    }.items():
        found = {component(each["metadata"]["labels"]) for each in documents("full", kind)}
        assert found == set(ROLES) | others, kind


@pytest.mark.parametrize("case", sorted(generate.CASES))
def test_network_policies_select_every_role_and_name_no_other(case):
    policies = documents(case, "NetworkPolicy")
    if not policies:
        assert case == "minimal"
        return
    named, general = set(), False
    for policy in policies:
        selector = policy["spec"]["podSelector"]
        for expression in selector.get("matchExpressions", []):
            named |= set(expression["values"])
        general |= "matchExpressions" not in selector and component(selector["matchLabels"]) is None
    assert general, "one policy has to select the pods of every role"
    assert named <= {*ROLES, *OTHERS}


def test_prometheus_scrapes_every_role():
    jobs = {job["job_name"]: job for job in load(DEPLOY / "prometheus/prometheus.yaml")["scrape_configs"]}
    found = jobs["echogen"]["dns_sd_configs"][0]
    assert found["port"] == PORT
    assert set(found["names"]) == {*ROLES, "canary", "gateway"}


def test_the_metrics_have_every_stage():
    values = {name: found for (name, label), found in metrics_list().values.items() if label == "stage"}
    assert values
    for name, found in values.items():
        assert found == set(STAGES), name


def test_the_dashboards_show_every_stage():
    board = json.loads(dashboards.written()["echogen-stage.json"])
    (choice,) = [each for each in board["templating"]["list"] if each["name"] == "stage"]
    assert [option["value"] for option in choice["options"]] == list(STAGES)
    board = json.loads(dashboards.written()["echogen-overview.json"])
    covered = [expression for panel in board["panels"] for expression in expressions(panel)]
    for name in ("echogen_tasks_total", "stage_lane:echogen_drain_seconds", "echogen_consuming"):
        found = set().union(*(stages_of(expression, STAGES).get(name, set()) for expression in covered))
        assert found == set(STAGES), f"the overview does not show {name} of {set(STAGES) - found}"


def expressions(panel):
    return [target["expr"] for target in panel["targets"]]


# Alerts on some stages only. Callbacks, which the notifier sends, have an alert of their own.
PARTIAL = {
    "EchogenAbsent": {"dispatcher"},
    "EchogenDeadLetters": set(STAGES) - {"notifier"},
    "EchogenParkedTasks": set(STAGES) - {"notifier"},
    "EchogenCallbacks": {"notifier"},
}


def test_the_alerts_cover_every_stage():
    groups = load(DEPLOY / "prometheus/rules/alerts.yaml")["groups"]
    rules = {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}
    assert set(PARTIAL) <= set(rules)
    for alert, expression in rules.items():
        for metric, stages in stages_of(expression, STAGES).items():
            assert stages == PARTIAL.get(alert, set(STAGES)), f"{alert}: {metric}"
    assert PARTIAL["EchogenDeadLetters"] | PARTIAL["EchogenCallbacks"] == set(STAGES)
    for name, expression in recorded().items():
        assert all(stages == set(STAGES) for stages in stages_of(expression, STAGES).values()), name
