"""The chart: it lints, renders, refuses nonsense, and what it renders to fits together and the program."""

import json
import re
from functools import cache

import generate
import jsonschema
import kubernetes_validate
import pytest
import yaml
from common import CHART, DEPLOY, PORT, ROLES, load, program_commands, program_variables
from helm_python.chart import Chart, lint
from queries import check

CASES = sorted(generate.CASES)
KUBERNETES = ["1.28", "1.37"]


def values(case):
    path = generate.CASES[case]
    return load(path) if path else {}


@cache
def objects(case):
    """What a case renders to, in order of the templates."""
    found = []
    for template, text in sorted(generate.rendered(case).items()):
        if template.endswith(".yaml"):
            found += [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
    return found


def of_kind(case, *kinds):
    return [each for each in objects(case) if each["kind"] in kinds]


def pods(case):
    """Every pod template, or pod, with its owner."""
    for owner in of_kind(case, "Deployment", "Job"):
        yield owner, owner["spec"]["template"]["metadata"], owner["spec"]["template"]["spec"]
    for pod in of_kind(case, "Pod"):
        yield pod, pod["metadata"], pod["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def pod_of(case, component):
    found = [spec for owner, meta, spec in pods(case) if meta["labels"]["app.kubernetes.io/component"] == component]
    assert len(found) == 1
    return found[0]


def variables(container):
    return {each["name"]: each.get("value") for each in container.get("env", [])}


@pytest.mark.parametrize("case", CASES)
def test_it_lints(case):
    report = lint(CHART, values(case), strict=True, namespace="pictures")
    grave = [message for message in report["messages"] if message["severity"] >= 2]
    assert not grave and not report["errors"]


def test_every_kind_is_there_when_everything_is_on():
    kinds = {each["kind"] for each in objects("full")}
    wanted = {"Deployment", "ConfigMap", "ServiceAccount", "Service", "ServiceMonitor", "PrometheusRule", "ScaledObject"}
    wanted |= {"PodDisruptionBudget", "NetworkPolicy", "PersistentVolumeClaim", "Job", "TriggerAuthentication", "Pod"}
    assert kinds == wanted
    assert {each["kind"] for each in objects("minimal")} == {"Deployment", "ConfigMap", "Secret", "Service", "Pod"}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_kubernetes_would_take_it(case, version):
    seen = set()
    for each in objects(case):
        identity = (each["kind"], each["metadata"]["name"])
        assert identity not in seen, f"{identity} twice"
        seen.add(identity)
        schema = DEPLOY / f"tests/schemas/{each['kind'].lower()}.json"
        if schema.exists():
            jsonschema.validate(each, json.loads(schema.read_text(encoding="utf-8")))
        else:
            kubernetes_validate.validate(each, version, strict=True)


WRONG = {
    "an unknown value": {"replica": 3},
    "an unknown role": {"roles": {"painter": {"enabled": True}}},
    "an unknown key of a role": {"roles": {"sampler": {"replica": 3}}},
    "a number in words": {"roles": {"sampler": {"replicas": "three"}}},
    "no grace": {"roles": {"sampler": {"graceSeconds": 0}}},
    "a store that is none": {"config": {"store": "bucket"}},
    "lane weights of two lanes": {"config": {"laneWeights": "8,4"}},
    "a variable that is none": {"config": {"env": {"echogen-log": "info"}}},
    "a digest that is none": {"image": {"digest": "latest"}},
    "an unknown kind of volume": {"models": {"volume": {"type": "disk"}}},
    "large weights in the image": {"models": {"bundle": "echogen-2b"}},
    "root": {"podSecurityContext": {"runAsNonRoot": False}},
    "privileges": {"securityContext": {"privileged": True}},
    "a peer that is none": {"networkPolicy": {"serversTo": [{"cidr": "10.0.0.0/8"}]}},
    "a Secret without the broker": {"secret": {"create": True, "values": {"ECHOGEN_REDIS_URL": "redis://redis"}}},
}


@pytest.mark.parametrize("given", WRONG.values(), ids=WRONG)
def test_nonsense_is_refused(given):
    with Chart.load(CHART) as chart, pytest.raises(Exception, match="(?i)values|schema|secret.values"):
        chart.render(given, name="echogen", namespace="pictures")


def test_the_schema_knows_every_value():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(load(CHART / "values.yaml"), schema)


@pytest.mark.parametrize("case", CASES)
def test_selectors_select(case):
    labels = [meta["labels"] for _, meta, _ in pods(case)]
    for each in of_kind(case, "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = each["spec"]
        wanted = spec.get("podSelector", spec.get("selector"))
        wanted = wanted.get("matchLabels", wanted if each["kind"] == "Service" else {})
        assert wanted and any(wanted.items() <= given.items() for given in labels), f"{each['metadata']['name']}"
        if each["kind"] == "Deployment":
            assert wanted.items() <= spec["template"]["metadata"]["labels"].items()
    for monitor in of_kind(case, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        found = [each for each in of_kind(case, "Service") if wanted.items() <= each["metadata"]["labels"].items()]
        assert len(found) == len(of_kind(case, "Service"))
        assert monitor["spec"]["endpoints"][0]["port"] == found[0]["spec"]["ports"][0]["name"]
        assert found[0]["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "echogen"


@pytest.mark.parametrize("case", CASES)
def test_pods_have_few_rights(case):
    for owner, _, spec in pods(case):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in containers(spec):
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"], owner["metadata"]["name"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"]
            assert not re.search(r":latest$|^[^:@]+$", container["image"])


@pytest.mark.parametrize("case", CASES)
def test_containers_run_what_the_program_can(case):
    for _, _, spec in pods(case):
        mounts = {volume["name"] for volume in spec["volumes"]}
        for container in containers(spec):
            assert container["args"][0] in program_commands()
            own = {name for name in variables(container) if name.startswith(("ECHOGEN_", "HF_", "OTEL_"))}
            assert own <= program_variables()
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounts
    for config in of_kind(case, "ConfigMap"):
        assert {name for name in config["data"] if name.startswith(("ECHOGEN_", "OTEL_"))} <= program_variables()


@pytest.mark.parametrize("case", CASES)
def test_what_pods_refer_to_is_there(case):
    claims = {each["metadata"]["name"] for each in of_kind(case, "PersistentVolumeClaim")}
    maps = {each["metadata"]["name"] for each in of_kind(case, "ConfigMap")}
    secrets = {each["metadata"]["name"] for each in of_kind(case, "Secret")} | {values(case).get("secret", {}).get("name")}
    accounts = {each["metadata"]["name"] for each in of_kind(case, "ServiceAccount")} | {"default"}
    for _, _, spec in pods(case):
        assert spec["serviceAccountName"] in accounts
        for volume in spec["volumes"]:
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in claims | {None}
            assert volume.get("configMap", {}).get("name") in maps | {None}
        for source in [source for container in containers(spec) for source in container.get("envFrom", [])]:
            assert source.get("configMapRef", {}).get("name") in maps | {None}
            # Without a name, the Secret is one that the installer makes, called like the release.
            assert source.get("secretRef", {}).get("name") in secrets | {None, "echogen"}


@pytest.mark.parametrize("case", CASES)
def test_probes_ask_the_port_that_is_listened_on(case):
    config = next(each for each in of_kind(case, "ConfigMap") if "ECHOGEN_LISTEN" in each["data"])
    assert config["data"]["ECHOGEN_LISTEN"] == f"0.0.0.0:{PORT}"
    for owner in of_kind(case, "Deployment"):
        container = owner["spec"]["template"]["spec"]["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            if name in container:
                assert ports[container[name]["httpGet"]["port"]] == PORT
                assert container[name]["httpGet"]["path"] == ("/livez" if name == "livenessProbe" else "/readyz")


@pytest.mark.parametrize("case", CASES)
def test_roles_are_given_the_time_that_they_need(case):
    given = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["roles"]
    for role in ROLES:
        own = given[role] | values(case).get("roles", {}).get(role, {})
        if not own["enabled"]:
            continue
        spec = pod_of(case, role)
        container = spec["containers"][0]
        grace = int(variables(container)["ECHOGEN_GRACE"])
        assert grace == own["graceSeconds"]
        assert spec["terminationGracePeriodSeconds"] > grace + 10
        probe = container["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] >= own["startupSeconds"]


def test_a_gpu_comes_with_the_image_that_can_use_it():
    full = values("full")["image"]
    for role in ROLES:
        container = pod_of("full", role)["containers"][0]
        gpus = container["resources"]["limits"].get("nvidia.com/gpu")
        assert gpus == (None if role == "dispatcher" else 1)
        assert container["image"].endswith(full["cudaDigest"] if gpus else full["digest"])
    assert pod_of("default", "sampler")["containers"][0]["image"].count("cuda") == 0


def test_weights_are_pulled_and_verified_where_they_are_read():
    job = pod_of("full", "models")
    assert [container["args"][:2] for container in containers(job)] == [["models", "pull"], ["models", "verify"]]
    sampler = pod_of("full", "sampler")
    assert [container["args"] for container in sampler["initContainers"]] == [["models", "verify", "echogen-2b"]]
    own = pod_of("own-bundle", "sampler")
    assert [container["args"][1] for container in own["initContainers"]] == ["pull", "verify"]
    for spec, bundle in ((job, "echogen-2b"), (sampler, "echogen-2b"), (own, "mine")):
        for container in containers(spec):
            assert f"/opt/echogen/bundles/{bundle}" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert "initContainers" not in pod_of("default", "sampler")


def test_roles_are_scaled_by_the_work_that_waits():
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in of_kind("full", "ScaledObject")}
    deployments = {each["metadata"]["name"]: each for each in of_kind("full", "Deployment")}
    assert {f"pictures-{role}" for role in ROLES} == set(scaled)
    topology = (DEPLOY.parent / "crates/ports/src/broker.rs").read_text(encoding="utf-8")
    for name, spec in scaled.items():
        assert "replicas" not in deployments[name]["spec"], "a fixed number would fight with KEDA"
        by_work, *by_length = spec["triggers"]
        check(by_work["metadata"]["query"])
        assert f'stage="{name.removeprefix("pictures-")}"' in by_work["metadata"]["query"]
        for trigger in by_length:
            assert trigger["metadata"]["queueName"].split(".")[1] in topology
    assert len(scaled["pictures-dispatcher"]["triggers"]) == 4
    assert not of_kind("default", "ScaledObject")


def test_rules_and_dashboards_are_the_ones_of_deploy():
    rules = {each["metadata"]["name"]: each["spec"] for each in of_kind("full", "PrometheusRule")}
    for name in ("recording", "alerts"):
        text = (DEPLOY / f"prometheus/rules/{name}.yaml").read_text(encoding="utf-8")
        text = text.replace("docs/operations.md", "https://wiki.example.org/echogen")
        assert rules[f"pictures-{name}"] == yaml.safe_load(text)
    boards = next(each for each in of_kind("full", "ConfigMap") if each["metadata"]["name"] == "pictures-dashboards")
    for path in (DEPLOY / "grafana/dashboards").glob("*.json"):
        assert json.loads(boards["data"][path.name]) == json.loads(path.read_text(encoding="utf-8"))


def test_strangers_pictures_are_fetched_from_the_internet_only():
    policy = next(each for each in of_kind("default", "NetworkPolicy") if each["metadata"]["name"].endswith("-internet"))
    rule = policy["spec"]["egress"][0]
    assert "169.254.0.0/16" in rule["to"][0]["ipBlock"]["except"] and rule["ports"] == [{"port": 443}]
    assert policy["spec"]["podSelector"]["matchExpressions"][0]["values"] == ["dispatcher", "models"]


@pytest.mark.parametrize("case", CASES)
def test_the_notes_say_what_is_left_to_do(case):
    notes = generate.rendered(case)["echogen/templates/NOTES.txt"]
    assert "helm test echogen --namespace pictures" in notes
    assert ("create secret generic" in notes) == (case != "minimal")
